"""Building the library against bare RDKit: `python -m benchmarks.library [FILE]`, a CSV of one column with a header.

The baseline parses the same molecules and computes their InChIKeys and canonical SMILES in a `multiprocessing` pool of
as many processes, forked after importing RDKit, and discards the results. Memory is the peak of any single process, for
the file and for twenty times the file.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from rdkit import Chem

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
from benchmarks.invented import with_isotopes
from benchmarks.precalc_runs import peak_megabytes
from precalc_assets.library.build import build_library
from precalc_assets.storage import open_store

PROCESSES = os.cpu_count() or 1
N_SHARDS = 50
ROUNDS = size(5, 1)
VARIANTS = 20


def main() -> None:
    source = molecule_file()
    rows = len(read_molecules(source))
    begin(f"{rows:,} molecules, {PROCESSES} processes, best of {ROUNDS}")
    built = []
    ours, baseline = best_in_turns(
        lambda: seconds(lambda: built.append(run_ours(source))), lambda: seconds(lambda: run_baseline(source)), ROUNDS
    )
    figure("build", 1e6 * ours / rows, "µs a molecule", baseline=1e6 * baseline / rows, at_least=0.8)
    figure("shards", built[0] / rows, "bytes a molecule", counted=True)
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "many.csv"
        write_molecules(many, with_isotopes(read_molecules(source), VARIANTS))
        for what, path in (("the file", source), (f"{VARIANTS} times the file", many)):
            # A fresh process, since this one has grown by the baseline.
            code = f"from pathlib import Path; from benchmarks.library import run_ours; run_ours(Path({str(path)!r}))"
            peak = peak_megabytes([sys.executable, "-c", code], with_children=True)
            figure(f"memory, {what}", peak, "MB", at_most=400)
    end()


def run_baseline(source: Path) -> None:
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        pool.map(bare, read_molecules(source), chunksize=100)


def bare(smiles: str) -> tuple[str, str]:
    mol = Chem.MolFromSmiles(smiles)
    return Chem.MolToInchiKey(mol), Chem.MolToSmiles(mol)


def run_ours(source: Path) -> int:
    """Build the library; return the bytes of its shards."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder).as_uri())
        manifest = build_library(store, source, n_shards=N_SHARDS, processes=PROCESSES)
    return sum(shard.bytes for shard in manifest.shards.values())


if __name__ == "__main__":
    main()
