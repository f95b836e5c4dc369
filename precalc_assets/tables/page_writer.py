"""Encoding record batches as pages: the narrowest dtypes that hold a shard's values, and the bytes of a page.

`pages` has the format and reads it; `paging` decides which molecules go into a page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.tables.pages import DTYPES, NOT_LISTED, NULLABLE, Group, PageLayout

# Measured by `python -m benchmarks.pages` on 2,048 counts, in write units and CPU of loading per molecule: level 3
# takes 0.0852 and 128 µs, 9 takes 0.0824 and 121 µs, 15 takes 0.0813 and 120 µs, 17 takes 0.0813 and 160 µs. Floats
# hardly compress: level 15 saves 3 % against level 3, and doubles a load's time.
ZSTD_LEVEL = 15
ZSTD_LEVEL_OF_FLOATS = 3

_COLUMNS_AT_ONCE = 128
"""Columns that are checked and narrowed together: memory holds several copies of their values."""

_ARROW_TYPES = {"float": (pa.float64(),), "integer": (pa.int64(),), "string": (pa.string(), pa.large_string())}
_INTEGERS = {
    name: (int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in DTYPES if name[0] in "ui" and name != "utf8"
}
"""The least and the most that each integer dtype holds."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some molecules of a shard in ascending order: their `key_hash` (uint64) and, row by row, their values."""

    hashes: NDArray[np.uint64]
    batch: pa.RecordBatch

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, rows: slice) -> "Rows":
        start, stop, _ = rows.indices(len(self))
        return Rows(self.hashes[start:stop], self.batch.slice(start, stop - start))

    @staticmethod
    def concat(parts: Sequence["Rows"]) -> "Rows":
        """Return the rows of several parts, copied into one."""
        return Rows(np.concatenate([p.hashes for p in parts]), pa.concat_batches([p.batch for p in parts]))


class DtypeChooser:
    """Finds, batch by batch, the narrowest dtype of each column that holds every value exactly."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._nulls = np.zeros(len(columns), bool)
        self._spans = [
            _Span(positions[start : start + _COLUMNS_AT_ONCE], dtype)
            for kind, dtype in (("float", np.float64), ("integer", np.int64))
            for positions in [[at for at, column in enumerate(columns) if column.type == kind]]
            for start in range(0, len(positions), _COLUMNS_AT_ONCE)
        ]

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch. Raises TableError when it lacks a column or has one of another type."""
        if not batch.num_rows:
            return
        arrays = _arrays(batch, self._columns)
        self._nulls |= [array.null_count > 0 for array in arrays]
        for span in self._spans:
            span.add(_matrix([arrays[at] for at in span.positions]))

    def dtypes(self) -> tuple[str, ...]:
        """Return a dtype per column, as `page_layout` takes them."""
        numbers = {at: dtype for span in self._spans for at, dtype in span.dtypes().items()}
        return tuple(numbers.get(at, "utf8") + (NULLABLE if null else "") for at, null in enumerate(self._nulls))


class _Span:
    """The range of each of some columns of one type; whether integers or single precision hold its values exactly."""

    def __init__(self, positions: list[int], dtype: type[np.float64] | type[np.int64]) -> None:
        self.positions = positions
        # Without any values, or with nulls only, the range is 0 to 0.
        self._low = np.zeros(len(positions), dtype)
        self._high = np.zeros(len(positions), dtype)
        self._integral = np.ones(len(positions), bool)
        self._single = np.full(len(positions), dtype is np.float64)

    def add(self, values: NDArray[Any]) -> None:
        self._low = np.fmin(self._low, values.min(axis=1))
        self._high = np.fmax(self._high, values.max(axis=1))
        if values.dtype == np.float64:
            # NaN differs from itself, so it is not integral; an integer has no negative zero.
            integral = (values == np.rint(values)) & ~((values == 0) & np.signbit(values))
            self._integral &= integral.all(axis=1)
            with np.errstate(over="ignore"):
                single = values.astype(np.float32).astype(np.float64)
            self._single &= _equal(single, values).all(axis=1)

    def dtypes(self) -> dict[int, str]:
        spans = zip(
            self._low.tolist(), self._high.tolist(), self._integral.tolist(), self._single.tolist(), strict=True
        )
        floats = self._low.dtype == np.float64
        return {
            at: _narrowest(low, high, floats=floats, integral=integral, single=single)
            for at, (low, high, integral, single) in zip(self.positions, spans, strict=True)
        }


@lru_cache(maxsize=65_536)
def _narrowest(low: float, high: float, *, floats: bool, integral: bool, single: bool) -> str:
    """Return the narrowest dtype for a column's range: of two of one width the integers, which compress better."""
    fitting = ["f8"] if floats else []
    if integral:
        # Python compares int and float exactly.
        fitting += [dtype for dtype, (least, most) in _INTEGERS.items() if least <= low and high <= most]
    if single:
        fitting.append("f4")
    return min(fitting, key=lambda dtype: (DTYPES[dtype][0], dtype.startswith("f")))


class PageEncoder:
    """Encodes pages of one layout. It arranges its block of rows once, for all the block's pages."""

    def __init__(self, layout: PageLayout, columns: Sequence[Column], rows: Rows) -> None:
        self._hashes = rows.hashes.astype("<u8")
        arrays = _arrays(rows.batch, columns)
        arranged = [_ArrangedGroup(group, [arrays[at] for at in group.positions]) for group in layout.groups]
        self._numbers = [group for group in arranged if not group.texts]
        self._texts = [group for group in arranged if group.texts]
        floats = sum(group.width * len(group.positions) for group in layout.groups if group.dtype.startswith("f"))
        level = ZSTD_LEVEL_OF_FLOATS if floats * 2 > layout.row_bytes else ZSTD_LEVEL
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def encode(self, start: int, stop: int) -> bytes:
        """Return the page of the rows `start` to `stop` (exclusive), which may be no rows."""
        return self._compressor.compress(self.content(start, stop))

    def content(self, start: int, stop: int) -> bytes:
        """Return the page before compression."""
        listed, numbers = _listed(b"".join(part for group in self._numbers for part in group.parts(start, stop)))
        payload: list[bytes | memoryview] = [
            np.array([stop - start], "<u4").tobytes(),
            self._hashes[start:stop].tobytes(),
        ]
        payload += [np.array([listed], "<u4").tobytes(), numbers]
        for group in self._texts:
            payload += group.parts(start, stop)
        return b"".join(payload)


def _listed(numbers: bytes) -> tuple[int, bytes]:
    """Return the number of listed bytes and their list, or NOT_LISTED and the numbers if a list would be long."""
    values = np.frombuffer(numbers, np.uint8)
    if 4 * np.count_nonzero(values) >= len(values):
        return NOT_LISTED, numbers
    places = np.flatnonzero(values)
    distances = np.diff(places, prepend=0)
    zeros_before = np.maximum(distances - 1, 0) // 255
    entries = np.cumsum(zeros_before + 1) - 1
    count = int(entries[-1]) + 1 if len(entries) else 0
    steps, listed = np.full(count, 255, np.uint8), np.zeros(count, np.uint8)
    steps[entries], listed[entries] = distances - 255 * zeros_before, values[places]
    return count, steps.tobytes() + listed.tobytes()


class _ArrangedGroup:
    """The byte planes of a group for a block of rows: `planes` is uint8, planes × columns × rows."""

    def __init__(self, group: Group, arrays: list[pa.Array]) -> None:
        self.texts = [Texts(array) for array in arrays] if group.dtype == "utf8" else []
        if self.texts:
            numbers = _narrowed(np.stack([np.diff(texts.ends) for texts in self.texts]), "u4")
        else:
            numbers = np.empty((len(arrays), len(arrays[0])), "<" + group.dtype)
            for at in range(0, len(arrays), _COLUMNS_AT_ONCE):
                some = slice(at, at + _COLUMNS_AT_ONCE)
                numbers[some] = _narrowed(_matrix(arrays[some]), group.dtype)
        columns, rows = numbers.shape
        self._planes = numbers.view(np.uint8).reshape(columns, rows, numbers.itemsize).transpose(2, 0, 1)
        if group.nullable:
            nulls = np.stack([_nulls(array) for array in arrays])
            self._planes = np.concatenate([nulls.astype(np.uint8)[None], self._planes])

    def parts(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        yield self._planes[:, :, start:stop].tobytes()
        for texts in self.texts:
            yield texts.data[texts.ends[start] : texts.ends[stop]]


class Texts:
    """A string column as one buffer of UTF-8; text i is `data[ends[i]:ends[i + 1]]`, and a null has no bytes."""

    def __init__(self, array: pa.Array) -> None:
        array = array.cast(pa.large_string())
        _, ends, data = array.buffers()
        self.ends = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
        self.data = memoryview(data or b"")


def text_bytes(batch: pa.RecordBatch, columns: Sequence[Column]) -> NDArray[np.int64]:
    """Return the UTF-8 bytes of each row's string columns."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for array in _arrays(batch, [column for column in columns if column.type == "string"]):
        sizes += np.diff(Texts(array).ends)
    return sizes


def _arrays(batch: pa.RecordBatch, columns: Sequence[Column]) -> list[pa.Array]:
    places = {name: at for at, name in enumerate(batch.schema.names)}
    arrays = []
    for column in columns:
        if column.name not in places:
            raise TableError(f"column {column.name!r} is missing from the predictions; make the predictions again")
        array = batch.column(places[column.name])
        if array.type not in _ARROW_TYPES[column.type]:
            raise TableError(f"column {column.name!r} is of type {column.type}, but its predictions are {array.type}")
        arrays.append(array)
    return arrays


def _matrix(arrays: list[pa.Array]) -> NDArray[Any]:
    """Return numeric columns as columns × rows, nulls as 0, which every dtype holds."""
    return np.stack([_numbers(array) for array in arrays])


def _numbers(array: pa.Array) -> NDArray[Any]:
    """Return a numeric column with nulls as 0. Arrow's `to_numpy` and `fill_null` import pandas, which takes 40 MB."""
    values = np.frombuffer(array.buffers()[1] or b"", array.type.to_pandas_dtype())[array.offset :][: len(array)]
    return np.where(_nulls(array), values.dtype.type(0), values) if array.null_count else values


def _nulls(array: pa.Array) -> NDArray[np.bool_]:
    validity = array.buffers()[0]
    if validity is None:
        return np.zeros(len(array), bool)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    return ~bits[array.offset :][: len(array)].view(np.bool_)


def _narrowed(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(invalid="ignore", over="ignore"):
        narrow = values.astype("<" + dtype)
        # A value that changed after the dtypes were chosen could be stored wrongly. This check takes 5 % of the time of
        # the compression.
        if not _equal(narrow.astype(values.dtype), values).all():
            raise TableError(f"the predictions changed during the load: {dtype} does not hold them; load again")
    return narrow


def _equal(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (left == right) | ((left != left) & (right != right))
    return same
