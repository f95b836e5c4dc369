"""The page format, and reading it: which page a molecule is on, and how to get its values from the page.

`page_writer` encodes pages. Standard library and zstandard only: the Lambda imports this module.

A page is one zstd frame, with its content size and a checksum, of:

    n        u4, the number of molecules
    hashes   n × u8, the molecules' `key_hash`, ascending
    listed   u4, the number of listed bytes of the numbers, or `NOT_LISTED`
    numbers  the groups of numbers: all their bytes, or where most are 0, a list of those that are not
    texts    the groups of texts

A group is the columns of a dtype. Groups are in the order of `DTYPES`; within a dtype first the columns shown as that
dtype, then the float columns stored as integers; of each, first those without nulls. Within a group the columns keep
their order. A group of c columns is a sequence of byte planes of c × n bytes, column by column, so that the bytes of
molecule i are `plane[i::n]`:

    nulls      one plane, 1 for a null; only in a group with nulls
    values     one plane per byte of the dtype, the lowest byte first; a null is stored as 0
    utf8       four planes with the lengths in bytes, then the texts themselves, column by column

A list is `listed` × u1, the distance of each byte from the one before it, or from the start of the numbers, then
`listed` × u1, the bytes themselves. A distance above 255 is divided by bytes of 0. For 2,048 counts, of which 3 % are
not 0, a list takes a quarter less space than all bytes, and a tenth of the time to compress.

All numbers are little-endian. Byte planes put similar bytes side by side, so pages compress well, and a slice with a
stride reads them back without numpy. Pages without molecules are written too, so a missing page always means data loss.
"""

import struct
import threading
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import TypeAlias

import zstandard

from precalc.source import ColumnType
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import HASH_SPACE

FORMAT_VERSION = 2
"""Part of every generation's digest, so a change of the format rewrites all pages."""

Value: TypeAlias = float | int | str | None
"""One prediction, of the column's type; None is a null."""

# numpy's name of a dtype, its width in bytes, its code in `struct`. Narrowest first.
DTYPES: dict[str, tuple[int, str]] = {
    "u1": (1, "B"),
    "i1": (1, "b"),
    "u2": (2, "H"),
    "i2": (2, "h"),
    "u4": (4, "I"),
    "i4": (4, "i"),
    "f4": (4, "f"),
    "u8": (8, "Q"),
    "i8": (8, "q"),
    "f8": (8, "d"),
    "utf8": (4, "I"),
}
NULLABLE = "?"
"""Suffix of the dtype of a column with nulls in its shard."""

_COUNT = struct.Struct("<I")
_HASH_BYTES = 8
NOT_LISTED = (1 << 32) - 1
MAX_CONTENT_BYTES = 256 << 20
"""The most bytes of an item's content, or of a page's numbers, that a reader believes in."""
_NARROW = 64
"""Up to this many columns, a slice per column is faster than one per byte plane: 0.6 against 1.9 µs for 10 doubles, 9.6
against 5.2 µs for 200."""
_OVERHEAD = 500
"""Bytes of the objects of a page without its content."""
_BLOCK = 256
"""Listed bytes whose distances are added up together. The sum is less than 2^16."""
_DAMAGED = "an item of the table is damaged"
_WAY_OUT = "run `precalc verify MODEL --repair`, or drop the table and load the model again"
_thread = threading.local()


def page_index(h: int, n_shards: int, n_pages: int) -> int:
    """Return the page of a molecule in its shard, 0 ≤ index < n_pages, ascending with `h` within a shard."""
    return ((h * n_shards) % HASH_SPACE * n_pages) >> 64


@dataclass(frozen=True, slots=True)
class Group:
    """Columns stored together: their `positions` in the table, and the places in the group of those `read`."""

    dtype: str
    nullable: bool
    as_float: bool
    positions: tuple[int, ...]
    read: tuple[int, ...]

    @property
    def width(self) -> int:
        """The number of byte planes of the values, or of a text's length."""
        return DTYPES[self.dtype][0]


@dataclass(frozen=True, slots=True, eq=False)
class PageLayout:
    """The layout of the pages of one generation of a shard, and which of its columns are read.

    `order` gives, for each column of a row, its index when the groups are read in sequence, -1 for a column that the
    pages do not have; None if the columns are in sequence. `numbers` reads all groups except those of texts, which come
    last. One molecule has `n_bytes` bytes in these groups; `kept` are those that are read, None for all. A row without
    nulls `is_bytes` if its columns are one group whose values are bytes, in order.
    """

    groups: tuple[Group, ...]
    order: tuple[int, ...] | None
    numbers: "_Numbers" = field(repr=False)
    reads_texts: bool
    n_bytes: int
    kept: tuple[int, ...] | None
    is_bytes: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one molecule in a page before compression, without its texts."""
        return _HASH_BYTES + sum((g.width + g.nullable) * len(g.positions) for g in self.groups)


class _Numbers:
    """Reads one molecule's numbers in the read columns of all groups without texts.

    Each plane has one byte per column and molecule, and the planes are contiguous. So every n-th byte of them is one
    molecule's: group by group, plane by plane, column by column.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        codes: list[str] = []
        columns: list[slice] = []
        planes: list[tuple[slice, slice]] = []
        nullable: list[tuple[int, int]] = []
        floats: list[int] = []
        at = count = start = 0
        narrow = True
        for group in groups:
            width, code = DTYPES[group.dtype]
            n = len(group.read)
            places = range(count, count + n)
            if group.nullable:
                nullable += zip(places, range(at, at + n), strict=True)
                at += n
            if group.as_float:
                floats += places
            codes.append(f"{n}{code}")
            end = at + width * n
            # The bytes of a single plane are in order already.
            columns += [slice(at, end)] if width == 1 else [slice(at + i, end, n) for i in range(n)]
            narrow = narrow and (width == 1 or n <= _NARROW)
            stop = start + width * n
            planes += [(slice(start + b, stop, width), slice(at + b * n, at + b * n + n)) for b in range(width)]
            at, count, start = end, count + n, stop
        self._unpack: Callable[[bytes | bytearray], tuple[float, ...]] = struct.Struct("<" + "".join(codes)).unpack
        # The two extra slices make itemgetter return a tuple even for one column or none.
        self._pick = itemgetter(*columns, slice(0), slice(0)) if narrow else None
        self._planes = planes
        self._size = start
        self._nullable = nullable
        self._floats = floats

    def read_bytes(self, taken: bytes | bytearray) -> bytes | None:
        """Return the numbers of a single group of bytes, None if there are nulls among them. Raises ValueError."""
        n_nulls = len(self._nullable)
        if len(taken) != n_nulls + self._size:
            raise ValueError(f"{len(taken):,} bytes instead of {n_nulls + self._size:,}")
        return bytes(taken[n_nulls:]) if taken.count(0, 0, n_nulls) == n_nulls else None

    def read(self, taken: bytes | bytearray) -> Sequence[Value]:
        """Return the numbers in a molecule's bytes, group by group."""
        if self._pick:
            numbers = self._unpack(b"".join(self._pick(taken)))
        else:
            interleaved = bytearray(self._size)
            for place, plane in self._planes:
                interleaved[place] = taken[plane]
            numbers = self._unpack(interleaved)
        if not (self._floats or self._nullable):
            return numbers
        values: list[Value] = list(numbers)
        for at in self._floats:
            values[at] = float(numbers[at])
        for at, null in self._nullable:
            if taken[null]:
                values[at] = None
        return values


@lru_cache(maxsize=64)
def page_layout(types: tuple[ColumnType, ...], dtypes: tuple[str, ...]) -> PageLayout:
    """Return the layout that reads all columns of these types, stored as these dtypes (`u1`, `f8?`, …, one each)."""
    grouped: dict[tuple[int, bool, bool], list[int]] = {}
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    for position, (kind, stored) in enumerate(zip(types, dtypes, strict=True)):
        dtype = stored.removesuffix(NULLABLE)
        as_float = kind == "float" and not dtype.startswith("f")
        grouped.setdefault((ranks[dtype], as_float, stored != dtype), []).append(position)
    names = list(DTYPES)
    groups = tuple(
        Group(names[rank], nullable, as_float, tuple(positions), tuple(range(len(positions))))
        for (rank, as_float, nullable), positions in sorted(grouped.items())
    )
    return _layout(groups, range(len(dtypes)), None)


@lru_cache(maxsize=64)
def narrowed(layout: PageLayout, columns: tuple[int | None, ...]) -> PageLayout:
    """Return the layout of which only these columns are read, in this order; None is a column that it does not have."""
    wanted = set(columns)
    kept: list[int] = []
    groups = []
    start = 0
    for group in layout.groups:
        read = tuple(at for at, position in enumerate(group.positions) if position in wanted)
        groups.append(replace(group, read=read))
        if group.dtype != "utf8":
            n, n_planes = len(group.positions), group.width + group.nullable
            kept += [start + plane * n + at for plane in range(n_planes) for at in read]
            start += n_planes * n
    return _layout(tuple(groups), columns, tuple(kept))


def _layout(groups: tuple[Group, ...], columns: Sequence[int | None], kept: tuple[int, ...] | None) -> PageLayout:
    in_sequence = [group.positions[at] for group in groups for at in group.read]
    found: dict[int | None, int] = {position: at for at, position in enumerate(in_sequence)}
    numbers = [group for group in groups if group.dtype != "utf8"]
    in_order = in_sequence == list(columns)
    read = [group for group in groups if group.read]
    return PageLayout(
        groups,
        None if in_order else tuple(found.get(column, -1) for column in columns),
        _Numbers(numbers),
        any(group.read for group in groups if group.dtype == "utf8"),
        sum((group.width + group.nullable) * len(group.positions) for group in numbers),
        kept,
        in_order and len(read) == 1 and read[0].dtype == "u1" and not read[0].as_float,
    )


class Page:
    """One unpacked page. Raises TableError when the bytes are not a whole page."""

    def __init__(self, layout: PageLayout, value: bytes) -> None:
        self.layout = layout
        self._payload = payload = decompress(value)
        try:
            (self._n,) = _COUNT.unpack_from(payload)
            hashes_end = _COUNT.size + _HASH_BYTES * self._n
            (listed,) = _COUNT.unpack_from(payload, hashes_end)
        except struct.error as error:
            raise TableError(f"{_DAMAGED} (it ends too soon); {_WAY_OUT}") from error
        size, start = layout.n_bytes * self._n, hashes_end + _COUNT.size
        if size > MAX_CONTENT_BYTES:
            raise TableError(f"{_DAMAGED} (it claims more than {MAX_CONTENT_BYTES >> 20} MB); {_WAY_OUT}")
        self._hashes = payload[_COUNT.size : hashes_end]
        self._texts_at = start + (size if listed == NOT_LISTED else 2 * listed)
        self._numbers = _read_numbers(payload[start : self._texts_at], listed != NOT_LISTED, layout, self._n)
        self._ends: list[list[int]] = []

    @property
    def size(self) -> int:
        """About the bytes of memory that the page takes."""
        return _OVERHEAD + len(self._payload) + len(self._numbers)

    @property
    def hashes(self) -> tuple[int, ...]:
        """The molecules' hashes, ascending."""
        return struct.unpack(f"<{self._n}Q", self._hashes)

    def row(self, h: int, layout: PageLayout | None = None, *, as_bytes: bool = False) -> Sequence[Value] | None:
        """Return a molecule's values, in the order and types of the read columns; None if it is not on the page.

        A page of which all columns are read can be read by a narrowed layout, too. With `as_bytes`, a row that is bytes
        stays so; all others are tuples.
        """
        i = self._find(h)
        if i is None:
            return None
        layout = layout or self.layout
        try:
            taken = self._numbers[i :: self._n]
            if layout.kept is not None and self.layout.kept is None:
                taken = bytes([taken[at] for at in layout.kept])
            if as_bytes and layout.is_bytes and (whole := layout.numbers.read_bytes(taken)) is not None:
                return whole
            values = layout.numbers.read(taken)
            if layout.reads_texts:
                values = [*values, *self._texts(i, layout)]
        except (struct.error, IndexError, ValueError) as error:
            raise TableError(f"{_DAMAGED} ({error}); {_WAY_OUT}") from error
        return tuple(values) if layout.order is None else tuple(map([*values, None].__getitem__, layout.order))

    def _find(self, h: int) -> int | None:
        """Return a molecule's index, by the raw bytes: unpacking all hashes takes as long as five searches."""
        needle = h.to_bytes(_HASH_BYTES, "little")
        at = self._hashes.find(needle)
        while at >= 0:
            i, within = divmod(at, _HASH_BYTES)
            if not within:
                return i
            # A match across two hashes.
            at = self._hashes.find(needle, at + 1)
        return None

    def _texts(self, i: int, layout: PageLayout) -> list[Value]:
        n = self._n
        if not self._ends:
            self._ends = list(self._read_ends())
        texts: list[Value] = []
        groups = [group for group in layout.groups if group.dtype == "utf8"]
        for group, ends in zip(groups, self._ends, strict=True):
            places = [column * n + i for column in group.read]
            found = [self._payload[ends[at] : ends[at + 1]].decode() for at in places]
            if group.nullable:
                start = ends[0] - (group.width + 1) * len(group.positions) * n
                texts += [None if self._payload[start + at] else text for at, text in zip(places, found, strict=True)]
            else:
                texts += found
        return texts

    def _read_ends(self) -> Iterator[list[int]]:
        """Yield, for each group of texts, the offset of each text in the payload and the end of the last one."""
        start = self._texts_at
        for group in self.layout.groups:
            if group.dtype == "utf8":
                plane = len(group.positions) * self._n
                lengths_at = start + group.nullable * plane
                numbers = bytearray(group.width * plane)
                for byte in range(group.width):
                    at = lengths_at + byte * plane
                    numbers[byte :: group.width] = self._payload[at : at + plane]
                lengths = struct.unpack(f"<{plane}{DTYPES['utf8'][1]}", numbers)
                ends = list(accumulate(lengths, initial=lengths_at + group.width * plane))
                start = ends[-1]
                yield ends


def _read_numbers(stored: bytes, is_list: bool, layout: PageLayout, n: int) -> bytes | bytearray:
    """Return the bytes of the numbers that are read, of `n` molecules, from all bytes or the list of them."""
    kept = layout.kept
    if not is_list:
        return stored if kept is None else b"".join([stored[at * n : (at + 1) * n] for at in kept])
    count = len(stored) // 2
    distances, values = stored[:count], stored[count:]
    ends = _block_ends(distances)
    if len(values) != count or (ends and ends[-1] >= layout.n_bytes * n):
        raise TableError(f"{_DAMAGED} (it lists bytes that it has no room for); {_WAY_OUT}")
    if kept is not None:
        return _some_numbers(distances, values, ends, kept, n)
    numbers = bytearray(layout.n_bytes * n)
    for place, byte in zip(accumulate(distances), values, strict=True):
        numbers[place] = byte
    return numbers


def _block_ends(distances: bytes) -> list[int]:
    """Return the place of the last byte of each block of a list, without adding up its distances one by one."""
    # The lower half of Adler-32 is 1 plus the sum of the bytes, modulo 65,521, which 256 bytes cannot reach.
    sums = (zlib.adler32(distances[at : at + _BLOCK]) & 0xFFFF for at in range(0, len(distances), _BLOCK))
    return list(accumulate(total - 1 for total in sums))


def _some_numbers(distances: bytes, values: bytes, ends: list[int], kept: Sequence[int], n: int) -> bytearray:
    """Return the `n` bytes of each of these byte columns, which ascend, from a list with blocks that end at `ends`."""
    numbers = bytearray(len(kept) * n)
    opened, places = -1, [0]
    for at, column in enumerate(kept):
        start, stop = column * n, (column + 1) * n
        block = bisect_left(ends, start)
        while block < len(ends):
            first = block * _BLOCK
            if block != opened:
                opened, before = block, ends[block - 1] if block else 0
                places = list(accumulate(distances[first : first + _BLOCK], initial=before))[1:]
            low = bisect_left(places, start)
            high = bisect_left(places, stop, low)
            for which in range(low, high):
                numbers[places[which] - start + at * n] = values[first + which]
            if high < len(places):
                break
            block += 1
    return numbers


def decompress(value: bytes) -> bytes:
    """Return the content of a zstd frame, and verify its checksum. Raises TableError when the frame is damaged."""
    # Creating a decompressor costs more than using it, and threads must not share one.
    decompressor: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _thread.decompressor = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(value) > MAX_CONTENT_BYTES:
            raise TableError(f"{_DAMAGED} (it claims more than {MAX_CONTENT_BYTES >> 20} MB); {_WAY_OUT}")
        return decompressor.decompress(value)
    except zstandard.ZstdError as error:
        raise TableError(f"{_DAMAGED} ({error}); {_WAY_OUT}") from error
