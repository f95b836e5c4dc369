"""Reading tables of molecules, and SMILES on one core: `python -m benchmarks.molecules [FILE]`.

The tables repeat the molecules of a CSV, each row with a number, a name and a value beside them. No RDKit is needed to
read these. For comparison, Python's `csv` reads them and discards each row. Rates are of CPU time.
"""

import csv
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.command import begin, end, figure, molecule_file, read_molecules, size
from precalc.molecules.reading import read_table
from precalc.molecules.smiles_workers import parse_rows

ROUNDS = size(5, 1)
COPIES = size(60, 2)
NAMES = ["id", "smiles", "name", "value"]

TABLES: dict[str, tuple[str, str, int, float | None]] = {
    "CSV": ("a.csv", ",", csv.QUOTE_MINIMAL, 100),
    "CSV, every cell in quotes": ("quoted.csv", ";", csv.QUOTE_ALL, None),
    "text with tabs": ("a.tsv", "\t", csv.QUOTE_MINIMAL, 100),
}
"""Name, delimiter, quoting, and the fewest megabytes that are to be read in a second."""


def main() -> None:
    smiles = read_molecules(molecule_file())
    begin(f"{len(smiles):,} molecules, {COPIES} times, best of {ROUNDS}")
    with tempfile.TemporaryDirectory() as folder:
        for what, (name, delimiter, quoting, least) in TABLES.items():
            path = Path(folder) / name
            with path.open("w", newline="") as file:
                writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
                writer.writerow(NAMES)
                writer.writerows(
                    (f"M{copy}-{at}", text, f"compound number {at}", at / 7)
                    for copy in range(COPIES)
                    for at, text in enumerate(smiles)
                )
            megabytes = path.stat().st_size / 1e6
            figure(f"{what}, Python's csv", megabytes / fastest(partial(by_csv, path, delimiter)), "MB/s")
            figure(what, megabytes / fastest(partial(texts, path)), "MB/s", at_least=least)
    rate = len(smiles) / fastest(lambda: list(parse_rows(enumerate(smiles), 1)))
    figure("SMILES, keys and forms", rate, "a second", at_least=1_500)
    end()


def texts(path: Path) -> list[list[str]]:
    return [batch.texts for batch in read_table(path).batches()]


def by_csv(path: Path, delimiter: str) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        for _ in csv.reader(file, delimiter=delimiter):
            pass


def fastest(run: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest round."""
    taken = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        taken.append(time.process_time() - started)
    return min(taken)


if __name__ == "__main__":
    main()
