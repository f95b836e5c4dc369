"""Reading predictions from a table by InChIKey.

Standard library and zstandard only: the Lambda imports this module.
"""

import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from precalc.identifiers import INCHIKEY
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.sharding import key_digests, shard_index, shard_keys
from precalc_assets.tables.directory import COLUMNS_KEY, Directory, ShardRecord, TableColumns, columns_key
from precalc_assets.tables.pages import Page, PageLayout, Value, page_index, page_layout
from precalc_assets.tables.store import Item, KeyValueStore, missing_table

CACHE_SECONDS = 60.0
"""How long a directory is cached: readers see a newly loaded shard after this time at the latest."""

Row = tuple[Value, ...]


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

    `picks` has the index of each of the reader's columns in the shard's rows, None for a column that the shard lacks.
    It is None when the columns are the same.
    """

    directory: Directory
    layout: PageLayout
    picks: tuple[int | None, ...] | None
    read_at: float

    def pages_of(self, shard: str, hashes: Iterable[int]) -> dict[str, list[int]]:
        """Return the molecules of each page that holds some, by the page's key."""
        directory = self.directory
        if not directory.n_pages:
            return {}
        pages: dict[int, list[int]] = defaultdict(list)
        for h in hashes:
            pages[page_index(h, directory.n_shards, directory.n_pages)].append(h)
        return {directory.pages.key(shard, page): found for page, found in pages.items()}

    def rows(self, pages: dict[str, list[int]], stored: dict[str, Item]) -> Iterator[tuple[int, Row | None]]:
        """Yield each molecule's hash and row from the stored pages."""
        for key, hashes in pages.items():
            page = Page(self.layout, stored[key].value)
            for h in hashes:
                yield h, self._pick(page.row(h))

    def _pick(self, row: Row | None) -> Row | None:
        if row is None or self.picks is None:
            return row
        return tuple(None if at is None else row[at] for at in self.picks)


class TableReader:
    """One model's prediction table. Threads may share a reader.

    `columns` are read once, when the reader is made, and every row has them. In a shard that was loaded with other
    columns, those of the same name and type are read, and the others are None.

    Reads are eventually consistent, at half the price: for a moment after a load, readers may see the rows before it.
    With `consistent`, they see every load that has ended.

    Raises TableError when the model has no table, or one into which nothing was ever loaded.
    """

    def __init__(
        self,
        store: KeyValueStore,
        model: str,
        *,
        consistent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
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
        self._versions: dict[str, tuple[Column, ...]] = {item.version: table.columns}
        self._shards: dict[str, _Shard] = {}

    def get(self, inchikeys: Sequence[str]) -> list[Row | None]:
        """Return the rows of `read`."""
        return self.read(inchikeys).rows

    def read(self, inchikeys: Sequence[str]) -> Reading:
        """Return the molecules' predictions, and the directories that they were read from.

        A row has one value per column, of the column's type. All rows of a shard are of one generation.

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
            keys = [key for plan in plans.values() for key in plan]
            stored = self._store.get_many(self._model, keys, consistent=consistent)
            torn = set()
            for shard, plan in plans.items():
                lost = next((key for key in plan if key not in stored), None)
                if lost is None:
                    rows.update(shards[shard].rows(plan, stored))
                    directories[shard] = shards[shard].directory
                else:
                    # Read the whole shard again, so that no answer mixes two generations.
                    if consistent:
                        self._check_replaced(shard, shards[shard], lost)
                    self._shards.pop(shard, None)
                    torn.add(shard)
            consistent = True
        return Reading([rows.get(h) for h in hashes], directories)

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
        columns = self._columns(directory.columns)
        layout = page_layout(tuple(column.type for column in columns), directory.dtypes)
        picks = None
        if columns is not self.columns:
            places = {(column.name, column.type): at for at, column in enumerate(columns)}
            picks = tuple(places.get((column.name, column.type)) for column in self.columns)
        return _Shard(directory, layout, picks, now)

    def _columns(self, digest: str) -> tuple[Column, ...]:
        if digest not in self._versions:
            key = columns_key(digest)
            item = self._store.get_many(self._model, [key], consistent=True).get(key)
            if item is None:
                raise TableError(f"{self._model}: item {key!r} is lost; load the model again")
            self._versions[digest] = TableColumns.from_item(item).columns
        return self._versions[digest]

    def _check_replaced(self, shard: str, known: _Shard, lost: str) -> None:
        """Check that the missing page is of a directory that later loads replaced.

        Raises TableError when the store's directory still names the page.
        """
        item = self._store.get_many(self._model, [shard], consistent=True).get(shard)
        current = ShardRecord.from_item(item).current if item else None
        if current and current.pages == known.directory.pages:
            raise TableError(f"{self._model}: page {lost!r} is lost; load the model again")


def _hashes(inchikeys: Sequence[str]) -> tuple[int, ...]:
    for inchikey in inchikeys:
        if not INCHIKEY.match(inchikey):
            raise UsageError(f"{inchikey!r} is not an InChIKey; it has 27 characters, like BSYNRYMUTXBXSQ-UHFFFAOYSA-N")
    return struct.unpack(f">{len(inchikeys)}Q", key_digests(inchikeys))
