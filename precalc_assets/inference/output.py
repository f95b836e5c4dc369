"""Read and check the output of a model's `run.sh`: its declared columns, for the given molecules."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from precalc_assets.columns import Column
from precalc_assets.foreign_files import ForeignFileError, open_foreign, read_foreign
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.platform_errors import ColumnsError
from precalc_assets.predictions.cells import cell_text, format_record, misshapen_record, split_rows, tidy_cell

_KEY_COLUMNS = frozenset({"key", "inchikey"})
INPUT_COLUMNS = frozenset({"input", "smiles"})
"""Columns that some models print besides their outputs, with the input SMILES."""

_MOST_HEADER_BYTES = 1 << 20
_MOST_ROW_BYTES = 1 << 16
_MOST_CELL_BYTES = 256
"""Limits of an output file, on average. The hub's longest cells are structures of some thousand characters."""


def read_output(model: str, path: Path, columns: Sequence[Column], smiles: Sequence[str]) -> list[bytes]:
    """Return a model's output file as records of these columns, one per molecule, with the cells as printed.

    A row with fewer or more cells than the header becomes a record that `read_records` rejects. Raises ColumnsError
    for other columns, BatchError for other rows or a file that cannot be read or is too large, FileNotFoundError.
    """
    most = _MOST_HEADER_BYTES + len(smiles) * (_MOST_ROW_BYTES + len(columns) * _MOST_CELL_BYTES)
    try:
        with open_foreign(path, most) as file:
            records = _plain_records(file, columns)
        if records is None:
            records = _any_records(model, read_foreign(path, most), columns, smiles)
    except ForeignFileError as error:
        raise BatchError(f"run.sh wrote an output file that cannot be read: {error}") from None
    if len(records) != len(smiles):
        raise BatchError(f"run.sh wrote {len(records)} rows for {len(smiles)} molecules")
    return records


def check_columns(model: str, printed: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise ColumnsError unless a model printed its declared columns, in any order, and no others but key and input."""
    declared = [column.declared for column in columns]
    known = {*declared, *_KEY_COLUMNS, *INPUT_COLUMNS}
    found = set(printed)
    twice = [name for name in printed if printed.count(name) > 1] if len(found) < len(printed) else []
    faults = [
        *(f"has the column {name!r} twice, unlike" for name in twice),
        *(f"lacks the column {name!r} of" for name in declared if name not in found),
        *(f"has the column {name!r:.60} that is not in" for name in printed if name not in known),
    ]
    if faults:
        raise ColumnsError(f"the output of {model} {faults[0]} its run_columns.csv; correct one of the two")


def echo_columns(columns: Sequence[Column]) -> frozenset[str]:
    """Return the columns in which a model may print its input: those that it does not declare as outputs."""
    return INPUT_COLUMNS - {column.declared for column in columns}


def _plain_records(file: BinaryIO, columns: Sequence[Column]) -> list[bytes] | None:
    """Return the lines of a file that has exactly these columns, in ASCII and without quotes; None for other files.

    Most models print such a file. Reading it takes no more memory than the file.
    """
    header = format_record(column.declared for column in columns)
    n_commas = len(columns) - 1
    records = []
    for line in file:
        record = line.removesuffix(b"\n").removesuffix(b"\r")
        if record.count(b",") != n_commas or b'"' in record or b"\r" in record or not record.isascii():
            return None
        records.append(record)
    return records[1:] if records[:1] == [header] else None


def _any_records(model: str, content: bytes, columns: Sequence[Column], smiles: Sequence[str]) -> list[bytes]:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise BatchError(f"run.sh wrote an output file that cannot be read: {error}") from None
    header, *rows = split_rows(content.removeprefix(b"\xef\xbb\xbf"))
    names = [cell_text(cell).strip() for cell in header]
    if names == [""]:
        raise BatchError("run.sh wrote an output file that cannot be read: it is empty")
    check_columns(model, names, columns)
    width = len(names)
    if width > 1:  # with a single column, an empty line is a row without a value
        rows = [row for row in rows if row != [b""]]
    for name in sorted(echo_columns(columns) & set(names)):
        at = names.index(name)
        printed = [smiles[i] if len(row) != width else cell_text(row[at]) for i, row in enumerate(rows[: len(smiles)])]
        if len(rows) == len(smiles) and printed != list(smiles):
            raise BatchError(f"run.sh wrote rows of other molecules than its input (column {name!r})")
    places = [names.index(column.declared) for column in columns]
    return [
        b",".join([tidy_cell(row[at]) for at in places])
        if len(row) == width
        else misshapen_record(len(places), len(row) - width)
        for row in rows
    ]
