"""Loading one shard of predictions into a model's table.

A load may be killed between any two calls of the store, and several loads of one shard may run at once. The protocol:

1. Read the rows once to choose the dtypes and the number of pages. Rows that cannot be stored fail here.
2. Claim the shard's record by a conditional put that names the pages to come. A load continues a claim of its own
   generation. It takes over a claim of another generation, whose pages become garbage.
3. Put the pages, under keys that no other load uses.
4. Flip the record by a conditional put: from now on readers see the new generation. A load whose claim was taken over
   deletes its pages and fails.
5. Delete the garbage, which includes the generation before last, then strike it from the record.

Each step begins by reading the record, so the same call after a crash resumes where the last one stopped. Pages that
no record names remain in one case: a load is killed after its claim was taken over *and* the other load has ended.
Dropping the table deletes them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice

from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_keys
from precalc_assets.tables.directory import (
    COLUMNS_KEY,
    Directory,
    Origin,
    PageSet,
    ShardRecord,
    TableColumns,
    columns_key,
)
from precalc_assets.tables.pages import FORMAT_VERSION
from precalc_assets.tables.paging import ShardRows, make_plan
from precalc_assets.tables.store import MAX_ITEM_BYTES, Consumed, Item, KeyValueStore, item_bytes

_KEYS_AT_ONCE = 10_000
"""Keys of pages to look for at a time, which bounds memory."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A shard in its table, and a load's cost; `written` is False if the table held these rows already."""

    directory: Directory
    consumed: Consumed
    written: bool


def load_shard(store: KeyValueStore, molecules: ShardRows, origin: Origin, *, rewrite: bool = False) -> LoadResult:
    """Load a shard's predictions into a model's table. Readers see the old rows or the new ones, never a mix.

    Memory holds a few blocks of 16 MB, the caller's batch, and 8 bytes per row.

    If the table already holds rows of this origin with the same columns, and none of its pages is lost, nothing is
    written; looking for the pages costs half a read unit for each 4 KB of them. `rewrite` writes them anyway, under new
    keys, to repair damaged pages. Updating what the origin says of the file alone costs one write.

    Raises TableError when a row is out of order, duplicated, of another shard or too wide for an item, when the table
    has another number of shards, and when another load of the shard took over.
    """
    table, shard = molecules.table, molecules.shard
    if shard not in shard_keys(table.n_shards):
        raise TableError(f"{table.model}: there is no shard {shard!r} among {table.n_shards}; name one that exists")
    made_of = [table.model, shard, table.n_shards, table.digest, origin.release, origin.shard_digest, origin.built_from]
    generation = sha256(json.dumps([FORMAT_VERSION, *made_of]).encode()).hexdigest()[:16]
    load = _Load(store, table, shard, generation, origin)
    if not rewrite and load.is_loaded():
        rewrite = load.lacks_pages()
        if not rewrite:
            return load.finish(written=False)
    plan = make_plan(molecules)
    load.prepare_table()
    pages = load.claim(plan.n_pages, rewrite=rewrite)
    if pages is None:
        return load.finish(written=False)
    rows, page_bytes = load.put_pages(molecules.items(plan.layout, pages))
    if rows != plan.rows:
        raise TableError(f"{molecules.name}: its predictions changed during the load; load it again")
    directory = Directory(
        generation=generation,
        load=pages.load,
        format=FORMAT_VERSION,
        n_pages=pages.n_pages,
        rows=plan.rows,
        page_bytes=page_bytes,
        n_shards=table.n_shards,
        dtypes=plan.dtypes,
        columns=table.digest,
        loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(origin),
    )
    load.flip(directory)
    return load.finish(written=True)


class _Load:
    """The steps of a load that change the table. Each can be repeated safely."""

    def __init__(self, store: KeyValueStore, table: TableColumns, shard: str, generation: str, origin: Origin) -> None:
        self.name = f"{table.model} shard {shard}"
        self._store = store
        self._table = table
        self._shard = shard
        self._generation = generation
        self._origin = origin
        self._consumed = Consumed()
        self._publish = False

    def is_loaded(self) -> bool:
        """Return whether the table exists and holds this generation."""
        if not self._store.has_table(self._table.model):
            return False
        self._check_shards(self._get(COLUMNS_KEY))
        current = self._read()[0].current
        return current is not None and current.generation == self._generation

    def lacks_pages(self) -> bool:
        """Return whether a page of the loaded shard is lost."""
        current = self._read()[0].current
        keys = current.pages.keys(self._shard) if current else iter(())
        while some := list(islice(keys, _KEYS_AT_ONCE)):
            missing, consumed = self._store.missing_keys(self._table.model, some)
            self._consumed += consumed
            if missing:
                return True
        return False

    def prepare_table(self) -> None:
        """Create the table, and store the columns under their digest, and as the table's if it has none yet."""
        item = self._table.to_item(COLUMNS_KEY)
        version = self._table.to_item(columns_key(item.version))
        if item_bytes(version) > MAX_ITEM_BYTES:
            raise TableError(
                f"{self._table.model}: its {len(self._table.columns)} columns take {item_bytes(version)} bytes, but an"
                f" item holds {MAX_ITEM_BYTES}; shorten the descriptions in run_columns.csv"
            )
        self._store.create_table(self._table.model)
        if self._get(COLUMNS_KEY) is None:
            self._put_if(item, None)
        stored = self._get(COLUMNS_KEY)
        self._check_shards(stored)
        self._publish = stored is None or stored.version != item.version
        if self._get(version.key) is None:
            self._put([version])

    def claim(self, n_pages: int, *, rewrite: bool) -> PageSet | None:
        """Return the pages for this load to write; None when another load has just written the same generation."""
        while True:
            record, version = self._read()
            if not rewrite and record.current and record.current.generation == self._generation:
                return None
            if record.pending and record.pending.generation == self._generation:
                return record.pending
            number = record.loads + 1
            pages = PageSet(self._generation, number, n_pages)
            garbage = (*record.garbage, *([record.pending] if record.pending else []))
            claimed = replace(record, loads=number, pending=pages, garbage=garbage)
            if self._put_if(claimed.to_item(self._shard), version):
                return pages

    def flip(self, directory: Directory) -> None:
        """Make readers see the directory's pages."""
        while True:
            record, version = self._read()
            if directory.pages in (record.previous, record.current and record.current.pages):
                return  # Another load of the same generation shared the claim and flipped it first.
            if record.pending != directory.pages:
                self._delete(directory.pages)
                raise TableError(f"{self.name}: another load took over while this one ran; run one at a time")
            flipped = replace(
                record,
                current=directory,
                previous=record.current.pages if record.current else None,
                pending=None,
                garbage=(*record.garbage, *([record.previous] if record.previous else [])),
                publish=record.publish or self._publish,
            )
            if self._put_if(flipped.to_item(self._shard), version):
                return

    def finish(self, *, written: bool) -> LoadResult:
        """Publish columns and delete garbage as the record asks, and return what the table holds now."""
        while True:
            record, version = self._read()
            current = record.current
            if current is None:
                raise TableError(f"{self.name}: the table was dropped during the load; load it again")
            if record.publish:
                self._publish_columns(current.columns)
            for pages in record.garbage:
                self._delete(pages)
            if current.generation == self._generation:
                current = replace(current, **asdict(self._origin))
            done = replace(record, current=current, garbage=(), publish=False)
            if done == record or self._put_if(done.to_item(self._shard), version):
                break
        return LoadResult(current, self._consumed, written)

    def put_pages(self, items: Iterator[tuple[Item, int]]) -> tuple[int, int]:
        """Write pages, given with their numbers of molecules. Return the molecules and bytes of all pages."""
        rows = page_bytes = 0

        def counted() -> Iterator[Item]:
            nonlocal rows, page_bytes
            for item, molecules in items:
                rows += molecules
                page_bytes += item_bytes(item)
                yield item

        self._put(counted())
        return rows, page_bytes

    def _put(self, items: Iterable[Item]) -> None:
        self._consumed += self._store.put_many(self._table.model, items)

    def _publish_columns(self, digest: str) -> None:
        """Make this version of the columns the table's. A later load may have chosen another than this load's."""
        stored = self._get(COLUMNS_KEY)
        version = self._get(columns_key(digest))
        if version and (stored is None or stored.version != version.version):
            self._put([replace(version, key=COLUMNS_KEY)])

    def _delete(self, pages: PageSet) -> None:
        self._consumed += self._store.delete_many(self._table.model, pages.keys(self._shard))

    def _check_shards(self, columns: Item | None) -> None:
        stored = TableColumns.from_item(columns).n_shards if columns else self._table.n_shards
        if stored != self._table.n_shards:
            raise TableError(
                f"{self._table.model}: its table has {stored} shards, not {self._table.n_shards};"
                f" run `precalc drop {self._table.model}` first, or set PRECALC_N_SHARDS={stored}"
            )

    def _read(self) -> tuple[ShardRecord, str | None]:
        """Return the shard's record, and the version to expect when it is replaced."""
        item = self._get(self._shard)
        return (ShardRecord.from_item(item), item.version) if item else (ShardRecord(), None)

    def _get(self, key: str) -> Item | None:
        # An eventually consistent read could return an old record.
        found = self._store.get_many(self._table.model, [key], consistent=True)
        self._consumed += found.consumed
        return found.get(key)

    def _put_if(self, item: Item, expected: str | None) -> bool:
        put = self._store.put_if(self._table.model, item, expected)
        self._consumed += put.consumed
        return put.written
