"""The formats of answers: CSV, JSON lines, Parquet. Every value is the one in the table.

A format turns blocks of rows into bytes that are appended to a file, so that a file cut between two blocks can be
continued. Parquet does not allow that: its blocks are those of an Arrow stream, which becomes Parquet at the end.
"""

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precalc.csv_cells import csv_cell, spreadsheet_cell
from precalc.errors import UsageError
from precalc.extras import require
from precalc.source import Column, Row, Value

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".csv": "csv", ".csv.gz": "csv.gz", ".parquet": "parquet", ".jsonl": "jsonl"}
"""The format of a file by the end of its name."""

LEADING = ("inchikey", "input", "status", "reason", "match", "library_smiles")
"""The columns before the model's."""

_GZIP_LEVEL = 5
_ROW_GROUP_VALUES = 1_000_000
"""Values of a row group of Parquet, which is built in memory."""

_ROWS_READ = 1_000
"""Rows of a block that is read back."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file: the reader's `own`, then `LEADING`, then the model's.

    Own columns have the text of the molecule already, so that `input` is left out beside them, unless `keep_input`.
    """

    columns: tuple[Column, ...]
    own: tuple[str, ...] = ()
    keep_input: bool = False

    @property
    def leading(self) -> tuple[str, ...]:
        """The names between the reader's own and the model's."""
        return tuple(name for name in LEADING if name != "input" or self.keep_input or not self.own)

    @property
    def names(self) -> tuple[str, ...]:
        """All names. A second own one has a number, and one of ours that the reader has too begins with `precalc_`."""
        own: dict[str, str] = {}  # by the name in small letters, since programs mix these up
        for name in self.own:
            numbered = (f"{name}_{number}" for number in count(2))
            free = next(each for each in chain([name], numbered) if each.lower() not in own)
            own[free.lower()] = free
        ours = [*self.leading, *(column.name for column in self.columns)]
        return (*own.values(), *(f"precalc_{name}" if name.lower() in own else name for name in ours))


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a file: the cells of each column of `LEADING`, and the rows of the model, None for one without values.

    `own` are the cells of the reader's own columns in each row.
    `statuses` are those of `statuses`, `reasons` say why a text is unreadable or the model failed. `matches` are those
    of `statuses`, None without a prediction. `smiles` are the library's, None where they are not requested.
    """

    inchikeys: Sequence[str | None]
    texts: Sequence[str]
    statuses: Sequence[str]
    reasons: Sequence[str | None]
    matches: Sequence[str | None]
    smiles: Sequence[str | None]
    rows: Sequence[Row | None]
    own: Sequence[Sequence[str]] = ()

    def leading(self, layout: Layout) -> Iterator[tuple[str | None, ...]]:
        """Yield the cells before the model's."""
        texts = [self.texts] if "input" in layout.leading else []
        columns = (self.inchikeys, *texts, self.statuses, self.reasons, self.matches, self.smiles)
        cells = zip(*columns, strict=True)
        return ((*own, *ours) for own, ours in zip(self.own, cells, strict=True)) if layout.own else cells


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
    """Return the format of that name, else of the file's suffix, else CSV. Raises UsageError for an unknown one."""
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

    cell = staticmethod(csv_cell)

    def start(self) -> bytes:
        """See `Format.start`."""
        own = self._layout.own
        return (self._line((*own, *self._layout.names[len(own) :])) + "\n").encode()

    def encode(self, block: Block) -> bytes:
        """See `Format.encode`."""
        nothing = "," * (len(self._layout.columns) - 1)
        cell, cells = self.cell, self._line if any(c.type == "string" for c in self._layout.columns) else _numbers
        # Keys and our own words need no quotes, and an empty cell of the reader's stays as it is.
        if self._layout.own:
            keys = [key or "" for key in block.inchikeys]
            starts = [
                f"{self._line([each or None for each in own])},{key}" for own, key in zip(block.own, keys, strict=True)
            ]
        else:
            starts = [f"{key or ''},{cell(text)}" for key, text in zip(block.inchikeys, block.texts, strict=True)]
        ours = zip(starts, block.statuses, block.reasons, block.matches, block.smiles, block.rows, strict=True)
        lines = [
            f"{start},{status},{cell(reason)},{match or ''},{cell(smiles)},{nothing if row is None else cells(row)}\n"
            for start, status, reason, match, smiles, row in ours
        ]
        return "".join(lines).encode()

    def _line(self, values: Iterable[Value]) -> str:
        return ",".join(map(self.cell, values))


class SpreadsheetFormat(CsvFormat):
    """CSV of which a spreadsheet runs no text as a formula."""

    cell = staticmethod(spreadsheet_cell)


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
            for leading, row in zip(block.leading(self._layout), block.rows, strict=True)
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
        n_leading = len(schema) - len(self._layout.columns)
        leading = list(zip(*block.leading(self._layout), strict=True)) or [()] * n_leading
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
    "spreadsheet": SpreadsheetFormat,
    "parquet": ParquetFormat,
    "jsonl": JsonLinesFormat,
}


def read_json_blocks(path: Path, layout: Layout) -> Iterator[Block]:
    """Yield the blocks of a file that `JsonLinesFormat` writes in a layout that keeps `input`, finished or not."""
    own, n = len(layout.own), len(layout.own) + len(LEADING)
    with path.open(encoding="utf-8", newline="\n") as file:
        while lines := list(islice(file, _ROWS_READ)):
            cells = [tuple(json.loads(line).values()) for line in lines]
            leading = zip(*(row[own:n] for row in cells), strict=True)
            yield Block(*[*leading, [row[n:] for row in cells], [row[:own] for row in cells]])


def _numbers(row: Row) -> str:
    # Faster than a function for each cell of a row without texts.
    return ",".join(["" if value is None else repr(value) for value in row])


def _schema(layout: Layout) -> "pa.Schema":
    import pyarrow as pa

    kinds = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}
    names, n = layout.names, len(layout.columns)
    types = [*[pa.string()] * (len(names) - n), *(kinds[column.type] for column in layout.columns)]
    return pa.schema(list(zip(names, types, strict=True)))


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
