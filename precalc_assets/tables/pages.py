"""The page format, and reading it: which page a molecule is on, and how to get its values from the page.

`page_writer` encodes pages. Standard library and zstandard only: the Lambda imports this module.

A page is one zstd frame, with its content size and a checksum, of:

    n        u4, the number of molecules
    hashes   n × u8, the molecules' `key_hash`, ascending
    groups   the columns, grouped by dtype in the order of `DTYPES`; within a dtype first the columns shown as that
             dtype, then the float columns stored as integers; of each, first those without nulls. Within a group
             the columns keep their order.

A group of c columns is a sequence of byte planes of c × n bytes, column by column, so that the bytes of molecule i
are `plane[i::n]`:

    validity   one plane, 1 for a value and 0 for a null; only in a group with nulls
    values     one plane per byte of the dtype, the lowest byte first; a null is stored as 0
    utf8       four planes with the lengths in bytes, then the texts themselves, column by column

All numbers are little-endian. Byte planes put similar bytes side by side, so pages compress well, and a slice with a
stride reads them back without numpy. Pages without molecules are written too, so a missing page always means data loss.
"""

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import TypeAlias

import zstandard

from precalc_assets.columns import ColumnType
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import HASH_SPACE

FORMAT_VERSION = 1
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
_NARROW = 64
"""Up to this many columns, a slice per column is faster than one per byte plane: 0.6 against 1.9 µs for 10 doubles, 9.6
against 5.2 µs for 200."""
_thread = threading.local()


def page_index(h: int, n_shards: int, n_pages: int) -> int:
    """Return the page of a molecule in its shard, 0 ≤ index < n_pages, ascending with `h` within a shard."""
    return ((h * n_shards) % HASH_SPACE * n_pages) >> 64


@dataclass(frozen=True, slots=True)
class Group:
    """Columns stored together in a page; `positions` are their indices among the table's columns."""

    dtype: str
    nullable: bool
    as_float: bool
    positions: tuple[int, ...]

    @property
    def width(self) -> int:
        """The number of byte planes of the values, or of a text's length."""
        return DTYPES[self.dtype][0]


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The layout of the pages of one generation of a shard.

    `order` gives, for each column of the table, its index when the groups are read in sequence. `numbers` reads all
    groups except those of texts, which come last.
    """

    groups: tuple[Group, ...]
    order: tuple[int, ...]
    numbers: "_Numbers" = field(compare=False, repr=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one molecule in a page before compression, without its texts."""
        return _HASH_BYTES + sum((g.width + g.nullable) * len(g.positions) for g in self.groups)


class _Numbers:
    """Reads one molecule's numbers in all groups without texts.

    Each plane has one byte per column and molecule, and the planes are contiguous. So every n-th byte of them
    (`n_bytes` in all) is one molecule's: group by group, plane by plane, column by column.
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
            n = len(group.positions)
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
        self.n_bytes = at
        self._unpack: Callable[[bytes | bytearray], tuple[float, ...]] = struct.Struct("<" + "".join(codes)).unpack
        # The two extra slices make itemgetter return a tuple even for one column or none.
        self._pick = itemgetter(*columns, slice(0), slice(0)) if narrow else None
        self._planes = planes
        self._size = start
        self._nullable = nullable
        self._floats = floats

    def read(self, taken: bytes) -> Sequence[Value]:
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
        for at, valid in self._nullable:
            if not taken[valid]:
                values[at] = None
        return values


@lru_cache(maxsize=64)
def page_layout(types: tuple[ColumnType, ...], dtypes: tuple[str, ...]) -> PageLayout:
    """Return the layout for columns of these types, stored as these dtypes (`u1`, `f8?`, …, one per column)."""
    grouped: dict[tuple[int, bool, bool], list[int]] = {}
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    for position, (kind, stored) in enumerate(zip(types, dtypes, strict=True)):
        dtype = stored.removesuffix(NULLABLE)
        as_float = kind == "float" and not dtype.startswith("f")
        grouped.setdefault((ranks[dtype], as_float, stored != dtype), []).append(position)
    names = list(DTYPES)
    groups = tuple(
        Group(names[rank], nullable, as_float, tuple(positions))
        for (rank, as_float, nullable), positions in sorted(grouped.items())
    )
    found = {position: at for at, position in enumerate(p for group in groups for p in group.positions)}
    numbers = _Numbers([group for group in groups if group.dtype != "utf8"])
    return PageLayout(groups, tuple(found[position] for position in range(len(dtypes))), numbers)


class Page:
    """One unpacked page. Raises TableError when the bytes are not a whole page."""

    def __init__(self, layout: PageLayout, value: bytes) -> None:
        self._layout = layout
        self._payload = decompress(value)
        (self._n,) = _COUNT.unpack_from(self._payload)
        self._hashes_end = _COUNT.size + _HASH_BYTES * self._n
        self._texts_at = self._hashes_end + layout.numbers.n_bytes * self._n
        self._ends: list[list[int]] = []

    @property
    def hashes(self) -> tuple[int, ...]:
        """The molecules' hashes, ascending."""
        return struct.unpack_from(f"<{self._n}Q", self._payload, _COUNT.size)

    def row(self, h: int) -> tuple[Value, ...] | None:
        """Return a molecule's values, in the order and types of the table's columns; None if it is not on the page."""
        i = self._find(h)
        if i is None:
            return None
        layout = self._layout
        values = layout.numbers.read(self._payload[self._hashes_end + i : self._texts_at : self._n])
        if len(values) < len(layout.order):
            values = [*values, *self._texts(i)]
        # A single group is in order already.
        return tuple(values) if len(layout.groups) == 1 else tuple(map(values.__getitem__, layout.order))

    def _find(self, h: int) -> int | None:
        """Return a molecule's index in the page.

        Searches the raw bytes: unpacking all hashes takes as long as five searches.
        """
        needle = h.to_bytes(_HASH_BYTES, "little")
        at = self._payload.find(needle, _COUNT.size, self._hashes_end)
        while at >= 0:
            i, within = divmod(at - _COUNT.size, _HASH_BYTES)
            if not within:
                return i
            # A match across two hashes.
            at = self._payload.find(needle, at + 1, self._hashes_end)
        return None

    def _texts(self, i: int) -> list[Value]:
        """Return molecule i's texts, group by group."""
        n = self._n
        if not self._ends:
            self._ends = list(self._read_ends())
        texts: list[Value] = []
        groups = [group for group in self._layout.groups if group.dtype == "utf8"]
        for group, ends in zip(groups, self._ends, strict=True):
            plane = len(group.positions) * n
            found = [self._payload[ends[at] : ends[at + 1]].decode() for at in range(i, plane, n)]
            if group.nullable:
                start = ends[0] - (group.width + 1) * plane
                valid = self._payload[start + i : start + plane : n]
                texts += [text if there else None for text, there in zip(found, valid, strict=True)]
            else:
                texts += found
        return texts

    def _read_ends(self) -> Iterator[list[int]]:
        """Yield, for each group of texts, the offset of each text in the payload and the end of the last one."""
        start = self._texts_at
        for group in self._layout.groups:
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


def decompress(value: bytes) -> bytes:
    """Return the content of a zstd frame, and verify its checksum. Raises TableError when the frame is damaged."""
    # Creating a decompressor costs more than using it, and threads must not share one.
    decompressor: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _thread.decompressor = zstandard.ZstdDecompressor()
    try:
        return decompressor.decompress(value)
    except zstandard.ZstdError as error:
        raise TableError(
            f"an item of the table is damaged ({error}); load the model again, after `precalc drop` if need be"
        ) from error
