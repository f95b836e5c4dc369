"""A script that reads a file of molecules from standard input, and prints its rows as JSON; `row_reading` starts it.

It runs in a process of its own, since a file may be made to exhaust its reader, and so that RDKit, which tells a header
from a molecule, stays out of the API's process.
"""

import json
import resource
import sys
from pathlib import Path

from precalc.errors import MoleculeFileError, UsageError
from precalc.identifiers import read_inchikey
from precalc.molecules.molecule_columns import Wanted
from precalc.molecules.reading import read_table
from precalc.scratch import scratch_folder

MAX_ROWS = 10_000
MAX_CHARACTERS = 3_000_000
"""Rows, and characters of all their cells: with predictions they come back twice, in answers of up to 6 MB."""

_ADDRESSES = 1 << 30
"""Bytes that the process may map: with RDKit loaded it maps 70 MB."""


def main() -> None:
    """Print the rows of the file, whose name and column of molecules are the arguments."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    name, column = sys.argv[1:]
    with scratch_folder() as folder:
        path = folder / name
        path.write_bytes(sys.stdin.buffer.read())
        try:
            answer = _read(path, Wanted(column or None))
        except MoleculeFileError as error:
            answer = {"problem": str(error)}
        except UsageError:
            answer = {"problem": f"{name}: this service reads no files of this kind; save it as CSV"}
        except MemoryError:
            answer = {"problem": f"{name}: it takes more memory than there is; split it, or save it as CSV"}
    sys.stdout.write(json.dumps(answer))


def _read(path: Path, wanted: Wanted) -> dict[str, object]:
    table = read_table(path, wanted)
    numbers: list[int] = []
    texts: list[str] = []
    cells: list[list[str]] = []
    characters = 0
    for batch in table.batches():
        numbers += batch.rows
        texts += batch.texts
        cells += map(list, batch.cells())
        characters += sum(map(len, batch.texts)) + sum(len(cell) for row in batch.cells() for cell in row)
        if len(numbers) > MAX_ROWS or characters > MAX_CHARACTERS:
            raise MoleculeFileError(
                f"{path.name}: the page reads up to {MAX_ROWS:,} rows with {MAX_CHARACTERS:,} characters, and this is "
                "more; split it, or run `precalc get`, which has no such limit"
            )
    return {
        "names": table.names,
        "numbers": numbers,
        "texts": texts,
        "cells": cells,
        "inchikeys": [*map(read_inchikey, texts)],
    }


if __name__ == "__main__":
    main()
