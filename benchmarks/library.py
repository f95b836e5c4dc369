"""Building the library against bare RDKit: `python -m benchmarks.library [FILE]`, a CSV of one column with a header.

The baseline parses the same molecules and computes their InChIKeys in a `multiprocessing` pool of as many processes,
forked after importing RDKit, and discards the results. Both are timed in turns, and the best of each counts. Memory is
the peak of any single process, sampled from outside, for the file and for twenty times the file.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rdkit import Chem

from benchmarks.command import molecule_file, size
from precalc_assets.library import build_library
from precalc_assets.storage import open_store

PROCESSES = os.cpu_count() or 1
N_SHARDS = 50
ROUNDS = size(5, 1)
TARGET_SPEED = 0.8
TARGET_MIB = 400
VARIANTS = 20


def bare(smiles: str) -> str:
    return Chem.MolToInchiKey(Chem.MolFromSmiles(smiles))


def run_baseline(source: Path) -> None:
    smiles = source.read_text().splitlines()[1:]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        pool.map(bare, smiles, chunksize=100)


def run_ours(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build_library(open_store(Path(folder).as_uri()), source, n_shards=N_SHARDS, processes=PROCESSES)


def seconds(run: Callable[[Path], None], source: Path) -> float:
    started = time.perf_counter()
    run(source)
    return time.perf_counter() - started


def peak_mib(source: Path) -> float:
    """Build in a fresh process and return the peak resident size of it or of any process that it starts."""
    code = f"from pathlib import Path; from benchmarks.library import run_ours; run_ours(Path({str(source)!r}))"
    peak = 0
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [root, *root.children(recursive=True)]
                peak = max(peak, *(member.memory_info().rss for member in family))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit("the build failed")
    return peak / 2**20


def write_variants(source: Path, target: Path) -> int:
    """Write each molecule with each of twenty helium isotopes: all are distinct and cost about the same."""
    smiles = source.read_text().splitlines()[1:]
    with target.open("w") as file:
        file.write("smiles\n")
        file.writelines(f"{text}.[{isotope}He]\n" for isotope in range(3, 3 + VARIANTS) for text in smiles)
    return VARIANTS * len(smiles)


def main() -> None:
    source = molecule_file()
    rows = len(source.read_text().splitlines()) - 1
    pairs = [(seconds(run_ours, source), seconds(run_baseline, source)) for _ in range(ROUNDS)]
    ours, baseline = (min(times) for times in zip(*pairs, strict=True))
    speed = baseline / ours
    print(f"library  {rows:,} molecules, {PROCESSES} processes, best of {ROUNDS}")
    print(f"  ours      {ours:6.2f} s  {rows / ours:8,.0f} molecules/s  parsed, keyed, sharded, written")
    print(f"  baseline  {baseline:6.2f} s  {rows / baseline:8,.0f} molecules/s  RDKit parse + InChIKey, nothing kept")
    print(f"  ratio     {speed:6.2f} of bare speed (target: at least {TARGET_SPEED})")
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "many.csv"
        for count, path in ((rows, source), (write_variants(source, many), many)):
            print(
                f"  memory    {peak_mib(path):6.0f} MiB at most in a process, {count:,} rows (target: < {TARGET_MIB})"
            )


if __name__ == "__main__":
    main()
