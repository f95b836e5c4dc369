"""Loading one shard of predictions into a model's table.

A load may be killed between any two calls of the store, and loads of one shard may run at the same time. So:

1. The rows are read once to choose the dtypes and the number of pages. What cannot be stored fails here.
2. The shard's record is claimed by a conditional put that names the pages to come. A load that finds a claim of its
   own generation goes on with it; one that finds another's takes it over, and that one's pages become garbage.
3. The pages are put, under keys that no other load uses.
4. The record is flipped by a conditional put: from now on readers see the new generation. A load that finds its claim
   taken over deletes its pages and fails.
5. What is garbage is deleted, the generation before last among it, and then struck from the record.

Each step begins by looking at the record, so the same call after a crash goes on where the last one ended. One case
leaves pages that no record names: a load that is killed after its claim was taken over *and* the other load has ended.
They go when the table is dropped.
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
    """What a shard's table holds after a load. `written` is False when it held it before, and nothing was put.

    `page_bytes` sums the page items, by DynamoDB's rules; `consumed` is what this load cost.
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
    """Make a model's table hold a shard's predictions, so that readers see the old rows or the new, never a mix.

    `batches` is called two times or more and yields the same record batches each time: `inchikey` (string) and one
    column per output (float64, int64 or string, nulls allowed), in ascending order of `key_hash`. Memory holds a few
    blocks of 16 MB, the caller's batch, and 8 bytes a row. `built_from` names what the rows were read from; with the
    same `built_from`, release, library and columns nothing is written, since the table holds it already; unless
    `rewrite` says to write it all the same, under new keys, because what is there turned out to be damaged. The
    file's size and digest are recorded for readers; those of another file with the same rows cost one write.

    Raises TableError when rows are out of order, of another shard or twice there, when a row is too wide for an item,
    when the table has another number of shards, and when another load of the shard took over.
    """
    if shard not in shard_keys(n_shards):
        raise TableError(f"{model}: there is no shard {shard!r} among {n_shards}; name one that is")
    table = TableColumns(model, n_shards, tuple(columns))
    identity = [FORMAT_VERSION, model, shard, n_shards, table.digest, release, shard_digest, built_from]
    generation = sha256(json.dumps(identity).encode()).hexdigest()[:16]
    load = _Load(store, table, shard, generation, file=(file_bytes, file_sha256))
    if not rewrite and load.is_there():
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
        raise TableError(f"{load.name}: its predictions changed while they were loaded; load it again")
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
    """The steps of a load that change the table, each of them safe to do again."""

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

    def is_there(self) -> bool:
        """Return whether the table holds this generation; the table need not exist."""
        if not self._store.has_table(self._table.model):
            return False
        self._check_shards(self._get(COLUMNS_KEY))
        current = self._read()[0].current
        return current is not None and current.generation == self._generation

    def prepare_table(self) -> None:
        """Make the table and store the columns under their digest, and as the table's when they are the first."""
        item = self._table.to_item(COLUMNS_KEY)
        version = self._table.to_item(columns_key(item.version))
        if item_bytes(version) > MAX_ITEM_BYTES:
            raise TableError(
                f"{self._table.model}: its {len(self._table.columns)} columns take {item_bytes(version)} bytes, more"
                f" than the {MAX_ITEM_BYTES} of an item; shorten the descriptions in run_columns.csv"
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
        """Return the pages that this load is to write; None when another one has just loaded the same."""
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
        """Make the pages what readers see."""
        while True:
            record, version = self._read()
            if directory.pages in (record.previous, record.current and record.current.pages):
                return  # A load of the same generation shared the claim, and was faster.
            if record.pending != directory.pages:
                self._delete(directory.pages)
                raise TableError(f"{self.name}: another load took over while this one ran; run one at a time")
            flipped = record.flipped(directory, publish=self._publish)
            if self._put_if(flipped.to_item(self._shard), version):
                return

    def finish(self, *, written: bool) -> LoadResult:
        """Do what the last flip left to do, and return what is there now."""
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
        """Write items and count what it cost."""
        self._consumed += self._store.put_many(self._table.model, items)

    def _result(self, record: ShardRecord, written: bool) -> LoadResult:
        current = record.current
        if current is None:
            raise TableError(f"{self.name}: the table was dropped while it was loaded; load it again")
        return LoadResult(
            self._shard, current.generation, current.rows, current.n_pages, current.page_bytes, self._consumed, written
        )

    def _publish_columns(self, digest: str) -> None:
        """Make one version of the columns the table's; it need not be this load's, if another one came after."""
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
                f"{self._table.model}: its table was made with {stored} shards, not {self._table.n_shards};"
                f" run `precalc drop {self._table.model}` first, or set PRECALC_N_SHARDS={stored}"
            )

    def _read(self) -> tuple[ShardRecord, str | None]:
        """Return the shard's record, and the version to expect when it is replaced."""
        item = self._get(self._shard)
        return (ShardRecord.from_item(item), item.version) if item else (ShardRecord(), None)

    def _get(self, key: str) -> Item | None:
        # What a load decides by must be what is there, not what was there a moment ago.
        found = self._store.get_many(self._table.model, [key], consistent=True)
        self._consumed += found.consumed
        return found.get(key)

    def _put_if(self, item: Item, expected: str | None) -> bool:
        put = self._store.put_if(self._table.model, item, expected)
        self._consumed += put.consumed
        return put.written


@dataclass(slots=True)
class _Tally:
    """Counts what passes by on its way to the store."""

    rows: int = 0
    bytes: int = 0

    def counted(self, items: Iterator[tuple[Item, int]]) -> Iterator[Item]:
        for item, molecules in items:
            self.rows += molecules
            self.bytes += item_bytes(item)
            yield item
