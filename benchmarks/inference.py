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
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.command import (
    begin,
    best_in_turns,
    end,
    figure,
    molecule_file,
    read_molecules,
    seconds,
    size,
    write_molecules,
)
from benchmarks.precalc_runs import PRECALC, peak_megabytes, precalc, variables
from benchmarks.servers import YesToAll, running
from precalc_assets.inference.ersilia.slot import Slot, taken_slot
from precalc_assets.models.environment import ersilia_program
from precalc_assets.models.folder import find_model
from precalc_assets.settings import BUILT_IN_MODELS, load_settings

ROOT = Path(__file__).parents[1]
STAND_INS = ROOT / "tests" / "ersilia"
ERSILIA_MODEL, SLOW_MODEL, COUNTS_MODEL, FLOATS_MODEL = "eos0aaa", "eos0sss", "eos0bbb", "eos0fff"
SECONDS_PER_MOLECULE = 0.02
ROUNDS = size(3, 1)

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
    molecules = read_molecules(molecule_file())
    begin(f"{len(molecules):,} molecules")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with stood_in():
            compare_with_ersilia(folder, molecules)
        measure_update(folder, molecules)
        measure_memory(folder, molecules)
    end()


@contextmanager
def stood_in() -> Iterator[None]:
    """Give the CLI the programs that it needs on the PATH, and a proxy as its network."""
    kept = dict(os.environ)
    os.environ["PATH"] = f"{STAND_INS / 'bin'}{os.pathsep}{kept['PATH']}"
    with running(YesToAll) as os.environ["http_proxy"]:
        yield
    os.environ.clear()
    os.environ.update(kept)


def compare_with_ersilia(folder: Path, molecules: Sequence[str]) -> None:
    models = folder / "models"
    shutil.copytree(BUILT_IN_MODELS / ERSILIA_MODEL, models / ERSILIA_MODEL)
    # Makes the CLI run the model in the system's Python.
    shutil.copy(STAND_INS / "models" / "eos9obe" / "config.json", models / ERSILIA_MODEL)
    (models / ERSILIA_MODEL / "Dockerfile").write_text(_DOCKERFILE)
    library = build(folder, "ersilia", molecules)
    settings = {"PRECALC_MODEL_BACKEND": "ersilia", "PRECALC_MODELS_DIR": str(models)}
    precalc(library, "predict", ERSILIA_MODEL, "--shards", "00", **settings)
    ours, baseline = best_in_turns(
        lambda: time_predict(library, ERSILIA_MODEL, **settings),
        lambda: time_ersilia(folder, models, molecules),
        ROUNDS,
    )
    figure(f"{ERSILIA_MODEL} by ersilia", ours, "s", baseline=baseline, at_least=1)


def time_ersilia(folder: Path, models: Path, molecules: Sequence[str]) -> float:
    """Time the CLI alone, in the folder in which our backend fetched the model."""
    given, printed = folder / "given.csv", folder / "printed.csv"
    write_molecules(given, molecules)
    found = find_model(ERSILIA_MODEL, [models])
    cache_dir = load_settings().cache_dir
    program = ersilia_program(cache_dir)
    with taken_slot(ERSILIA_MODEL, cache_dir) as slot:
        environment = Slot._variables(slot, found)

        def ersilia(*arguments: str) -> None:
            subprocess.run([str(program), *arguments], env=environment, cwd=folder, check=True, capture_output=True)

        wall = seconds(lambda: ersilia("serve", ERSILIA_MODEL))
        wall += seconds(lambda: ersilia("run", "-i", str(given), "-o", str(printed), "--batch_size", "1000"))
        wall += seconds(lambda: ersilia("close"))
    with printed.open(newline="") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    if rows != len(molecules):
        raise SystemExit(f"ersilia run wrote {rows} rows for {len(molecules)} molecules")
    return wall


def measure_update(folder: Path, molecules: Sequence[str]) -> None:
    """Time a full run, change 1% of the library, and time the next run."""
    models = folder / "models"
    write_model(models, SLOW_MODEL, ["length"], _SLOW.format(seconds=SECONDS_PER_MOLECULE))
    n_new = max(1, len(molecules) // 100)
    library = build(folder, "update", molecules[n_new:])
    settings = {"PRECALC_MODELS_DIR": str(models)}
    precalc(library, "predict", SLOW_MODEL, "--sample", "1", **settings)
    whole = precalc(library, "predict", SLOW_MODEL, **settings)
    build(folder, "update", [*molecules[n_new:-n_new], *molecules[:n_new]])
    update = precalc(library, "predict", SLOW_MODEL, **settings)
    figure("update of 1%", update, "s", baseline=whole, at_least=50)


def measure_memory(folder: Path, molecules: Sequence[str]) -> None:
    """Measure the command's process, without the model's."""
    models = folder / "models"
    write_model(models, FLOATS_MODEL, [f"f{i}" for i in range(2048)], _FLOATS)
    for model, kind in ((COUNTS_MODEL, "counts"), (FLOATS_MODEL, "doubles")):
        for n_shards in (50, 1):
            library = build(folder, f"memory-{n_shards}", molecules, n_shards)
            settings = {"PRECALC_N_SHARDS": str(n_shards), "PRECALC_MODELS_DIR": str(models)}
            peak = peak_megabytes([PRECALC, "predict", model], variables(library, settings))
            figure(f"memory, 2,048 {kind}, {n_shards} shard{'s' * (n_shards > 1)}", peak, "MB", at_most=300)
            shutil.rmtree(library / "raw")


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


def time_predict(library: Path, model: str, **settings: str) -> float:
    shutil.rmtree(library / "raw", ignore_errors=True)
    return precalc(library, "predict", model, **settings)


if __name__ == "__main__":
    main()
