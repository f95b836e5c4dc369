"""Kills commands at random instants, runs them again, and compares what they leave with an undisturbed run.

    PYTHONPATH=tests .venv/bin/python tests/chaos/kill_matrix.py --seconds 600 --seed 1

A trial goes through all stages, from building the library to downloading. It kills each stage's command up to three
times, the command's process alone or its whole group, then lets it end, which must succeed. Afterwards the objects of
the store, the rows of the tables and the readers' files must be those of the undisturbed run, and nothing may be left
over: no temporary file, no process. With `--aws`, store and tables are in an emulator behind a proxy that cuts
connections meanwhile.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import obstore
import psutil
import typer
from aws.cutting_proxy import CuttingProxy
from aws_emulator import run_ministack, tables_url
from conftest import MODEL, MOLECULES, World
from obstore.store import ObjectStore
from warm_commands import start_command

from precalc_assets.library.library_manifest import read_manifest, read_shard
from precalc_assets.storage import open_store
from precalc_assets.tables import LIBRARY, KeyValueStore, TableReader, open_tables

PROJECT = Path(__file__).parents[2]
OTHER = "eos9abd"
MODELS = (MODEL, OTHER)
SLOW_ANSWER = """time.sleep(0.01)\nreturn f'{len(smiles) / 3!r},{len(smiles)},"{smiles}"'"""
LIBRARIES = {"first.smi": MOLECULES[:50], "second.smi": MOLECULES[8:]}
READ_ROWS = 100_000
MOST_KILLS = 3
KILLED = ("process", "group")
"""What is killed: the command's process alone, or all that it started in its group."""

SECONDS_PER_COMMAND = 180
VARYING = {
    *("updated", "finished_at", "built_at", "description"),
    *("seconds", "seconds_before", "speed", "run", "peak_memory"),
}
"""The fields of JSON objects that say when something was done, how long it took, or what it took, also in words."""

STAGES: dict[str, tuple[str, ...]] = {
    "library build": ("library", "build", "first.smi"),
    "predict": ("predict", MODEL),
    "load": ("load", MODEL),
    "library build, another": ("library", "build", "second.smi"),
    "predict, changed": ("predict", MODEL),
    "load, changed": ("load", MODEL),
    "verify": ("verify", MODEL, "--repair"),
    "run": ("run", OTHER),
    "get": ("get", MODEL, "-i", "keys.csv", "-o", "answers.csv"),
    "get, two models": ("get", *MODELS, "-i", "keys.csv", "-o", "answers"),
    "download": ("download", MODEL, "-o", "downloaded"),
}
"""Each stage's command, in the order in which a trial runs them."""


class Trial(World):
    """A world whose temporary files are its own, and whose store and tables may be in an emulator."""

    def __init__(self, root: Path, cache: Path, aws: dict[str, str]) -> None:
        shutil.rmtree(root, ignore_errors=True)
        super().__init__(root, cache)
        self.temporary = root / "tmp"
        self.temporary.mkdir()
        self.aws = aws
        for model in MODELS:
            self.write_model(model=model, answer=SLOW_ANSWER)
        for name, molecules in LIBRARIES.items():
            (root / name).write_text("\n".join(molecules) + "\n")
        (root / "dagster_home").mkdir()
        shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", root / "dagster_home")
        if aws:
            self.store = open_store(aws["PRECALC_STORE_URL"])

    @property
    def environment(self) -> dict[str, str]:
        own = {"TMPDIR": str(self.temporary), "DAGSTER_HOME": str(self.root / "dagster_home")}
        return {**super().environment, **own, "PRECALC_PROCESSES": "2", **self.aws}

    @property
    def tables(self) -> KeyValueStore:
        return open_tables(self.environment["PRECALC_TABLES_URL"])

    @property
    def output(self) -> Path:
        return self.root / "output.txt"

    def start(self, stage: str) -> BaseProcess:
        """Start a stage's command, which writes to `output`."""
        self.output.write_text("")
        return start_command(
            STAGES[stage], variables=self.environment, folder=self.root, output=self.output, errors=self.output
        )

    def write_keys(self) -> None:
        """Write the readers' file: the library's keys, again and again."""
        keys = [key for shard in self.keys().values() for key in shard]
        rows = (keys * (READ_ROWS // len(keys) + 1))[:READ_ROWS]
        (self.root / "keys.csv").write_text("\n".join(["inchikey", *rows]) + "\n")

    def keys(self) -> dict[str, list[str]]:
        manifest = read_manifest(self.store)
        return {shard: read_shard(self.store, manifest, shard)["inchikey"].to_pylist() for shard in manifest.shards}

    def left(self) -> dict[str, Any]:
        """Return all that the commands made, by name, without times."""
        found: dict[str, Any] = {name: without_times(name, content) for name, content in objects(self.store)}
        for table in (LIBRARY, *MODELS):
            if self.tables.has_table(table):
                reader = TableReader(self.tables, table)
                directories = reader.directories()
                for shard, keys in self.keys().items():
                    if shard in directories:
                        directory = directories[shard]
                        found[f"{table}/{shard}"] = (directory.rows, directory.n_pages, repr(reader.get(keys)))
        for path in [self.root / "answers.csv", *self.root.glob("answers/*"), *self.root.glob("downloaded/*")]:
            if path.is_file():
                name, content = str(path.relative_to(self.root)), path.read_bytes()
                # Each trial on AWS has its own store and tables.
                for url in ("PRECALC_STORE_URL", "PRECALC_TABLES_URL"):
                    content = content.replace(self.environment[url].encode(), url.encode())
                found[name] = without_times(name, content)
        return found

    def remove_leftovers(self) -> list[str]:
        """Remove the files and kill the processes that nobody needs any more; return them."""
        known = {name for name, _ in objects(self.store)}
        stored = self.root / "store"
        files = [path for path in self.temporary.rglob("*") if path.is_file()]
        if not self.aws:
            files += [
                path for path in stored.rglob("*") if path.is_file() and str(path.relative_to(stored)) not in known
            ]
        files += [path for path in self.root.glob("*answers*") if path.name not in ("answers", "answers.csv")]
        files += [path for path in self.root.glob("downloaded/**/.*") if path.is_file()]
        alive = [process for process in psutil.process_iter() if self.started(process)]
        _, alive = psutil.wait_procs(alive, timeout=5)
        found = [str(path.relative_to(self.root)) for path in files] + [f"process {process}" for process in alive]
        for path in files:
            path.unlink()
        for process in alive:
            process.kill()
        return found

    def started(self, process: psutil.Process) -> bool:
        """Return whether a command of this world started this process."""
        try:
            return process.environ().get("TMPDIR") == str(self.temporary) or process.cwd() == str(self.root)
        except psutil.Error:
            return False


def objects(store: ObjectStore) -> Iterator[tuple[str, bytes]]:
    for chunk in obstore.list(store):
        for entry in chunk:
            yield entry["path"], bytes(obstore.get(store, entry["path"]).bytes())


def difference(name: str, left: dict[str, Any], whole: dict[str, Any]) -> str:
    if name not in left:
        return "is missing"
    return "has another content than in the undisturbed run" if name in whole else "is not in the undisturbed run"


def without_times(name: str, content: bytes) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items() if key not in VARYING}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(json.loads(content)) if name.endswith(".json") else content


@dataclass
class Matrix:
    """One worker's trials, one after the other in one folder, since models' releases depend on their paths."""

    folder: Path
    seed: int
    aws: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self.seconds: dict[str, float] = {}
        self.undisturbed: dict[str, dict[str, Any]] = {}

    def run(self, seconds: float) -> None:
        """Run the stages undisturbed, then begin trials for so many seconds."""
        trial = self.new_trial(0)
        for model in MODELS:  # The environments stay for all trials.
            trial.precalc("models", "install", model)
        for stage in STAGES:
            started = time.monotonic()
            if not self.finish(trial, stage):
                return
            self.seconds[stage] = time.monotonic() - started
            self.undisturbed[stage] = trial.left()
        number, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline:
            number += 1
            self.disturb(self.new_trial(number), deadline)
            print(
                f"seed {self.seed}, trial {number}: {self.counts.total()} attempts, {len(self.problems)} problems",
                flush=True,
            )

    def new_trial(self, number: int) -> Trial:
        urls = {}
        if self.aws:
            # Workers share the bucket.
            store = f"{self.aws['PRECALC_STORE_URL']}/{self.seed}-{number}"
            urls = {"PRECALC_STORE_URL": store, "PRECALC_TABLES_URL": tables_url()}
        return Trial(self.folder / "world", self.folder / "cache", {**self.aws, **urls})

    def disturb(self, trial: Trial, deadline: float) -> None:
        for stage in STAGES:
            for _ in range(self.chance.randint(1, MOST_KILLS)):
                self.kill(trial, stage)
            if not self.finish(trial, stage):
                return
            self.problems += [f"{stage}: left over: {name}" for name in trial.remove_leftovers()]
            left, whole = trial.left(), self.undisturbed[stage]
            names = sorted(name for name in left.keys() | whole.keys() if left.get(name) != whole.get(name))
            self.problems += [f"{stage}: {name} {difference(name, left, whole)}" for name in names]
            if names or time.monotonic() > deadline:
                return

    def kill(self, trial: Trial, stage: str) -> None:
        """Start a stage's command and kill it, or its whole process group, at a random instant."""
        process = trial.start(stage)
        process.join(self.chance.uniform(0, self.seconds[stage]))
        what = self.chance.choice(KILLED)
        if process.exitcode is None:
            with suppress(ProcessLookupError):  # The group does not exist in a command's first instant.
                (os.killpg if what == "group" else os.kill)(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
        if self.aws:
            # What the killed command has sent could reach the store after the next one has listed it.
            time.sleep(0.5)
        self.counts[stage, what if process.exitcode == -signal.SIGKILL else "ended before"] += 1

    def finish(self, trial: Trial, stage: str) -> bool:
        """Let a stage's command end; return whether it succeeded."""
        if stage == "get":
            trial.write_keys()
        process = trial.start(stage)
        process.join(SECONDS_PER_COMMAND)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.exitcode != 0:
            self.problems.append(f"{stage}: exit code {process.exitcode}: {trial.output.read_text()[-2_000:]}")
        return process.exitcode == 0


def run_matrix(folder: Path, seed: int, seconds: float, aws: dict[str, str], endpoint: str) -> Matrix:
    if aws:  # This process reads what the commands left without the proxy.
        os.environ.update({**aws, "AWS_ENDPOINT_URL": endpoint})
    folder.mkdir()
    matrix = Matrix(folder, seed, aws)
    matrix.run(seconds)
    return matrix


@contextmanager
def disturbed_emulator(folder: Path, chance: random.Random) -> Iterator[tuple[dict[str, str], str]]:
    """Run an emulator behind a proxy that cuts a connection now and then; yield variables, and the emulator's URL."""
    ended = threading.Event()
    folder.mkdir()
    with run_ministack(folder) as emulator, CuttingProxy(emulator.endpoint) as proxy:

        def disturb() -> None:
            while not ended.wait(chance.uniform(0, 1)):
                proxy.cut(requests=chance.randint(0, 1), answers=chance.randint(0, 1))
                ended.wait(0.1)
                proxy.cut()  # What is not cut now is spared, or every attempt of the only request would be cut.

        thread = threading.Thread(target=disturb)
        thread.start()
        url = {"PRECALC_STORE_URL": f"s3://{emulator.make_bucket()}", "AWS_ENDPOINT_URL": proxy.endpoint}
        try:
            yield {**emulator.environment, **url}, emulator.endpoint
        finally:
            ended.set()
            thread.join()
            print(f"{proxy.cuts} connections cut")


def main(
    seconds: Annotated[float, typer.Option(help="How long to begin new trials.")] = 600,
    seed: Annotated[int | None, typer.Option(help="Seed of the instants (default: a new one, printed).")] = None,
    processes: Annotated[int, typer.Option(help="Trials at the same time.")] = 2,
    on_aws: Annotated[bool, typer.Option("--aws", help="On an emulator of S3 and DynamoDB.")] = False,
) -> None:
    """Kill commands at random instants and compare what they leave with an undisturbed run; exit 1 if it differs."""
    seed = random.randrange(1_000_000) if seed is None else seed
    print(f"seed {seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        disturbed = disturbed_emulator(folder / "aws", random.Random(seed))
        aws, endpoint = stack.enter_context(disturbed) if on_aws else ({}, "")
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(processes, mp_context=spawn))
        waiting = [pool.submit(run_matrix, folder / f"{n}", seed + n, seconds, aws, endpoint) for n in range(processes)]
        matrices = [each.result() for each in waiting]
    counts = sum((matrix.counts for matrix in matrices), Counter[tuple[str, str]]())
    columns = (*KILLED, "ended before")
    print(f"{'':28}{''.join(f'{column:>14}' for column in columns)}")
    for stage in STAGES:
        print(f"{stage:28}{''.join(f'{counts[stage, column]:14}' for column in columns)}")
    print(f"{sum(counts[stage, what] for stage in STAGES for what in KILLED)} kills")
    problems = [problem for matrix in matrices for problem in matrix.problems]
    print("\n".join(sorted(problems)) or "nothing differs, nothing is left over")
    raise typer.Exit(bool(problems))


if __name__ == "__main__":
    typer.run(main)
