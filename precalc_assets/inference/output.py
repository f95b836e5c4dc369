"""What a model's `run.sh` wrote, made sure of: the columns that it declares, the molecules that it was given."""

from collections.abc import Sequence
from pathlib import Path

from precalc_assets.columns import Column
from precalc_assets.errors import ColumnsError
from precalc_assets.inference.runner import BatchError
from precalc_assets.predictions import format_header, format_record, read_text_csv

_KEY_COLUMNS = frozenset({"key", "inchikey"})
INPUT_COLUMNS = frozenset({"input", "smiles"})
"""Columns that some models print beside their outputs; the latter have what they were given."""


def read_output(model: str, path: Path, columns: Sequence[Column], smiles: Sequence[str]) -> list[bytes]:
    """Return a model's output file as records of these columns, one for each molecule, cells as they were printed.

    Raises ColumnsError for other columns, BatchError for other rows, or for what is no CSV file, FileNotFoundError.
    """
    records = _plain_records(path, columns)
    if records is None:
        records = _any_records(model, path.read_bytes(), columns, smiles)
    if len(records) != len(smiles):
        raise BatchError(f"run.sh wrote {len(records)} rows for {len(smiles)} molecules")
    return records


def check_columns(model: str, printed: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise ColumnsError unless a model printed what it declares, in any order, and at most key and input beside it."""
    declared = [column.name for column in columns]
    known = {*declared, *_KEY_COLUMNS, *INPUT_COLUMNS}
    found = set(printed)
    lacking = [name for name in declared if name not in found]
    extra = [name for name in printed if name not in known]
    if lacking or extra:
        what = f"lacks the column {lacking[0]!r} of" if lacking else f"has the column {extra[0]!r} that is not in"
        raise ColumnsError(f"the output of {model} {what} its run_columns.csv; mend one of the two")


def _plain_records(path: Path, columns: Sequence[Column]) -> list[bytes] | None:
    """Return the lines of a file of just these columns without any quotes; None for every other file.

    This is what most models print, and takes no more memory than the file.
    """
    header = format_header(tuple(columns))
    n_commas = len(columns) - 1
    records = []
    with path.open("rb") as file:
        for line in file:
            record = line.removesuffix(b"\n").removesuffix(b"\r")
            if record.count(b",") != n_commas or b'"' in record or b"\r" in record or not record.isascii():
                return None
            records.append(record)
    return records[1:] if records[:1] == [header] else None


def _any_records(model: str, content: bytes, columns: Sequence[Column], smiles: Sequence[str]) -> list[bytes]:
    try:
        text = read_text_csv(content)
    except ValueError as error:
        raise BatchError(f"run.sh wrote an output file that cannot be read: {error}") from None
    check_columns(model, text.columns, columns)
    for name in sorted(INPUT_COLUMNS & set(text.columns)):
        if text.height == len(smiles) and text[name].to_list() != list(smiles):
            raise BatchError(f"run.sh wrote rows of other molecules than it was given (column {name!r})")
    return [format_record(row) for row in text.select(column.name for column in columns).iter_rows()]
