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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_keys
from precalc_assets.tables.directory import COLUMNS_KEY, Directory, PageSet, ShardRecord, TableColumns, columns_key
from precalc_assets.tables.pages import FORMAT_VERSION
from precalc_assets.tables.paging import Batches, ShardRows, make_plan
from precalc_assets.tables.store import (
    MAX_ITEM_BYTES,
    Consumed,
    Item,
    KeyValueStore,
    item_bytes,
)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A shard in its table after a load. `written` is False when the table held these rows already.

    `page_bytes` is the total size of the page items by DynamoDB's rules; `consumed` is the cost of this load.
    """

    shard: str
    generation: str
    rows: int
    n_pages: int
    page_bytes: int
    consumed: Consumed
    written: bool


def load_shard(
    store: KeyValueStore,
    model: str,
    shard: str,
    batches: Batches,
    *,
    columns: Sequence[Column],
    n_shards: int,
    release: str,
    shard_digest: str,
    built_from: str,
    file_bytes: int = 0,
    file_sha256: str = "",
    rewrite: bool = False,
) -> LoadResult:
    """Load a shard's predictions into a model's table. Readers see the old rows or the new ones, never a mix.

    `batches` is called twice or more and must yield the same record batches each time: `inchikey` (string) and one
    column per output (float64, int64 or string, nulls allowed), in ascending order of `key_hash`. Memory holds a few
    blocks of 16 MB, the caller's batch, and 8 bytes per row.

    `built_from` is the digest of the rows' source. If the table already holds this `built_from` with the same release,
    library and columns, nothing is written. `rewrite` writes it anyway, under new keys, to repair damaged pages.
    `file_bytes` and `file_sha256` are recorded for readers; updating them alone costs one write.

    Raises TableError when a row is out of order, duplicated, of another shard or too wide for an item, when the table
    has another number of shards, and when another load of the shard took over.
    """
    if shard not in shard_keys(n_shards):
        raise TableError(f"{model}: there is no shard {shard!r} among {n_shards}; name one that exists")
    table = TableColumns(model, n_shards, tuple(columns))
    identity = [FORMAT_VERSION, model, shard, n_shards, table.digest, release, shard_digest, built_from]
    generation = sha256(json.dumps(identity).encode()).hexdigest()[:16]
    load = _Load(store, table, shard, generation, file=(file_bytes, file_sha256))
    if not rewrite and load.is_loaded():
        return load.finish(written=False)
    molecules = ShardRows(table, shard, batches)
    plan = make_plan(molecules)
    load.prepare_table()
    pages = load.claim(plan.n_pages, rewrite=rewrite)
    if pages is None:
        return load.finish(written=False)
    tally = _Tally()
    load.put(tally.counted(molecules.items(plan.layout, pages)))
    if tally.rows != plan.rows:
        raise TableError(f"{load.name}: its predictions changed during the load; load it again")
    directory = Directory(
        generation=generation,
        load=pages.load,
        n_pages=pages.n_pages,
        rows=plan.rows,
        page_bytes=tally.bytes,
        n_shards=n_shards,
        dtypes=plan.dtypes,
        columns=table.digest,
        release=release,
        shard_digest=shard_digest,
        built_from=built_from,
        loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        file_bytes=file_bytes,
        file_sha256=file_sha256,
    )
    load.flip(directory)
    return load.finish(written=True)


class _Load:
    """The steps of a load that change the table. Each can be repeated safely."""

    def __init__(
        self, store: KeyValueStore, table: TableColumns, shard: str, generation: str, *, file: tuple[int, str]
    ) -> None:
        self.name = f"{table.model} shard {shard}"
        self._store = store
        self._table = table
        self._shard = shard
        self._generation = generation
        self._file = file
        self._consumed = Consumed()
        self._publish = False

    def is_loaded(self) -> bool:
        """Return whether the table exists and holds this generation."""
        if not self._store.has_table(self._table.model):
            return False
        self._check_shards(self._get(COLUMNS_KEY))
        current = self._read()[0].current
        return current is not None and current.generation == self._generation

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
            self.put(iter([version]))

    def claim(self, n_pages: int, *, rewrite: bool) -> PageSet | None:
        """Return the pages for this load to write; None when another load has just written the same generation."""
        while True:
            record, version = self._read()
            if not rewrite and record.current and record.current.generation == self._generation:
                return None
            if record.pending and record.pending.generation == self._generation:
                return record.pending
            claimed = record.claimed(self._generation, n_pages)
            if self._put_if(claimed.to_item(self._shard), version):
                return claimed.pending

    def flip(self, directory: Directory) -> None:
        """Make readers see the directory's pages."""
        while True:
            record, version = self._read()
            if directory.pages in (record.previous, record.current and record.current.pages):
                return  # Another load of the same generation shared the claim and flipped it first.
            if record.pending != directory.pages:
                self._delete(directory.pages)
                raise TableError(f"{self.name}: another load took over while this one ran; run one at a time")
            flipped = record.flipped(directory, publish=self._publish)
            if self._put_if(flipped.to_item(self._shard), version):
                return

    def finish(self, *, written: bool) -> LoadResult:
        """Publish columns and delete garbage as the record asks, and return what the table holds now."""
        while True:
            record, version = self._read()
            if record.publish and record.current:
                self._publish_columns(record.current.columns)
            for pages in record.garbage:
                self._delete(pages)
            done = record.cleaned().of_file(self._generation, *self._file)
            if done == record or self._put_if(done.to_item(self._shard), version):
                return self._result(record, written)

    def put(self, items: Iterator[Item]) -> None:
        """Write items and add up the cost."""
        self._consumed += self._store.put_many(self._table.model, items)

    def _result(self, record: ShardRecord, written: bool) -> LoadResult:
        current = record.current
        if current is None:
            raise TableError(f"{self.name}: the table was dropped during the load; load it again")
        return LoadResult(
            self._shard, current.generation, current.rows, current.n_pages, current.page_bytes, self._consumed, written
        )

    def _publish_columns(self, digest: str) -> None:
        """Make this version of the columns the table's. A later load may have chosen another than this load's."""
        stored = self._get(COLUMNS_KEY)
        version = self._get(columns_key(digest))
        if version and (stored is None or stored.version != version.version):
            self.put(iter([replace(version, key=COLUMNS_KEY)]))

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


@dataclass(slots=True)
class _Tally:
    """Counts the rows and bytes of the items on their way to the store."""

    rows: int = 0
    bytes: int = 0

    def counted(self, items: Iterator[tuple[Item, int]]) -> Iterator[Item]:
        for item, molecules in items:
            self.rows += molecules
            self.bytes += item_bytes(item)
            yield item
