"""What `precalc predict` adds to a model's own time: `python -m benchmarks.overhead [FILE]`, a CSV with a header.

Ours is the wall time of the whole command in a fresh store with the library: start and imports, reading shards, calling
the model, writing parts and manifests. The baseline is one `bash run.sh` over the same molecules in one CSV, in the
model's environment, which an untimed sample makes beforehand.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.command import begin, best_in_turns, end, figure, molecule_file, seconds, size, write_molecules
from benchmarks.precalc_runs import precalc
from precalc_assets.library.library_manifest import read_manifest, read_sample
from precalc_assets.models.environment import model_environment
from precalc_assets.models.folder import find_model
from precalc_assets.settings import BUILT_IN_MODELS, load_settings
from precalc_assets.storage import open_store

MODELS = {"eos0aaa": "11 descriptors", "eos0bbb": "2,048 counts"}
ROUNDS = size(3, 1)


def main() -> None:
    source = molecule_file()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        precalc(folder / "library", "library", "build", str(source))
        store = open_store((folder / "library").as_uri())
        library = read_manifest(store)
        molecules = folder / "molecules.csv"
        write_molecules(molecules, read_sample(store, library, library.molecules)["smiles"].to_pylist())
        begin(f"{library.molecules:,} molecules in {library.n_shards} shards, best of {ROUNDS}")
        for model, columns in MODELS.items():
            precalc(folder / "library", "predict", model, "--sample", "10")
            ours, baseline = best_in_turns(
                lambda model=model: run_ours(folder, model),
                lambda model=model: run_baseline(folder, model, molecules),
                ROUNDS,
            )
            figure(f"{model}, {columns}", ours, "s", baseline=baseline, at_least=0.8)
    end()


def run_ours(folder: Path, model: str) -> float:
    fresh = folder / "fresh"
    shutil.copytree(folder / "library", fresh)
    wall = precalc(fresh, "predict", model)
    shutil.rmtree(fresh)
    return wall


def run_baseline(folder: Path, model: str, molecules: Path) -> float:
    found = find_model(model, (BUILT_IN_MODELS,))
    command = ["bash", str(found.framework / "run.sh"), str(found.framework), str(molecules), str(folder / "out.csv")]
    environment = model_environment(found, load_settings().cache_dir).variables
    return seconds(lambda: subprocess.run(command, env=environment, cwd=folder, check=True))


if __name__ == "__main__":
    main()
