"""The formats of answers: CSV, JSON lines, Parquet. Every value is the one in the table.

A format turns blocks of rows into bytes that are appended to a file, so that a file cut between two blocks can be
continued. Parquet does not allow that: its blocks are those of an Arrow stream, which becomes Parquet at the end.
"""

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precalc.csv_cells import csv_cell
from precalc.errors import UsageError
from precalc.extras import require
from precalc.source import Column, Row

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".csv": "csv", ".csv.gz": "csv.gz", ".parquet": "parquet", ".jsonl": "jsonl"}

SOURCE = "source"
PRECALCULATED, COMPUTED, FAILED = "precalculated", "computed", "failed"

_GZIP_LEVEL = 5
_ROW_GROUP_VALUES = 1_000_000
"""Values of a row group of Parquet, which is built in memory."""

_ROWS_READ = 1_000
"""Rows of a block that is read back."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file: `key`, `input`, `smiles` and `source` if requested, then the model's."""

    columns: tuple[Column, ...]
    smiles: bool = False
    source: bool = False

    @property
    def leading(self) -> tuple[str, ...]:
        """The names before the model's."""
        return ("key", "input", *["smiles"] * self.smiles, *[SOURCE] * self.source)

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return (*self.leading, *(column.name for column in self.columns))


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a file. `smiles` and `sources` are None unless the layout has them; a row is None if it has no values."""

    inchikeys: Sequence[str | None]
    texts: Sequence[str]
    rows: Sequence[Row | None]
    smiles: Sequence[str | None] | None = None
    sources: Sequence[str | None] | None = None

    def leading(self) -> Iterator[tuple[str | None, ...]]:
        """Yield the cells before the model's."""
        optional = [cells for cells in (self.smiles, self.sources) if cells is not None]
        return zip(self.inchikeys, self.texts, *optional, strict=True)


class Format(ABC):
    """Writes rows of a layout; `provenance` says what they are from, in formats that have a place for it."""

    def __init__(self, layout: Layout, provenance: Mapping[str, object]) -> None:
        self._layout = layout
        self._provenance = provenance

    def start(self) -> bytes:
        """Return the bytes before all blocks."""
        return b""

    @abstractmethod
    def encode(self, block: Block) -> bytes:
        """Return the bytes of a block."""

    def finish(self, partial: Path, path: Path) -> None:
        """Turn the partial file, which holds the start and all blocks, into the whole one."""
        partial.replace(path)


def find_format(name: str | None, path: Path | None) -> type[Format]:
    """Return the format of that name, else the one of the file's suffix, else CSV.

    Raises UsageError for an unknown format or suffix.
    """
    if name is None and path is not None:
        name = next((kind for suffix, kind in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
        if name is None:
            raise UsageError(f"{path}: files are written as {', '.join(SUFFIXES)}; rename it, or give --format")
    name = name or "csv"
    if name not in _FORMATS:
        raise UsageError(f"--format {name}: there are {', '.join(_FORMATS)}")
    return _FORMATS[name]


class CsvFormat(Format):
    """A header and a line for each row; `csv_cells` says how a value is written."""

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


class GzippedCsvFormat(CsvFormat):
    """CSV in gzip: each block is a member of its own, and readers of gzip join members."""

    def start(self) -> bytes:
        """See `Format.start`."""
        return gzip.compress(super().start(), _GZIP_LEVEL, mtime=0)

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        return gzip.compress(super().encode(block), _GZIP_LEVEL, mtime=0)


class JsonLinesFormat(Format):
    """An object for each row, null for a missing value. Integers are written in full, texts unchanged."""

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


class ParquetFormat(Format):
    """Parquet, typed, with nulls; the provenance is in the file's metadata, under `precalc`."""

    def __init__(self, layout: Layout, provenance: Mapping[str, object]) -> None:
        require("pyarrow", "parquet")
        super().__init__(layout, provenance)

    def start(self) -> bytes:
        """See `Format.start`."""
        schema = _schema(self._layout).with_metadata({"precalc": json.dumps(self._provenance)})
        return bytes(schema.serialize())

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        import pyarrow as pa

        schema = _schema(self._layout)
        nothing = (None,) * len(self._layout.columns)
        leading = list(zip(*block.leading(), strict=True)) or [()] * len(self._layout.leading)
        values = list(zip(*(row or nothing for row in block.rows), strict=True)) or [()] * len(self._layout.columns)
        arrays = [pa.array(cells, kind) for cells, kind in zip([*leading, *values], schema.types, strict=True)]
        return bytes(pa.record_batch(arrays, schema=schema).serialize())

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


def read_json_blocks(path: Path, layout: Layout) -> Iterator[Block]:
    """Yield the blocks of a file that `JsonLinesFormat` writes, finished or not."""
    n = len(layout.leading)
    with path.open(encoding="utf-8", newline="\n") as file:
        while lines := list(islice(file, _ROWS_READ)):
            cells = [tuple(json.loads(line).values()) for line in lines]
            leading = dict(zip(layout.leading, zip(*(row[:n] for row in cells), strict=True), strict=True))
            rows = [row[n:] for row in cells]
            yield Block(leading["key"], leading["input"], rows, leading.get("smiles"), leading.get(SOURCE))


def _numbers(row: Row) -> str:
    # Faster than `csv_cell` for a row without texts.
    return ",".join(["" if value is None else repr(value) for value in row])


def _cells(row: Row) -> str:
    return ",".join(map(csv_cell, row))


def _schema(layout: Layout) -> "pa.Schema":
    import pyarrow as pa

    kinds = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}
    leading = [(name, pa.string()) for name in layout.leading]
    return pa.schema([*leading, *((column.name, kinds[column.type]) for column in layout.columns)])


def _gathered(batches: Iterable[Any], rows: int) -> Iterator["pa.Table"]:
    """Yield the batches as tables of at least so many rows."""
    import pyarrow as pa

    gathered: list[Any] = []
    for batch in batches:
        gathered.append(batch)
        if sum(part.num_rows for part in gathered) >= rows:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)
