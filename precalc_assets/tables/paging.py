"""Dividing a shard's rows into pages: how many pages there are, and which rows each of them holds.

How a page is encoded is in `page_writer`; what is done with it in `loader`.
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
"""The mean size of a page item: most pages stay below the 4 KB that half a read unit pays for."""
MAX_PAGES = 1 << 20
"""Pages that a shard may be spread over to keep its largest page below the limit of an item."""
_ITEM_OVERHEAD = 64
"""Bytes of a page item beside its page, at most: a key such as `0007/0123456789abcdef.1000/1048575` and two names."""
_BLOCK_VALUES = 1 << 21
"""Values that are worked on at once, 16 MB as float64, however large the batches are."""
_SAMPLE_ROWS = 4_096
"""Rows that trial pages are made of: a page of 3,500 bytes has 437 molecules at most, by their hashes alone."""
_SAMPLE_BYTES = 16 << 20
"""Bytes that these rows may take before they are encoded."""
_TRIAL_PAGES = 8
"""Pages per trial: their mean is within 2 % of the shard's for what models put out."""
_TRIALS = 6
"""Trials at most; a page's size grows almost linearly with its rows, so the third mostly changes nothing."""


Batches = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The rows of a shard, read anew at each pass. `batches` is as `load_shard` takes it."""

    table: TableColumns
    shard: str
    batches: Batches
    known: dict[int, tuple[bytes, NDArray[np.uint64]]] = field(default_factory=dict)
    """By block, a digest of the InChIKeys and their hashes, so that no pass but the first has to hash again."""

    @property
    def name(self) -> str:
        """What errors call these rows."""
        return f"{self.table.model} shard {self.shard}"

    def blocks(self) -> Iterator[Rows]:
        """Yield the rows in blocks of bounded size, none of them empty.

        Raises TableError for a row that is out of order or does not belong here.
        """
        names = ["inchikey", *(column.name for column in self.table.columns)]
        size = max(1, _BLOCK_VALUES // len(names))
        last, number = -1, 0
        for batch in self.batches():
            missing = set(names) - set(batch.schema.names)
            if missing:
                raise TableError(f"{self.name}: column {min(missing)!r} is not there; make the predictions again")
            for start in range(0, batch.num_rows, size):
                block = batch.select(names).slice(start, size)
                hashes = self._hashes(number, block.column("inchikey"), last)
                last, number = int(hashes[-1]), number + 1
                yield Rows(hashes, block)

    def items(self, layout: PageLayout, pages: PageSet) -> Iterator[tuple[Item, int]]:
        """Yield each page's item and the number of its molecules, in order, the empty ones too."""
        for page, inchikeys, value in self.encoded(layout, pages.n_pages):
            yield Item(pages.key(self.shard, page), value), len(inchikeys)

    def encoded(self, layout: PageLayout, n_pages: int) -> Iterator[tuple[int, pa.Array, bytes]]:
        """Yield each page's index, InChIKeys and bytes."""
        first = 0
        for rows, until in self._whole_pages(n_pages):
            encoder = PageEncoder(layout, self.table.columns, rows)
            starts = np.searchsorted(self.page_of(rows.hashes, n_pages), np.arange(first, until + 1))
            inchikeys = rows.batch.column("inchikey")
            for page, (start, stop) in enumerate(pairwise(starts.tolist()), first):
                yield page, inchikeys[start:stop], encoder.encode(start, stop)
            first = until

    def page_of(self, hashes: NDArray[np.uint64], n_pages: int) -> NDArray[np.int64]:
        """Return `pages.page_index` of each hash, for n_pages < 2^32."""
        r = hashes * np.uint64(self.table.n_shards)  # modulo 2^64, as uint64 is
        # (r * n_pages) >> 64 needs 96 bits, so the halves of r are multiplied by themselves.
        half, low, factor = np.uint64(32), np.uint64((1 << 32) - 1), np.uint64(n_pages)
        return (((r >> half) * factor + (((r & low) * factor) >> half)) >> half).astype(np.int64)

    def _whole_pages(self, n_pages: int) -> Iterator[tuple[Rows, int]]:
        """Yield rows that fill whole pages, and the page that they reach up to."""
        kept: Rows | None = None
        for block in self.blocks():
            rows = Rows.concat([kept, block]) if kept else block
            pages = self.page_of(rows.hashes, n_pages)
            # More molecules of the last page may come with the next block.
            whole = int(np.searchsorted(pages, pages[-1]))
            if whole:
                yield rows[:whole], int(pages[-1])
            kept = rows[whole:]
        if kept:
            yield kept, n_pages

    def _hashes(self, block: int, inchikeys: pa.Array, last: int) -> NDArray[np.uint64]:
        """Return the molecules' hashes, after seeing that they ascend from `last` on and are the shard's."""
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
        """Say what is wrong with the first molecule with which something is."""
        for inchikey in inchikeys:
            if inchikey is None or not INCHIKEY.match(inchikey):
                return f"{inchikey!r} is not an InChIKey; make the predictions again"
            h = key_hash(inchikey)
            if shard_index(h, self.table.n_shards) != int(self.shard):
                return f"{inchikey} belongs to another shard; make the predictions again"
            if h <= last:
                fault = "is there twice" if h == last else "is out of order"
                return f"{inchikey} {fault}; sort the predictions by key_hash, each once"
            last = h
        raise AssertionError("the molecules are in order")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the first pass finds out."""

    rows: int
    dtypes: tuple[str, ...]
    layout: PageLayout
    n_pages: int


def make_plan(rows: ShardRows) -> Plan:
    """Choose the dtypes and the number of pages, from the rows alone, however they are cut into batches.

    Raises TableError when there is a row that no page can hold.
    """
    columns = rows.table.columns
    chooser = DtypeChooser(columns)
    hashes = [np.empty(0, np.uint64)]
    widest_text = 0
    sample = _Sample(8 * len(columns))
    for block in rows.blocks():
        chooser.add(block.batch)
        hashes.append(block.hashes)
        texts = text_bytes(block.batch, columns)
        widest_text = max(widest_text, int(texts.max()))
        sample.add(block, texts)
    dtypes = chooser.dtypes()
    layout = page_layout(tuple(column.type for column in columns), dtypes)
    keys = np.concatenate(hashes)
    n_pages = 0
    if len(keys):
        per_page = _molecules_per_page(PageEncoder(layout, columns, sample.rows()), len(sample))
        # With fewer molecules than pages, most pages would be empty and still cost a unit each.
        n_pages = min(len(keys), max(1, round(len(keys) / per_page)))
        n_pages = _with_room(rows, layout, keys, layout.row_bytes + widest_text, n_pages)
    return Plan(len(keys), dtypes, layout, n_pages)


class _Sample:
    """The first rows of a shard, for trial pages: in order of their hash, any rows are as good as any."""

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._parts: list[Rows] = []
        self._rows_left = _SAMPLE_ROWS
        self._bytes_left = _SAMPLE_BYTES

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, block: Rows, texts: NDArray[np.int64]) -> None:
        """Keep as many rows as there is room for, at least one."""
        if self._rows_left <= 0 or self._bytes_left <= 0:
            return
        ends = np.cumsum(texts + self._row_bytes)
        count = min(self._rows_left, 1 + int(np.searchsorted(ends, self._bytes_left)), len(block))
        self._parts.append(block[:count])
        self._rows_left -= count
        self._bytes_left -= int(ends[count - 1])

    def rows(self) -> Rows:
        return Rows.concat(self._parts)


def _molecules_per_page(encoder: PageEncoder, n_rows: int) -> float:
    """Return how many of the rows make a page item of PAGE_BYTES; more than there are, or less than one, at need."""
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
    """Return a number of pages, `n_pages` or a multiple, with which every page fits into an item."""
    limit = MAX_ITEM_BYTES - _ITEM_OVERHEAD
    while True:
        fullest = int(np.unique(rows.page_of(keys, n_pages), return_counts=True)[1].max())
        # What zstd makes of data that cannot be compressed is 1/256 larger, and some bytes (ZSTD_COMPRESSBOUND).
        if fullest * row_bytes * 257 // 256 + 128 <= limit:
            return n_pages
        pages = rows.encoded(layout, n_pages)
        crowded = next((page for page in pages if len(page[2]) > limit), None)
        if crowded is None:
            return n_pages
        _, inchikeys, value = crowded
        if len(inchikeys) == 1 or n_pages * 2 > MAX_PAGES:
            raise TableError(
                f"{rows.name}: {', '.join(inchikeys.to_pylist()[:3])} take {len(value)} bytes on a page of their own,"
                f" more than the {limit} that an item has room for; give the model fewer or shorter columns"
            )
        n_pages *= 2
