"""Encoding record batches as pages: the narrowest dtypes that hold a shard's values, and the bytes of a page.

`pages` has the format and reads it; `paging` decides which molecules go into a page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.tables.pages import DTYPES, NULLABLE, Group, PageLayout

# Measured by `python -m benchmarks.pages` on 2,048 counts, in write units and CPU per molecule: level 9 takes 0.127 and
# 76 µs, 15 takes 0.106 and 253 µs, 17 takes 0.102 and 537 µs, 19 takes 0.104 and 1,006 µs. For 2 million molecules,
# level 15 takes six more minutes of one core than 9, and saves $0.027 of writes and a sixth of the storage. Higher
# levels save next to nothing. Floats hardly compress: level 15 saves 3 % against level 3, and doubles a load's time.
ZSTD_LEVEL = 15
ZSTD_LEVEL_OF_FLOATS = 3

_ARROW_TYPES = {"float": (pa.float64(),), "integer": (pa.int64(),), "string": (pa.string(), pa.large_string())}
_INTEGERS = [name for name in DTYPES if name[0] in "ui" and name != "utf8"]


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
        self._floats = _FloatSpan([at for at, column in enumerate(columns) if column.type == "float"])
        self._integers = _IntegerSpan([at for at, column in enumerate(columns) if column.type == "integer"])

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch. Raises TableError when it lacks a column or has one of another type."""
        if not batch.num_rows:
            return
        arrays = _arrays(batch, self._columns)
        self._nulls |= [array.null_count > 0 for array in arrays]
        if self._floats.positions:
            self._floats.add(_matrix([arrays[at] for at in self._floats.positions]))
        if self._integers.positions:
            self._integers.add(_matrix([arrays[at] for at in self._integers.positions]))

    def dtypes(self) -> tuple[str, ...]:
        """Return a dtype per column, as `page_layout` takes them."""
        chosen = dict.fromkeys(range(len(self._columns)), "utf8") | self._floats.dtypes() | self._integers.dtypes()
        return tuple(chosen[at] + (NULLABLE if self._nulls[at] else "") for at in range(len(self._columns)))


class _IntegerSpan:
    """The range of each integer column."""

    def __init__(self, positions: list[int]) -> None:
        self.positions = positions
        # Without any values, or with nulls only, the range is 0 to 0.
        self._low = np.zeros(len(positions), np.int64)
        self._high = np.zeros(len(positions), np.int64)

    def add(self, values: NDArray[np.int64]) -> None:
        self._low = np.minimum(self._low, values.min(axis=1))
        self._high = np.maximum(self._high, values.max(axis=1))

    def dtypes(self) -> dict[int, str]:
        spans = zip(self.positions, self._low.tolist(), self._high.tolist(), strict=True)
        return {at: next(_integers_that_hold(low, high)) for at, low, high in spans}


class _FloatSpan:
    """The range of each float column, and whether integers or single precision hold its values exactly."""

    def __init__(self, positions: list[int]) -> None:
        self.positions = positions
        self._low = np.zeros(len(positions))
        self._high = np.zeros(len(positions))
        self._integral = np.ones(len(positions), bool)
        self._single = np.ones(len(positions), bool)

    def add(self, values: NDArray[np.float64]) -> None:
        self._low = np.fmin(self._low, values.min(axis=1))
        self._high = np.fmax(self._high, values.max(axis=1))
        # NaN differs from itself, so it is not integral; an integer has no negative zero.
        integral = (values == np.rint(values)) & ~((values == 0) & np.signbit(values))
        self._integral &= integral.all(axis=1)
        self._single &= _equal(_single(values).astype(np.float64), values).all(axis=1)

    def dtypes(self) -> dict[int, str]:
        return {at: self._dtype(i) for i, at in enumerate(self.positions)}

    def _dtype(self, i: int) -> str:
        fitting = ["f8"]
        if self._integral[i]:
            fitting += _integers_that_hold(float(self._low[i]), float(self._high[i]))
        if self._single[i]:
            fitting.append("f4")
        # Of dtypes of one width, integers compress better.
        return min(fitting, key=lambda dtype: (DTYPES[dtype][0], dtype.startswith("f")))


class PageEncoder:
    """Encodes pages of one layout. It arranges its block of rows once, for all the block's pages."""

    def __init__(self, layout: PageLayout, columns: Sequence[Column], rows: Rows) -> None:
        self._hashes = rows.hashes.astype("<u8")
        arrays = _arrays(rows.batch, columns)
        self._groups = [_ArrangedGroup(group, [arrays[at] for at in group.positions]) for group in layout.groups]
        floats = sum(group.width * len(group.positions) for group in layout.groups if group.dtype.startswith("f"))
        level = ZSTD_LEVEL_OF_FLOATS if floats * 2 > layout.row_bytes else ZSTD_LEVEL
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def encode(self, start: int, stop: int) -> bytes:
        """Return the page of the rows `start` to `stop` (exclusive), which may be no rows."""
        payload = [np.uint32(stop - start).astype("<u4").tobytes(), self._hashes[start:stop].tobytes()]
        for group in self._groups:
            payload += group.parts(start, stop)
        return self._compressor.compress(b"".join(payload))


class _ArrangedGroup:
    """The byte planes of a group for a block of rows: `planes` is uint8, planes × columns × rows."""

    def __init__(self, group: Group, arrays: list[pa.Array]) -> None:
        self._texts = [Texts(array) for array in arrays] if group.dtype == "utf8" else []
        if self._texts:
            numbers = _narrowed(np.stack([np.diff(texts.ends) for texts in self._texts]), "u4")
        else:
            numbers = _narrowed(_matrix(arrays), group.dtype)
        self._planes = _byte_planes(numbers)
        if group.nullable:
            valid = np.stack([array.is_valid().to_numpy(zero_copy_only=False) for array in arrays])
            self._planes = np.concatenate([valid.astype(np.uint8)[None], self._planes])

    def parts(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        yield self._planes[:, :, start:stop].tobytes()
        for texts in self._texts:
            yield texts.data[texts.ends[start] : texts.ends[stop]]


class Texts:
    """A string column as one buffer of UTF-8; text i is `data[ends[i]:ends[i + 1]]`."""

    def __init__(self, array: pa.Array) -> None:
        array = array.cast(pa.large_string()).fill_null("")
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
    return np.stack([(a.fill_null(0) if a.null_count else a).to_numpy() for a in arrays])


def _narrowed(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(invalid="ignore", over="ignore"):
        narrow = values.astype("<" + dtype)
        # A value that changed after the dtypes were chosen could be stored wrongly. This check takes 5 % of the time of
        # the compression.
        if not _equal(narrow.astype(values.dtype), values).all():
            raise TableError(f"the predictions changed during the load: {dtype} does not hold them; load again")
    return narrow


def _byte_planes(values: NDArray[Any]) -> NDArray[np.uint8]:
    columns, rows = values.shape
    return values.view(np.uint8).reshape(columns, rows, values.itemsize).transpose(2, 0, 1)


def _equal(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (left == right) | ((left != left) & (right != right))
    return same


def _single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _integers_that_hold(low: float, high: float) -> Iterator[str]:
    """Yield the integer dtypes that hold both numbers, narrowest first. Python compares int and float exactly."""
    for dtype in _INTEGERS:
        bounds = np.iinfo(dtype)
        if int(bounds.min) <= low and high <= int(bounds.max):
            yield dtype
