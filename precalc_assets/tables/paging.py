"""Dividing a shard's rows into pages: the number of pages, and which rows each one holds.

`page_writer` encodes a page; `loader` stores it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from precalc.identifiers import INCHIKEY
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import key_digests, key_hash, shard_index
from precalc_assets.tables.directory import PageSet, TableColumns
from precalc_assets.tables.page_writer import DtypeChooser, PageEncoder, Rows, Texts, text_bytes
from precalc_assets.tables.pages import PageLayout, page_layout
from precalc_assets.tables.store import MAX_ITEM_BYTES, Item

PAGE_BYTES = 3_500
"""Target mean size of a page item: most pages stay below the 4 KB that half a read unit pays for."""
MAX_PAGES = 1 << 20
"""The most pages of a shard, when pages are split until the largest one fits into an item."""
_ITEM_OVERHEAD = 64
"""The most bytes of an item besides its page: a key such as `0007/0123456789abcdef.1000/1048575` and two names."""
_BLOCK_VALUES = 1 << 21
"""Values per block, 16 MB as float64, independent of the size of the batches."""
_SAMPLE_ROWS = 4_096
"""Rows for trial pages: a page of 3,500 bytes has 437 molecules at most, by their hashes alone."""
_SAMPLE_BYTES = 8 << 20
"""The most bytes of these rows before encoding."""
_TRIAL_PAGES = 8
"""Pages per trial: their mean is within 2 % of the shard's for typical models."""
_TRIALS = 6
"""The most trials. A page's size is almost linear in its rows, so the third trial rarely changes the result."""


Batches = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The rows of a shard, read again on each pass.

    `batches` must yield the same record batches each time: `inchikey` (string) and one column per output (float64,
    int64 or string, nulls allowed), in ascending order of `key_hash`.
    """

    table: TableColumns
    shard: str
    batches: Batches
    known: dict[int, tuple[bytes, NDArray[np.uint64]]] = field(default_factory=dict)
    """By block, the digest of its InChIKeys and their hashes, so that later passes need not hash them again."""

    @property
    def name(self) -> str:
        """The name of these rows in errors."""
        return f"{self.table.model} shard {self.shard}"

    def blocks(self) -> Iterator[Rows]:
        """Yield the rows in bounded blocks. Raises TableError for a missing column or a misplaced row."""
        names = ["inchikey", *(column.name for column in self.table.columns)]
        size = max(1, _BLOCK_VALUES // len(names))
        last, number = -1, 0
        for batch in self.batches():
            missing = set(names) - set(batch.schema.names)
            if missing:
                raise TableError(f"{self.name}: column {min(missing)!r} is missing; make the predictions again")
            for start in range(0, batch.num_rows, size):
                block = batch.select(names).slice(start, size)
                hashes = self._hashes(number, block.column("inchikey"), last)
                last, number = int(hashes[-1]), number + 1
                yield Rows(hashes, block)

    def items(self, layout: PageLayout, pages: PageSet) -> Iterator[tuple[Item, int]]:
        """Yield each page's item and its number of molecules, in order, including empty pages."""
        for page, inchikeys, value in self.encoded(layout, pages.n_pages, PageEncoder.encode):
            yield Item(pages.key(self.shard, page), value), len(inchikeys)

    def encoded(
        self, layout: PageLayout, n_pages: int, encode: Callable[[PageEncoder, int, int], bytes]
    ) -> Iterator[tuple[int, pa.Array, bytes]]:
        """Yield each page's index, InChIKeys and bytes, as `encode` makes them."""
        first = 0
        for rows, until in self._whole_pages(n_pages):
            encoder = PageEncoder(layout, self.table.columns, rows)
            starts = np.searchsorted(self.page_of(rows.hashes, n_pages), np.arange(first, until + 1))
            inchikeys = rows.batch.column("inchikey")
            for page, (start, stop) in enumerate(pairwise(starts.tolist()), first):
                yield page, inchikeys[start:stop], encode(encoder, start, stop)
            first = until

    def page_of(self, hashes: NDArray[np.uint64], n_pages: int) -> NDArray[np.int64]:
        """Return `pages.page_index` of each hash, for n_pages < 2^32."""
        r = hashes * np.uint64(self.table.n_shards)  # modulo 2^64, as uint64 is
        # (r * n_pages) >> 64 needs 96 bits, so multiply the halves of r separately.
        half, low, factor = np.uint64(32), np.uint64((1 << 32) - 1), np.uint64(n_pages)
        return (((r >> half) * factor + (((r & low) * factor) >> half)) >> half).astype(np.int64)

    def _whole_pages(self, n_pages: int) -> Iterator[tuple[Rows, int]]:
        """Yield rows that fill whole pages, and the index after their last page."""
        rest: Rows | None = None
        for block in self.blocks():
            rows = Rows.concat([rest, block]) if rest else block
            pages = self.page_of(rows.hashes, n_pages)
            # The next block may have more molecules of the last page.
            whole = int(np.searchsorted(pages, pages[-1]))
            if whole:
                yield rows[:whole], int(pages[-1])
            # A copy, since a slice would keep all of the block in memory.
            rest = Rows.concat([rows[whole:]])
        if rest:
            yield rest, n_pages

    def _hashes(self, block: int, inchikeys: pa.Array, last: int) -> NDArray[np.uint64]:
        """Return the molecules' hashes. Raises TableError unless they ascend from `last` and belong to the shard."""
        texts = Texts(inchikeys)
        digest = sha256(texts.data[texts.ends[0] : texts.ends[-1]]).digest()
        if block in self.known and self.known[block][0] == digest:
            return self.known[block][1]
        well_formed = pc.match_substring_regex(inchikeys, INCHIKEY.pattern.replace(r"\Z", "$"))
        if not inchikeys.null_count and pc.all(well_formed).as_py():
            hashes = np.frombuffer(key_digests(inchikeys.to_pylist()), ">u8").astype(np.uint64)
            ends = {shard_index(int(h), self.table.n_shards) for h in hashes[[0, -1]]}
            if ends == {int(self.shard)} and int(hashes[0]) > last and bool((hashes[1:] > hashes[:-1]).all()):
                self.known[block] = digest, hashes
                return hashes
        raise TableError(f"{self.name}: {self._fault(inchikeys.to_pylist(), last)}")

    def _fault(self, inchikeys: list[str | None], last: int) -> str:
        for inchikey in inchikeys:
            if inchikey is None or not INCHIKEY.match(inchikey):
                return f"{inchikey!r} is not an InChIKey; make the predictions again"
            h = key_hash(inchikey)
            if shard_index(h, self.table.n_shards) != int(self.shard):
                return f"{inchikey} belongs to another shard; make the predictions again"
            if h <= last:
                fault = "is duplicated" if h == last else "is out of order"
                return f"{inchikey} {fault}; sort the predictions by key_hash, without duplicates"
            last = h
        raise AssertionError("the molecules are in order")


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of the first pass over a shard's rows."""

    rows: int
    dtypes: tuple[str, ...]
    layout: PageLayout
    n_pages: int


def make_plan(rows: ShardRows) -> Plan:
    """Choose the dtypes and the number of pages. The result depends on the rows, not on how they are batched.

    Raises TableError when a row is too large for a page.
    """
    columns = rows.table.columns
    chooser = DtypeChooser(columns)
    hashes = [np.empty(0, np.uint64)]
    widest_text = 0
    for block in rows.blocks():
        chooser.add(block.batch)
        hashes.append(block.hashes)
        widest_text = max(widest_text, int(text_bytes(block.batch, columns).max()))
    dtypes = chooser.dtypes()
    layout = page_layout(tuple(column.type for column in columns), dtypes)
    keys = np.concatenate(hashes)
    n_pages = 0
    if len(keys):
        sample = _first_rows(rows)
        per_page = _molecules_per_page(PageEncoder(layout, columns, sample), len(sample))
        # More pages than molecules would leave pages empty that still cost a unit each.
        n_pages = min(len(keys), max(1, round(len(keys) / per_page)))
        n_pages = _with_room(rows, layout, keys, layout.row_bytes + widest_text, n_pages)
    return Plan(len(keys), dtypes, layout, n_pages)


def _first_rows(rows: ShardRows) -> Rows:
    """Return the first rows, for trial pages. Rows are in the order of a hash, so the first are a random sample."""
    parts: list[Rows] = []
    rows_left, bytes_left = _SAMPLE_ROWS, _SAMPLE_BYTES
    for block in rows.blocks():
        columns = rows.table.columns
        ends = np.cumsum(text_bytes(block.batch, columns) + 8 * len(columns))
        count = min(rows_left, 1 + int(np.searchsorted(ends, bytes_left)), len(block))
        parts.append(block[:count])
        rows_left -= count
        bytes_left -= int(ends[count - 1])
        if rows_left <= 0 or bytes_left <= 0:
            break
    return Rows.concat(parts)


def _molecules_per_page(encoder: PageEncoder, n_rows: int) -> float:
    """Estimate how many rows make a page item of PAGE_BYTES; possibly less than one, or more than `n_rows`."""
    per_page = 32.0
    for _ in range(_TRIALS):
        count = min(n_rows, max(1, round(per_page)))
        starts = range(0, n_rows - count + 1, max(count, (n_rows - count) // _TRIAL_PAGES))
        sizes = [len(encoder.encode(start, start + count)) + _ITEM_OVERHEAD for start in starts]
        per_page, before = count * PAGE_BYTES * len(sizes) / sum(sizes), per_page
        if abs(per_page - before) < 0.02 * before:
            break
    return per_page


def _with_room(rows: ShardRows, layout: PageLayout, keys: NDArray[np.uint64], row_bytes: int, n_pages: int) -> int:
    """Double the number of pages until every page fits into an item, and return it."""
    limit = MAX_ITEM_BYTES - _ITEM_OVERHEAD
    while True:
        fullest = int(np.unique(rows.page_of(keys, n_pages), return_counts=True)[1].max())
        # zstd adds at most 1/256 and some bytes to data that cannot be compressed (ZSTD_COMPRESSBOUND).
        if fullest * row_bytes * 257 // 256 + 128 <= limit:
            return n_pages
        pages = rows.encoded(layout, n_pages, PageEncoder.encode)
        crowded = next((page for page in pages if len(page[2]) > limit), None)
        if crowded is None:
            return n_pages
        _, inchikeys, value = crowded
        if len(inchikeys) == 1 or n_pages * 2 > MAX_PAGES:
            raise TableError(
                f"{rows.name}: {', '.join(inchikeys.to_pylist()[:3])} take {len(value)} bytes on a page of their own,"
                f" but an item has room for {limit}; give the model fewer or shorter columns"
            )
        n_pages *= 2
