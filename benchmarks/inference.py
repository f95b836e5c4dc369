"""The cost of running models: `python -m benchmarks.inference [FILE]`, a CSV of molecules with a header.

Three figures, each of whole commands; times are wall times.

- ersilia: all molecules through `precalc predict` with the ersilia backend, against `ersilia serve`, `ersilia run
  --batch_size 1000` and `ersilia close` over the same molecules. Both use the same model, fetched beforehand, and the
  tests' stand-ins for ersilia-pack, which start a process of the model per request.
- update: `precalc predict` after 1% of the library has changed, against the full run before it, with a model that
  takes 20 ms a molecule. Published models take 3 ms (eos3b5e) to 146 ms (eos4e40).
- memory: the largest resident set of `precalc predict` for a model of 2,048 columns, in 50 shards and in one.
"""

import csv
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.command import end, molecule_file, size
from precalc_assets.inference.ersilia.slot import Slot, taken_slot
from precalc_assets.models import ersilia_program, find_model
from precalc_assets.settings import BUILT_IN_MODELS, load_settings

ROOT = Path(__file__).parents[1]
STAND_INS = ROOT / "tests" / "ersilia"
PRECALC = Path(sys.executable).with_name("precalc")
ERSILIA_MODEL, SLOW_MODEL, COUNTS_MODEL, FLOATS_MODEL = "eos0aaa", "eos0sss", "eos0bbb", "eos0fff"
SECONDS_PER_MOLECULE = 0.02
ROUNDS = size(3, 1)
ERSILIA_TARGET, UPDATE_TARGET, MEMORY_TARGET = 1.0, 0.02, 300

_DOCKERFILE = """\
FROM bentoml/model-server:0.11.0-py311
RUN pip install rdkit==2026.9.1
"""
_SLOW = """\
import csv, sys, time
with open(sys.argv[1]) as file:
    given = [row["smiles"] for row in csv.DictReader(file)]
time.sleep({seconds} * len(given))
with open(sys.argv[2], "w") as file:
    file.write("length\\n" + "".join(f"{{len(smiles) / 7}}\\n" for smiles in given))
"""
_FLOATS = """\
import csv, math, sys
with open(sys.argv[1]) as file:
    given = [row["smiles"] for row in csv.DictReader(file)]
with open(sys.argv[2], "w") as file:
    file.write(",".join(f"f{i}" for i in range(2048)) + "\\n")
    for smiles in given:
        file.write(",".join(repr(math.sin(len(smiles) * i + 0.5)) for i in range(2048)) + "\\n")
"""


def main() -> None:
    source = molecule_file()
    with source.open(newline="") as file:
        _header, *molecules = [row[0] for row in csv.reader(file)]
    print(f"inference  {len(molecules):,} molecules; {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with stood_in():
            missed = compare_with_ersilia(folder, molecules)
        missed += measure_update(folder, molecules)
        missed += measure_memory(folder, molecules)
    end(missed)


class Connected(BaseHTTPRequestHandler):
    """A proxy that answers the CLI's check for a network."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stood_in() -> Iterator[None]:
    """Give the CLI the programs that it needs on the PATH, and a proxy as its network."""
    kept = dict(os.environ)
    with ThreadingHTTPServer(("127.0.0.1", 0), Connected) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        os.environ["PATH"] = f"{STAND_INS / 'bin'}{os.pathsep}{kept['PATH']}"
        os.environ["http_proxy"] = f"http://127.0.0.1:{proxy.server_address[1]}"
        yield
        proxy.shutdown()
    os.environ.clear()
    os.environ.update(kept)


def compare_with_ersilia(folder: Path, molecules: Sequence[str]) -> list[str]:
    """Time both in turns; the best of each counts."""
    models = folder / "models"
    shutil.copytree(BUILT_IN_MODELS / ERSILIA_MODEL, models / ERSILIA_MODEL)
    # Makes the CLI run the model in the system's Python.
    shutil.copy(STAND_INS / "models" / "eos9obe" / "config.json", models / ERSILIA_MODEL)
    (models / ERSILIA_MODEL / "Dockerfile").write_text(_DOCKERFILE)
    library = build(folder, "ersilia", molecules)
    settings = {"PRECALC_MODEL_BACKEND": "ersilia", "PRECALC_MODELS_DIR": str(models)}
    precalc(library, "predict", ERSILIA_MODEL, "--shards", "00", **settings)
    pairs = [
        (time_predict(library, ERSILIA_MODEL, **settings), time_ersilia(folder, models, molecules))
        for _ in range(ROUNDS)
    ]
    ours, baseline = (min(times) for times in zip(*pairs, strict=True))
    ratio = ours / baseline
    print(f"  ersilia   {ERSILIA_MODEL}, best of {ROUNDS}")
    print(f"    ours      {ours:7.2f} s  {len(molecules) / ours:7,.0f} molecules/s  precalc predict, ersilia backend")
    print(f"    baseline  {baseline:7.2f} s  {len(molecules) / baseline:7,.0f} molecules/s  ersilia serve, run, close")
    print(f"    ratio     {ratio:7.2f} times as long (target: at most {ERSILIA_TARGET})", flush=True)
    return [f"ersilia: {ratio:.2f}, the target is {ERSILIA_TARGET}"] if ratio > ERSILIA_TARGET else []


def time_ersilia(folder: Path, models: Path, molecules: Sequence[str]) -> float:
    """Time the CLI alone, in the folder in which our backend fetched the model."""
    given, printed = folder / "given.csv", folder / "printed.csv"
    write_molecules(given, molecules)
    found = find_model(ERSILIA_MODEL, [models])
    cache_dir = load_settings().cache_dir
    program = ersilia_program(cache_dir)
    with taken_slot(ERSILIA_MODEL, cache_dir) as slot:
        variables = Slot._variables(slot, found)
        started = time.perf_counter()
        for arguments in (
            ["serve", ERSILIA_MODEL],
            ["run", "-i", str(given), "-o", str(printed), "--batch_size", "1000"],
            ["close"],
        ):
            subprocess.run([str(program), *arguments], env=variables, cwd=folder, check=True, capture_output=True)
        seconds = time.perf_counter() - started
    with printed.open(newline="") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    if rows != len(molecules):
        raise SystemExit(f"ersilia run wrote {rows} rows for {len(molecules)} molecules")
    return seconds


def measure_update(folder: Path, molecules: Sequence[str]) -> list[str]:
    """Time a full run, change 1% of the library, and time the next run."""
    models = folder / "models"
    write_model(models, SLOW_MODEL, ["length"], _SLOW.format(seconds=SECONDS_PER_MOLECULE))
    n_new = max(1, len(molecules) // 100)
    library = build(folder, "update", molecules[n_new:])
    settings = {"PRECALC_MODELS_DIR": str(models)}
    precalc(library, "predict", SLOW_MODEL, "--sample", "1", **settings)
    whole = time_call(library, "predict", SLOW_MODEL, **settings)
    build(folder, "update", [*molecules[n_new:-n_new], *molecules[:n_new]])
    update = time_call(library, "predict", SLOW_MODEL, **settings)
    ratio = update / whole
    print(f"  update    {n_new} of {len(molecules) - n_new:,} molecules are new, {n_new} are gone")
    print(f"    ours      {update:7.2f} s  precalc predict after the change")
    print(f"    baseline  {whole:7.2f} s  precalc predict before it")
    print(f"    ratio     {ratio:7.4f} of the whole run (target: at most {UPDATE_TARGET})", flush=True)
    return [f"update: {ratio:.4f}, the target is {UPDATE_TARGET}"] if ratio > UPDATE_TARGET else []


def measure_memory(folder: Path, molecules: Sequence[str]) -> list[str]:
    """Measure the resident set of the command's process, without the model's."""
    models = folder / "models"
    write_model(models, FLOATS_MODEL, [f"f{i}" for i in range(2048)], _FLOATS)
    print("  memory    2,048 columns")
    missed = []
    for model, kind in ((COUNTS_MODEL, "counts"), (FLOATS_MODEL, "floats")):
        for n_shards in (50, 1):
            library = build(folder, f"memory-{n_shards}", molecules, n_shards)
            peak = peak_of(library, "predict", model, PRECALC_N_SHARDS=str(n_shards), PRECALC_MODELS_DIR=str(models))
            print(f"    {kind} in {n_shards:2} shards  {peak:4.0f} MB (target: under {MEMORY_TARGET})", flush=True)
            if peak >= MEMORY_TARGET:
                missed.append(f"memory: {peak:.0f} MB for {kind} in {n_shards} shards")
            shutil.rmtree(library / "raw")
    return missed


def write_model(models: Path, model: str, columns: Sequence[str], main: str) -> None:
    """Write a model in the hub's layout that needs only the standard library."""
    framework = models / model / "model" / "framework"
    files = {
        models / model / "metadata.yml": f"Identifier: {model}\nTitle: A model for a benchmark\nRelease: v1\n",
        models / model / "install.yml": 'python: "3.11"\ncommands: []\n',
        framework / "run.sh": 'python "$1/code/main.py" "$2" "$3"\n',
        framework / "code" / "main.py": main,
        framework / "columns" / "run_columns.csv": "name,type,direction,description\n"
        + "".join(f"{name},float,,A column of a benchmark\n" for name in columns),
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def build(folder: Path, name: str, molecules: Sequence[str], n_shards: int = 50) -> Path:
    """Build a library of shuffled molecules in a store; return the store's folder."""
    store = folder / name
    given = folder / f"{name}.csv"
    write_molecules(given, random.Random(7).sample(molecules, len(molecules)))
    store.mkdir(exist_ok=True)
    precalc(store, "library", "build", str(given), PRECALC_N_SHARDS=str(n_shards))
    return store


def write_molecules(path: Path, molecules: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("smiles",), *((text,) for text in molecules)])


def time_predict(library: Path, model: str, **settings: str) -> float:
    shutil.rmtree(library / "raw", ignore_errors=True)
    return time_call(library, "predict", model, **settings)


def time_call(store: Path, *arguments: str, **settings: str) -> float:
    started = time.perf_counter()
    precalc(store, *arguments, **settings)
    return time.perf_counter() - started


def precalc(store: Path, *arguments: str, **settings: str) -> None:
    """Run the command on its own store; of the caller's settings it uses only the models' environments."""
    done = subprocess.run(
        [str(PRECALC), *arguments],
        env=variables(store, settings),
        cwd=store,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"precalc {' '.join(arguments)} failed: {done.stderr.strip()}")


def peak_of(store: Path, *arguments: str, **settings: str) -> float:
    """Return the peak resident set of a command in MB, without its children, as the kernel records it."""
    process = subprocess.Popen(
        [str(PRECALC), *arguments], env=variables(store, settings), cwd=store, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        with suppress(IndexError, OSError):
            peak = int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0])
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"precalc {' '.join(arguments)} failed")
    return peak * 1024 / 1e6


def variables(store: Path, settings: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRECALC_")}
    return {
        **kept,
        "PRECALC_STORE_URL": store.as_uri(),
        "PRECALC_TABLES_URL": f"sqlite:///{store}/tables.db",
        "PRECALC_CACHE_DIR": str(load_settings().cache_dir),
        **settings,
    }


if __name__ == "__main__":
    main()
