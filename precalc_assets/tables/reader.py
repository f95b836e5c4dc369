"""Reading predictions from a table by InChIKey. The Lambda imports this module."""

import struct
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from precalc.identifiers import INCHIKEY
from precalc.source import ColumnType
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.sharding import key_digests, shard_index, shard_keys
from precalc_assets.tables.directory import COLUMNS_KEY, Directory, ShardRecord, TableColumns, columns_key
from precalc_assets.tables.pages import Page, PageLayout, Value, narrowed, page_index, page_layout
from precalc_assets.tables.store import KeyValueStore, missing_table

CACHE_SECONDS = 60.0
"""How long a directory is cached: readers see a newly loaded shard after this time at the latest."""

Row = Sequence[Value]
"""A tuple; where whole numbers from 0 to 255 are asked for as bytes, these."""

_ColumnsAndTypes = tuple[tuple[Column, ...], tuple[ColumnType, ...]]


class Reading(NamedTuple):
    """The result of a read.

    `rows` are in the order of the request, None for a molecule that is not in the table. `directories` maps the shards
    of these molecules to the directories that were read; a shard that was never loaded is absent.
    """

    rows: list[Row | None]
    directories: dict[str, Directory]


@dataclass(frozen=True, slots=True)
class _Shard:
    """A cached shard.

    `layout` reads the reader's columns, in order. `places` has the index of each of them in the pages, None for a
    column that the shard lacks.
    """

    directory: Directory
    layout: PageLayout
    places: Sequence[int | None]
    read_at: float

    def layout_of(self, columns: tuple[int, ...] | None) -> PageLayout:
        """Return the layout that reads these of the reader's columns, by default all."""
        if columns is None:
            return self.layout
        return narrowed(self.layout, tuple(self.places[column] for column in columns))

    def pages_of(self, shard: str, hashes: Iterable[int]) -> dict[str, list[int]]:
        """Return the molecules of each page that holds some, by the page's key."""
        directory = self.directory
        if not directory.n_pages:
            return {}
        pages: dict[int, list[int]] = defaultdict(list)
        for h in hashes:
            pages[page_index(h, directory.n_shards, directory.n_pages)].append(h)
        key = directory.pages.key
        return {key(shard, page): found for page, found in pages.items()}

    def rows(
        self, pages: dict[str, list[int]], opened: dict[str, Page], layout: PageLayout, *, as_bytes: bool
    ) -> Iterator[tuple[int, Row | None]]:
        """Yield each molecule's hash and row from the opened pages."""
        for key, hashes in pages.items():
            page = opened[key]
            for h in hashes:
                yield h, page.row(h, layout, as_bytes=as_bytes)


class PageCache:
    """The pages that were read last, up to so many bytes. Threads and readers may share it.

    A page never changes: its key has the generation and the number of the load.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0
        self._pages: OrderedDict[tuple[str, str, int], Page] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, model: str, keys: Iterable[str], layout: PageLayout) -> dict[str, Page]:
        """Return the known ones of these pages that were opened with this layout, by key."""
        found = {}
        with self._lock:
            for key in keys:
                page = self._pages.get((model, key, id(layout)))
                if page:
                    self._pages.move_to_end((model, key, id(layout)))
                    found[key] = page
        return found

    def add(self, model: str, pages: dict[str, Page]) -> None:
        """Add pages, and drop those that were not read for longest."""
        with self._lock:
            for key, page in pages.items():
                place = model, key, id(page.layout)
                before = self._pages.pop(place, None)
                self.bytes += page.size - (before.size if before else 0)
                self._pages[place] = page
            while self.bytes > self._max_bytes:
                self.bytes -= self._pages.popitem(last=False)[1].size


class TableReader:
    """One model's prediction table. Threads may share a reader.

    `columns` are read once, when the reader is made, and every row has them. In a shard that was loaded with other
    columns, those of the same name and type are read, and the others are None.

    Reads are eventually consistent, at half the price: for a moment after a load, readers may see the rows before it.
    With `consistent`, they see every load that has ended. Pages are taken from the `cache`, if there is one, and added
    to it.

    Raises TableError when the model has no table, or one into which nothing was ever loaded.
    """

    def __init__(
        self,
        store: KeyValueStore,
        model: str,
        *,
        consistent: bool = False,
        clock: Callable[[], float] = time.monotonic,
        cache: PageCache | None = None,
    ) -> None:
        self._store = store
        self._cache = cache or PageCache(0)
        self._model = model
        self._consistent = consistent
        self._clock = clock
        item = store.get_many(model, [COLUMNS_KEY], consistent=True).get(COLUMNS_KEY)
        if item is None:
            raise missing_table(model)
        table = TableColumns.from_item(item)
        self.columns: tuple[Column, ...] = table.columns
        self.n_shards: int = table.n_shards
        self._shard_keys = shard_keys(table.n_shards)
        self._versions: dict[str, _ColumnsAndTypes] = {item.version: _with_types(table.columns)}
        self._shards: dict[str, _Shard] = {}

    def get(self, inchikeys: Sequence[str]) -> list[Row | None]:
        """Return the rows of `read`."""
        return self.read(inchikeys).rows

    def read(
        self, inchikeys: Sequence[str], columns: tuple[int, ...] | None = None, *, as_bytes: bool = False
    ) -> Reading:
        """Return the molecules' predictions, and the directories that they were read from.

        `columns` are the indices of the columns to read, in the order of a row; by default all. A row has one value per
        column, of the column's type. All rows of a shard are of one generation. With `as_bytes`, a row that is stored
        as bytes, one for each column, stays so, which takes a small part of the time.

        Raises UsageError for a malformed InChIKey, TableError when the table is damaged.
        """
        hashes = _hashes(inchikeys)
        wanted: dict[str, set[int]] = defaultdict(set)
        for h in hashes:
            wanted[self._shard_keys[shard_index(h, self.n_shards)]].add(h)
        rows: dict[int, Row | None] = {}
        directories: dict[str, Directory] = {}
        torn, consistent = set(wanted), self._consistent
        while torn:
            shards = self._known(torn, consistent=consistent)
            plans = {shard: known.pages_of(shard, wanted[shard]) for shard, known in shards.items()}
            layouts = {shard: known.layout_of(columns) for shard, known in shards.items()}
            opened: dict[str, Page] = {}
            for shard, plan in plans.items():
                opened |= self._cached(shards[shard], plan, layouts[shard])
            keys = [key for plan in plans.values() for key in plan if key not in opened]
            stored = self._store.get_many(self._model, keys, consistent=consistent)
            torn = set()
            for shard, plan in plans.items():
                lost = next((key for key in plan if key not in stored and key not in opened), None)
                if lost is None:
                    new = {key: Page(layouts[shard], stored[key].value) for key in plan if key in stored}
                    self._cache.add(self._model, new)
                    opened |= new
                    rows.update(shards[shard].rows(plan, opened, layouts[shard], as_bytes=as_bytes))
                    directories[shard] = shards[shard].directory
                else:
                    # Read the whole shard again, so that no answer mixes two generations.
                    if consistent:
                        self._check_replaced(shard, shards[shard], lost)
                    self._shards.pop(shard, None)
                    torn.add(shard)
            consistent = True
        return Reading([rows.get(h) for h in hashes], directories)

    def _cached(self, known: _Shard, keys: Iterable[str], layout: PageLayout) -> dict[str, Page]:
        """Return the cached ones of these pages, opened with this layout or with all columns."""
        found = self._cache.find(self._model, keys, layout)
        if layout is not known.layout and known.layout.kept is None:
            found |= self._cache.find(self._model, keys, known.layout)
        return found

    def directories(self) -> dict[str, Directory]:
        """Return the directories of the loaded shards, by shard, from the store and not from the cache."""
        stored = self._store.get_many(self._model, self._shard_keys, consistent=True)
        records = {shard: ShardRecord.from_item(item) for shard, item in sorted(stored.items())}
        return {shard: record.current for shard, record in records.items() if record.current}

    def _known(self, shards: Iterable[str], *, consistent: bool) -> dict[str, _Shard]:
        """Return the loaded ones of these shards, from the cache while it is fresh."""
        now = self._clock()
        known = {shard: self._shards.get(shard) for shard in shards}
        fresh = {shard: entry for shard, entry in known.items() if entry and now - entry.read_at < CACHE_SECONDS}
        stale = sorted(known.keys() - fresh.keys())
        for shard, item in self._store.get_many(self._model, stale, consistent=consistent).items():
            directory = ShardRecord.from_item(item).current
            if directory:
                fresh[shard] = self._shards[shard] = self._open(directory, now)
        return fresh

    def _open(self, directory: Directory, now: float) -> _Shard:
        if directory.n_shards != self.n_shards:
            raise TableError(
                f"{self._model}: the table was replaced by one with {directory.n_shards} shards, not {self.n_shards};"
                " open it again"
            )
        columns, types = self._columns(directory.columns)
        if len(columns) != len(directory.dtypes):
            raise TableError(
                f"{self._model}: a shard's record has {len(directory.dtypes)} columns, the table {len(columns)};"
                " drop the table and load the model again"
            )
        layout = page_layout(types, directory.dtypes)
        places: Sequence[int | None] = range(len(columns))
        if columns is not self.columns:
            found = {(column.name, column.type): at for at, column in enumerate(columns)}
            places = tuple(found.get((column.name, column.type)) for column in self.columns)
            layout = narrowed(layout, places)
        return _Shard(directory, layout, places, now)

    def _columns(self, digest: str) -> _ColumnsAndTypes:
        if digest not in self._versions:
            key = columns_key(digest)
            item = self._store.get_many(self._model, [key], consistent=True).get(key)
            if item is None:
                raise TableError(f"{self._model}: item {key!r} is lost; load the model again")
            self._versions[digest] = _with_types(TableColumns.from_item(item).columns)
        return self._versions[digest]

    def _check_replaced(self, shard: str, known: _Shard, lost: str) -> None:
        """Check that a missing page was replaced. Raises TableError if the store's directory still names it."""
        item = self._store.get_many(self._model, [shard], consistent=True).get(shard)
        current = ShardRecord.from_item(item).current if item else None
        if current and current.pages == known.directory.pages:
            raise TableError(f"{self._model}: page {lost!r} is lost; load the model again")


def _with_types(columns: tuple[Column, ...]) -> _ColumnsAndTypes:
    return columns, tuple(column.type for column in columns)


def _hashes(inchikeys: Sequence[str]) -> tuple[int, ...]:
    for inchikey in inchikeys:
        if not INCHIKEY.match(inchikey):
            raise UsageError(f"{inchikey!r} is not an InChIKey; it has 27 characters, like BSYNRYMUTXBXSQ-UHFFFAOYSA-N")
    return struct.unpack(f">{len(inchikeys)}Q", key_digests(inchikeys))
