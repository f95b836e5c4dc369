"""The platform at its full size: `python -m benchmarks.full_size [FILE]`, a CSV of molecules with a header.

The library has two million molecules: each of the file's, with each of 200 isotopes of helium beside it, so that all
have keys of their own and cost about what the original does. It is built, then both built-in models run over as many of
its 50 shards as fit in 25 minutes, whole shards only, at least one. Each stage runs in a process of its own, by the
function that the command and the assets call. Its figures are the wall time, the CPU of that process and of those that
it started (RDKit's workers, or the model), the most memory of that process and of all together, the bytes that it
wrote, and DynamoDB's write units.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmarks.command import begin, end, figure, molecule_file, read_molecules, size, write_molecules
from benchmarks.invented import with_isotopes
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.models.folder import find_model
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.loading import load_shards
from precalc_assets.predictions.validate import validate_shards
from precalc_assets.settings import BUILT_IN_MODELS, load_settings
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables

MODELS = {"eos0aaa": "11 descriptors", "eos0bbb": "2,048 counts"}
N_ISOTOPES = size(200, 2)
N_SHARDS = size(50, 2)
SECONDS = size(1_500, 0)
"""How long to begin new shards, for both models together."""


@dataclass
class Cost:
    """What a stage took, over all the shards that it ran."""

    rows: int = 0
    seconds: float = 0
    own_cpu: float = 0
    other_cpu: float = 0
    own_peak: float = 0
    peak: float = 0
    written: int = 0
    write_units: float = 0

    def add(self, other: "Cost") -> None:
        for name in ("rows", "seconds", "own_cpu", "other_cpu", "written", "write_units"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.own_peak, self.peak = max(self.own_peak, other.own_peak), max(self.peak, other.peak)

    def state(self, stage: str, *, counted: bool = True) -> None:
        figure(stage, 1e6 * self.seconds / self.rows, "µs a molecule")
        figure(f"{stage}, own", 1e6 * self.own_cpu / self.rows, "µs CPU a molecule")
        if self.other_cpu:
            figure(f"{stage}, others", 1e6 * self.other_cpu / self.rows, "µs CPU a molecule")
        figure(f"{stage}, memory, own", self.own_peak / 1e6, "MB")
        figure(f"{stage}, memory, all", self.peak / 1e6, "MB")
        figure(f"{stage}, written", self.written / self.rows, "bytes a molecule", counted=counted)
        if self.write_units:
            figure(f"{stage}, units", self.write_units / self.rows, "units a molecule", counted=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        molecules = read_molecules(molecule_file())
        write_molecules(folder / "molecules.csv", with_isotopes(molecules, N_ISOTOPES))
        begin(f"{len(molecules) * N_ISOTOPES:,} molecules, {N_SHARDS} shards")
        run(library, folder).state("library")
        for model in MODELS:
            run_model(folder, model, time.monotonic() + SECONDS / len(MODELS))
    end()


def run_model(folder: Path, model: str, deadline: float) -> None:
    costs = {stage: Cost() for stage in (predict, validate, load)}
    for shard in shard_keys(N_SHARDS):
        for stage, cost in costs.items():
            cost.add(run(stage, folder, model, shard))
        if time.monotonic() > deadline:
            break
    for stage, cost in costs.items():
        # gzip, which compresses raw predictions, does not write the same bytes on all machines.
        cost.state(f"{stage.__name__} {MODELS[model]}", counted=stage is not predict)


def library(folder: Path) -> Cost:
    manifest = build_library(
        open_store(folder.as_uri()), folder / "molecules.csv", n_shards=N_SHARDS, processes=os.cpu_count() or 1
    )
    return Cost(rows=manifest.molecules, written=sum(shard.bytes for shard in manifest.shards.values()))


def predict(folder: Path, model: str, shard: str) -> Cost:
    store = open_store(folder.as_uri())
    settings = load_settings().model_copy(update={"max_failure_rate": 0.5})
    backend = FrameworkBackend(find_model(model, [BUILT_IN_MODELS]), settings)
    return the_cost(predict_shards(store, read_manifest(store), model, backend, [shard], settings=settings))


def validate(folder: Path, model: str, shard: str) -> Cost:
    store = open_store(folder.as_uri())
    return the_cost(validate_shards(store, read_manifest(store), model, [shard], max_failure_rate=0.5))


def load(folder: Path, model: str, shard: str) -> Cost:
    tables = open_tables(f"sqlite:///{folder}/tables.db")
    return the_cost(load_shards(open_store(folder.as_uri()), tables, model, [shard]))


def the_cost(outcomes: Iterable[ShardOutcome]) -> Cost:
    [outcome] = outcomes
    if outcome.failure:
        raise SystemExit(f"shard {outcome.shard} failed: {outcome.failure}")
    facts = outcome.facts
    return Cost(rows=facts["rows"], written=facts["bytes"], write_units=facts.get("write_units", 0))


def run(stage: Callable[..., Cost], *arguments: object) -> Cost:
    """Run a stage in a process of its own, and measure it."""
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=measure, args=(sending, stage, *arguments))
    process.start()
    peak = 0
    while process.exitcode is None and not receiving.poll(0.05):
        peak = max(peak, resident(process.pid))
    process.join()
    if process.exitcode:
        raise SystemExit(f"{stage.__name__} {arguments[1:]} failed")
    cost: Cost = receiving.recv()
    cost.peak = max(peak, cost.own_peak)
    return cost


def measure(sending: Connection, stage: Callable[..., Cost], *arguments: object) -> None:
    started, before = time.perf_counter(), time.process_time()
    cost = stage(*arguments)
    cost.seconds, cost.own_cpu = time.perf_counter() - started, time.process_time() - before
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost.other_cpu = others.ru_utime + others.ru_stime
    cost.own_peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sending.send(cost)


def resident(pid: int) -> int:
    """Return the bytes of memory of a process and of those that it started."""
    try:
        process = psutil.Process(pid)
        return sum(member.memory_info().rss for member in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
