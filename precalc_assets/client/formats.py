"""What answers are written as: CSV, JSON lines, Parquet. Every value as the table has it.

A format turns blocks of rows into bytes that can be put one behind the other, so that a file which was cut between two
blocks can be gone on with. Parquet cannot; its blocks are those of an Arrow stream, which becomes Parquet in the end.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from precalc_assets.columns import Column
from precalc_assets.csv_cells import csv_cell
from precalc_assets.errors import UsageError
from precalc_assets.tables.reader import Row

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".csv": "csv", ".csv.gz": "csv.gz", ".parquet": "parquet", ".jsonl": "jsonl"}

SOURCE = "source"
PRECALCULATED, COMPUTED, FAILED = "precalculated", "computed", "failed"

_GZIP_LEVEL = 5
_ROW_GROUP_VALUES = 1_000_000
"""Values that Parquet has in a group of rows, which is made in memory."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file: `key`, `input`, then `smiles` and `source` if they are wanted, then the model's."""

    columns: tuple[Column, ...]
    smiles: bool = False
    source: bool = False

    @property
    def leading(self) -> tuple[str, ...]:
        """The names before the model's."""
        return (
            "key",
            "input",
            *(("smiles",) if self.smiles else ()),
            *((SOURCE,) if self.source else ()),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return (*self.leading, *(column.name for column in self.columns))


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a file. `smiles` and `sources` are there if the layout has them; a row is None where there is none."""

    inchikeys: Sequence[str | None]
    texts: Sequence[str]
    rows: Sequence[Row | None]
    smiles: Sequence[str | None] | None = None
    sources: Sequence[str | None] | None = None

    def leading(self) -> Iterator[tuple[str | None, ...]]:
        """Yield the cells before the model's."""
        there = [cells for cells in (self.smiles, self.sources) if cells is not None]
        return zip(self.inchikeys, self.texts, *there, strict=True)


class Format(Protocol):
    """How rows of a layout are written; `provenance` says what they are from, where there is a place for that."""

    def __init__(self, layout: Layout, provenance: Mapping[str, object]) -> None: ...

    def start(self) -> bytes:
        """Return what stands before all blocks."""
        ...

    def encode(self, block: Block) -> bytes:
        """Return a block."""
        ...

    def finish(self, partial: Path, path: Path) -> None:
        """Make the file out of what was put one behind the other; the partial file is gone afterwards."""
        ...


def find_format(name: str | None, path: Path | None) -> type[Format]:
    """Return the format of that name, or that the file's name ends in; CSV for no file.

    Raises UsageError for a name that is none of a format's.
    """
    if name is None and path is not None:
        name = next((kind for suffix, kind in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
        if name is None:
            raise UsageError(f"{path}: files are written as {', '.join(SUFFIXES)}; rename it, or give --format")
    name = name or "csv"
    if name not in _FORMATS:
        raise UsageError(f"--format {name}: there are {', '.join(_FORMATS)}")
    return _FORMATS[name]


class CsvFormat:
    """A header and a line for each row; `csv_cells` says how a value is written."""

    def __init__(self, layout: Layout, provenance: Mapping[str, object]) -> None:
        self._layout = layout
        self._provenance = provenance

    def start(self) -> bytes:
        """See `Format.start`."""
        return (",".join(map(csv_cell, self._layout.names)) + "\n").encode()

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        nothing = "," * (len(self._layout.columns) - 1)
        cells = _cells if any(column.type == "string" for column in self._layout.columns) else _numbers
        lines = [
            f"{key or ''},{','.join(map(csv_cell, leading))},{nothing if row is None else cells(row)}\n"
            for (key, *leading), row in zip(block.leading(), block.rows, strict=True)
        ]
        return "".join(lines).encode()

    def finish(self, partial: Path, path: Path) -> None:
        """See `Format.finish`."""
        partial.replace(path)


class GzippedCsvFormat(CsvFormat):
    """The same, compressed: each block as a member of its own, which every reader of gzip puts together again."""

    def start(self) -> bytes:
        """See `Format.start`."""
        return gzip.compress(super().start(), _GZIP_LEVEL, mtime=0)

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        return gzip.compress(super().encode(block), _GZIP_LEVEL, mtime=0)


class JsonLinesFormat:
    """An object for each row, null for what is not there. Integers are JSON's, of any size; texts are as they are."""

    def __init__(self, layout: Layout, provenance: Mapping[str, object]) -> None:
        self._layout = layout
        self._provenance = provenance

    def start(self) -> bytes:
        """See `Format.start`."""
        return b""

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        names = self._layout.names
        nothing = (None,) * len(self._layout.columns)
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
        lines = [
            encode(dict(zip(names, (*leading, *(row or nothing)), strict=True)))
            for leading, row in zip(block.leading(), block.rows, strict=True)
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    def finish(self, partial: Path, path: Path) -> None:
        """See `Format.finish`."""
        partial.replace(path)


class ParquetFormat:
    """Parquet, typed, with nulls; where the values are from stands in the file's metadata, under `precalc`."""

    def __init__(self, layout: Layout, provenance: Mapping[str, object]) -> None:
        self._layout = layout
        self._provenance = provenance

    def start(self) -> bytes:
        """See `Format.start`."""
        schema = _schema(self._layout).with_metadata({"precalc": json.dumps(self._provenance)})
        return _bytes(schema.serialize())

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        import pyarrow as pa

        schema = _schema(self._layout)
        nothing = (None,) * len(self._layout.columns)
        leading = list(zip(*block.leading(), strict=True)) or [()] * len(self._layout.leading)
        values = list(zip(*(row or nothing for row in block.rows), strict=True)) or [()] * len(self._layout.columns)
        arrays = [pa.array(cells, kind) for cells, kind in zip([*leading, *values], schema.types, strict=True)]
        return _bytes(pa.record_batch(arrays, schema=schema).serialize())

    def finish(self, partial: Path, path: Path) -> None:
        """See `Format.finish`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole = partial.with_name(f"{partial.name}.parquet")
        with pa.memory_map(str(partial)) as file, pa.ipc.open_stream(file) as stream:
            at_once = max(1, _ROW_GROUP_VALUES // len(stream.schema))
            with pq.ParquetWriter(whole, stream.schema, compression="zstd") as writer:
                for table in _gathered(stream, at_once):
                    writer.write_table(table, row_group_size=at_once)
        whole.replace(path)
        partial.unlink()


_FORMATS: dict[str, type[Format]] = {
    "csv": CsvFormat,
    "csv.gz": GzippedCsvFormat,
    "parquet": ParquetFormat,
    "jsonl": JsonLinesFormat,
}


def read_blocks(path: Path, layout: Layout) -> Iterator[Block]:
    """Yield the blocks of a file that `ParquetFormat` has not finished yet."""
    import pyarrow as pa

    n_leading = len(layout.leading)
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            columns = [column.to_pylist() for column in batch.columns]
            leading = iter(columns[:n_leading])
            block = Block(next(leading), next(leading), list(zip(*columns[n_leading:], strict=True)))
            smiles = next(leading) if layout.smiles else None
            yield replace(block, smiles=smiles, sources=next(leading) if layout.source else None)


def _numbers(row: Row) -> str:
    # A float is written as `repr` does, so that it is read as the same one.
    return ",".join(["" if value is None else repr(value) for value in row])


def _cells(row: Row) -> str:
    return ",".join(map(csv_cell, row))


def _schema(layout: Layout) -> "pa.Schema":
    import pyarrow as pa

    types = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}
    leading = [(name, pa.string()) for name in layout.leading]
    return pa.schema([*leading, *((column.name, types[column.type]) for column in layout.columns)])


def _gathered(batches: Iterable[Any], rows: int) -> Iterator["pa.Table"]:
    import pyarrow as pa

    kept: list[Any] = []
    for batch in batches:
        kept.append(batch)
        if sum(part.num_rows for part in kept) >= rows:
            yield pa.Table.from_batches(kept)
            kept = []
    if kept:
        yield pa.Table.from_batches(kept)


def _bytes(buffer: Any) -> bytes:  # noqa: ANN401 - Arrow has no types
    content: bytes = buffer.to_pybytes()
    return content
