"""Parquet as rows of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from precalc.errors import MoleculeFileError
from precalc.extras import require
from precalc.molecules.file_content import Content
from precalc.molecules.molecule_columns import Columns, ReadRows, RowBatch, Wanted, batch_rows, read_header

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH = 5_000
_SEEN = 100
"""Rows that may decide what a column holds."""


def read_parquet(content: Content, path: Path, wanted: Wanted) -> tuple[tuple[str, ...], ReadRows]:
    """Return the columns, and what yields the rows, numbered from 1. Raises MoleculeFileError for a damaged file."""
    require("pyarrow", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(content.file)
    except (pa.ArrowException, OSError) as error:
        raise MoleculeFileError(f"{path.name}: damaged or cut short: {error}; make or fetch it again") from None
    names = tuple(file.schema_arrow.names)
    first = next(file.iter_batches(_SEEN), None)
    columns = read_header([names, *(_rows(first) if first else [])], wanted, path.name)
    return names, lambda content: _batches(pq.ParquetFile(content.file), columns)


def _batches(file: "pq.ParquetFile", columns: Columns) -> Iterator[RowBatch]:
    row = 1
    for batch in file.iter_batches(_BATCH):
        yield batch_rows(enumerate(_rows(batch), start=row), columns)
        row += batch.num_rows


def _rows(batch: "pa.RecordBatch") -> list[list[str]]:
    columns = [["" if value is None else str(value) for value in column.to_pylist()] for column in batch.columns]
    return [list(cells) for cells in zip(*columns, strict=True)]
