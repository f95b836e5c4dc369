"""What `precalc predict` adds to a model's own time: `python -m benchmarks.overhead [FILE]`, a CSV with a header.

Ours is the wall time of the whole command in a fresh store with the library: start and imports, reading shards, calling
the model, writing parts and manifests. The baseline is one `bash run.sh` over the same molecules in one CSV, in the
model's environment, which an untimed sample makes beforehand. Both are timed in turns, and the best of each counts.
"""

import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command import end, molecule_file, size
from precalc_assets.library import LibraryManifest, read_manifest, read_sample
from precalc_assets.models import find_model, model_environment
from precalc_assets.settings import BUILT_IN_MODELS, load_settings
from precalc_assets.storage import open_store

PRECALC = Path(sys.executable).with_name("precalc")
MODELS = ("eos0aaa", "eos0bbb")
ROUNDS = size(3, 1)
TARGET = 1.25


def main() -> None:
    source = molecule_file()
    missed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        precalc(folder / "library", "library", "build", str(source))
        library = read_manifest(open_store((folder / "library").as_uri()))
        molecules = write_molecules(folder, library)
        print(
            f"overhead  {library.molecules:,} molecules in {library.n_shards} shards, best of {ROUNDS}; "
            f"{os.cpu_count()} cores, Python {platform.python_version()}"
        )
        for model in MODELS:
            precalc(folder / "library", "predict", model, "--sample", "10")
            pairs = [(run_ours(folder, model), run_baseline(folder, model, molecules)) for _ in range(ROUNDS)]
            ours, baseline = (min(times) for times in zip(*pairs, strict=True))
            ratio = ours / baseline
            if ratio >= TARGET:
                missed.append(f"{model}: {ratio:.2f}, the target is under {TARGET}")
            print(f"  {model}")
            print(f"    ours      {ours:6.2f} s  {library.molecules / ours:8,.0f} molecules/s  precalc predict")
            print(f"    baseline  {baseline:6.2f} s  {library.molecules / baseline:8,.0f} molecules/s  bare run.sh")
            print(f"    ratio     {ratio:6.2f} times as long (target: under {TARGET})", flush=True)
    end(missed)


def run_ours(folder: Path, model: str) -> float:
    fresh = folder / "fresh"
    shutil.copytree(folder / "library", fresh)
    started = time.perf_counter()
    precalc(fresh, "predict", model)
    seconds = time.perf_counter() - started
    shutil.rmtree(fresh)
    return seconds


def run_baseline(folder: Path, model: str, molecules: Path) -> float:
    settings = load_settings()
    found = find_model(model, (BUILT_IN_MODELS,))
    command = ["bash", str(found.framework / "run.sh"), str(found.framework), str(molecules), str(folder / "out.csv")]
    environment = model_environment(found, settings.cache_dir).variables
    started = time.perf_counter()
    subprocess.run(command, env=environment, cwd=folder, check=True)
    return time.perf_counter() - started


def precalc(store: Path, *arguments: str) -> None:
    """Run the command on its own store; of the caller's settings it uses only the models' environments."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PRECALC_")} | {
        "PRECALC_STORE_URL": store.as_uri(),
        "PRECALC_TABLES_URL": f"sqlite:///{store}/tables.db",
        "PRECALC_CACHE_DIR": str(load_settings().cache_dir),
    }
    done = subprocess.run(
        [str(PRECALC), *arguments], env=variables, cwd=store.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"precalc {' '.join(arguments)} failed: {done.stderr.strip()}")


def write_molecules(folder: Path, library: LibraryManifest) -> Path:
    """Write the library's molecules, in the order of its shards, as a model's input CSV."""
    table = read_sample(open_store((folder / "library").as_uri()), library, library.molecules)
    path = folder / "molecules.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("smiles",), *zip(table["smiles"].to_pylist(), strict=True)])
    return path


if __name__ == "__main__":
    main()
