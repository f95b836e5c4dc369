"""The page format as a reader sees it: where a molecule is, and how its values are taken out of a page.

How pages are made is not here: see `page_writer`. Standard library and zstandard only: the Lambda imports it.

A page is one zstd frame, with its content size and a checksum, of:

    n        u4, the number of molecules
    hashes   n × u8, the molecules' `key_hash`, ascending
    groups   of the columns with the same dtype, in the order of `DTYPES`; for one dtype first the columns that are
             shown as that dtype, then the float columns that are stored as integers; of both first those without
             nulls. In a group the columns keep their order.

A group of c columns is a sequence of byte planes of c × n bytes, column by column, so that the bytes of molecule i
are `plane[i::n]`:

    validity   one plane, 1 for a value and 0 for a null; only in a group with nulls
    values     as many planes as the dtype is wide, the lowest byte first; a null is stored as 0
    utf8       four planes with the lengths in bytes, then the texts themselves, column by column

All numbers are little-endian. Byte planes put the bytes that resemble each other side by side, which is what makes
a page small; taking every n-th byte out again costs nothing that numpy would be needed for. A page without molecules
is written like any other, so a page that is not there is always a loss.
"""

import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

import zstandard

from precalc_assets.columns import ColumnType
from precalc_assets.errors import TableError
from precalc_assets.sharding import HASH_SPACE

FORMAT_VERSION = 1
"""Goes into every generation, so that a change of the format makes all pages anew."""

Value: TypeAlias = float | int | str | None
"""One prediction; the column's type says which of them, None is a null."""

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
"""Ends the dtype of a column that has nulls in its shard."""

_COUNT = struct.Struct("<I")
_HASH_BYTES = 8
_thread = threading.local()


def page_index(h: int, n_shards: int, n_pages: int) -> int:
    """Return the page of a molecule in its shard, 0 ≤ index < n_pages, ascending with `h` within a shard."""
    return ((h * n_shards) % HASH_SPACE * n_pages) >> 64


@dataclass(frozen=True, slots=True)
class Group:
    """The columns that lie together in a page: `positions` are their places among the table's columns."""

    dtype: str
    nullable: bool
    as_float: bool
    positions: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of byte planes of the values, or of a text's length."""
        return DTYPES[self.dtype][0]


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How the pages of one generation of a shard are laid out.

    `order` says for each column of the table where it is found when the groups are read one after the other.
    """

    groups: tuple[Group, ...]
    order: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes that one molecule takes in a page before compression, without the bytes of its texts."""
        return _HASH_BYTES + sum((g.width + g.nullable) * len(g.positions) for g in self.groups)


@lru_cache(maxsize=64)
def page_layout(types: tuple[ColumnType, ...], dtypes: tuple[str, ...]) -> PageLayout:
    """Return the layout for columns of these types, stored as these dtypes (`u1`, `f8?`, … one a column)."""
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
    return PageLayout(groups, tuple(found[position] for position in range(len(dtypes))))


class Page:
    """One page, unpacked.

    Raises TableError when the bytes are not a whole page.
    """

    def __init__(self, layout: PageLayout, value: bytes) -> None:
        self._layout = layout
        self._payload = decompress(value)
        (n,) = _COUNT.unpack_from(self._payload)
        self.hashes: tuple[int, ...] = struct.unpack_from(f"<{n}Q", self._payload, _COUNT.size)

    def row(self, h: int) -> tuple[Value, ...] | None:
        """Return a molecule's values, in the order and the types of the table's columns; None when it is not here."""
        i = bisect_left(self.hashes, h)
        if i == len(self.hashes) or self.hashes[i] != h:
            return None
        values: list[Value] = []
        start = _COUNT.size + _HASH_BYTES * len(self.hashes)
        for group in self._layout.groups:
            found, start = self._read_group(group, i, start)
            values.extend(found)
        return tuple(map(values.__getitem__, self._layout.order))

    def _read_group(self, group: Group, i: int, start: int) -> tuple[Iterable[Value], int]:
        """Return molecule i's values of a group that starts at a place in the payload, and the place behind it."""
        n = len(self.hashes)
        plane = len(group.positions) * n
        valid = b""
        if group.nullable:
            valid = self._payload[start + i : start + plane : n]
            start += plane
        end = start + group.width * plane
        values: Iterable[Value]
        if group.dtype == "utf8":
            values, end = self._read_texts(start, plane, i)
        else:
            values = self._unpack(group.dtype, start, plane, i, n)
        if group.as_float:
            values = map(float, values)
        if group.nullable:
            values = [value if there else None for value, there in zip(values, valid, strict=True)]
        return values, end

    def _read_texts(self, start: int, plane: int, i: int) -> tuple[list[str], int]:
        n = len(self.hashes)
        lengths: Sequence[int] = self._unpack("utf8", start, plane, 0, 1)
        ends = list(accumulate(lengths, initial=start + DTYPES["utf8"][0] * plane))
        texts = [self._payload[ends[at] : ends[at + 1]].decode() for at in range(i, plane, n)]
        return texts, ends[-1]

    def _unpack(self, dtype: str, start: int, plane: int, i: int, step: int) -> tuple[int, ...]:
        """Return every `step`-th number from the i-th on, out of the byte planes that start at a place."""
        width, code = DTYPES[dtype]
        count = len(range(i, plane, step))
        numbers = bytearray(count * width)
        for byte in range(width):
            at = start + byte * plane
            numbers[byte::width] = self._payload[at + i : at + plane : step]
        return struct.unpack(f"<{count}{code}", numbers)


def decompress(value: bytes) -> bytes:
    """Return the content of a zstd frame, checked against its checksum.

    Raises TableError when the frame is damaged.
    """
    # Making a decompressor costs more than using it, and one must not be used by two threads at once.
    decompressor: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _thread.decompressor = zstandard.ZstdDecompressor()
    try:
        return decompressor.decompress(value)
    except zstandard.ZstdError as error:
        raise TableError(
            f"an item of the table is damaged ({error}); serve the model again, after `precalc drop` if need be"
        ) from error
