"""Stores and molecules for the tests of tables: a store in memory, one that fails on purpose, made-up predictions."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import count, islice

import pyarrow as pa
import zstandard

from precalc_assets.columns import Column
from precalc_assets.sharding import key_hash, shard_of
from precalc_assets.tables.directory import Origin, ShardRecord, TableColumns
from precalc_assets.tables.loader import LoadResult, load_shard
from precalc_assets.tables.pages import decompress
from precalc_assets.tables.paging import ShardRows
from precalc_assets.tables.store import (
    ConditionalPut,
    Consumed,
    Found,
    Item,
    missing_table,
    units_to_read,
    write_units,
)

MODEL = "eos0abc"
SHARD = "02"
N_SHARDS = 4
COLUMNS = [
    Column("score", "float", "high", "a score"),
    Column("count", "integer", "", "a count"),
    Column("label", "string", "low", "a label"),
]
ARROW = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}


class MemoryStore:
    """The contract of a key-value store, in a dict."""

    def __init__(self):
        self.tables = {}
        self._lock = threading.Lock()

    def create_table(self, table):
        self.tables.setdefault(table, {})

    def drop_table(self, table):
        self.tables.pop(table, None)

    def has_table(self, table):
        return table in self.tables

    def list_tables(self):
        return sorted(self.tables)

    def put_many(self, table, items):
        consumed = Consumed()
        for item in items:
            self._table(table)[item.key] = item
            consumed += Consumed(write_units=write_units(item), items=1)
        return consumed

    def get_many(self, table, keys, *, consistent=False):
        stored = self._table(table)
        found = [stored[key] for key in dict.fromkeys(keys) if key in stored]
        return Found(found, Consumed(read_units=units_to_read(len(set(keys)), found, consistent=consistent)))

    def missing_keys(self, table, keys):
        return [key for key in keys if key not in self._table(table)], Consumed(read_units=len(keys) / 2)

    def put_if(self, table, item, expected):
        with self._lock:
            stored = self._table(table).get(item.key)
            written = (stored.version if stored else None) == expected
            if written:
                self._table(table)[item.key] = item
        return ConditionalPut(written, Consumed(write_units=write_units(item), items=int(written)))

    def delete_many(self, table, keys):
        consumed = Consumed()
        for key in keys:
            item = self._table(table).pop(key, None)
            consumed += Consumed(write_units=write_units(item) if item else 1, items=1)
        return consumed

    def close(self):
        pass

    def _table(self, table):
        if table not in self.tables:
            raise missing_table(table)
        return self.tables[table]


class LaggingStore:
    """Answers an eventually consistent read with the state of `lag` writes ago."""

    def __init__(self, store: MemoryStore, lag: int):
        self._store = store
        self._past = deque(maxlen=lag + 1)

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put_many(self, table, items):
        return sum((self._changed(self._store.put_many(table, [item])) for item in items), Consumed())

    def delete_many(self, table, keys):
        return sum((self._changed(self._store.delete_many(table, [key])) for key in keys), Consumed())

    def put_if(self, table, item, expected):
        return self._changed(self._store.put_if(table, item, expected))

    def get_many(self, table, keys, *, consistent=False):
        past = MemoryStore()
        past.tables = self._past[0] if self._past and not consistent else self._store.tables
        return past.get_many(table, keys, consistent=consistent)

    def _changed(self, result):
        self._past.append({name: dict(items) for name, items in self._store.tables.items()})
        return result


class Crash(BaseException):
    """The death of the process."""


class InterruptedStore:
    """Calls `interrupt` at the n-th point. Each call of the store has points before, after, and within its items."""

    def __init__(self, store, n: int, interrupt: Callable[[], None]):
        self._store = store
        self._points = count()
        self._n = n
        self._interrupt = interrupt
        self.reached = False

    def __getattr__(self, name):
        def call(table, *arguments, **options):
            self._point()
            if name in {"put_many", "delete_many"}:
                arguments = (self._split(arguments[0]),)
            result = getattr(self._store, name)(table, *arguments, **options)
            self._point()
            return result

        return call

    def _split(self, items):
        for at, item in enumerate(items):
            if at == 1:
                self._point()
            yield item

    def _point(self):
        if next(self._points) == self._n:
            self.reached = True
            self._interrupt()


def crash():
    raise Crash


def inchikeys() -> Iterator[str]:
    """Yield made-up InChIKeys, the same on every call."""
    for i in count():
        letters = "".join(chr(ord("A") + byte % 26) for byte in sha256(str(i).encode()).digest()[:25])
        yield f"{letters[:14]}-{letters[14:24]}-{letters[24]}"


def shard_molecules(n: int, shard: str = SHARD, n_shards: int = N_SHARDS) -> list[str]:
    """Return n molecules of a shard, in the order of the table."""
    return sorted(islice((k for k in inchikeys() if shard_of(k, n_shards) == shard), n), key=key_hash)


def record_batch(keys: Sequence[str], columns: Sequence[Column], rows: Sequence[tuple]) -> pa.RecordBatch:
    arrays = [pa.array([row[at] for row in rows], ARROW[c.type]) for at, c in enumerate(columns)]
    return pa.record_batch([pa.array(keys, pa.string()), *arrays], names=["inchikey", *(c.name for c in columns)])


def predictions(keys: Sequence[str], release: str = "v1") -> list[tuple]:
    """Return a row per molecule that identifies its release; every tenth count is null."""
    seeds = [key_hash(f"{key} {release}") for key in keys]
    return [(s / 2**64, None if s % 10 == 0 else s % 1000, f"{release}-{s % 7}") for s in seeds]


def load(
    store,
    keys: Sequence[str],
    release: str = "v1",
    *,
    columns=COLUMNS,
    rows=None,
    size: int = 100,
    shard: str = SHARD,
    n_shards: int = N_SHARDS,
    rewrite: bool = False,
    **origin,
) -> LoadResult:
    """Load made-up predictions into the test's shard, in batches of `size` molecules."""
    batch = record_batch(keys, columns, predictions(keys, release) if rows is None else rows)
    defaults = {"release": release, "shard_digest": "library", "built_from": f"{release} {len(keys)}"}

    def batches():
        return (batch.slice(at, size) for at in range(0, batch.num_rows, size))

    molecules = ShardRows(TableColumns(MODEL, n_shards, tuple(columns)), shard, batches)
    return load_shard(store, molecules, Origin(**(defaults | origin)), rewrite=rewrite)


def record(store, shard: str = SHARD) -> ShardRecord:
    return ShardRecord.from_item(store.get_many(MODEL, [shard])[shard])


def page_keys(store: MemoryStore, shard: str = SHARD) -> set[str]:
    """Return the keys of all stored pages of a shard."""
    return {key for key in store.tables[MODEL] if key.startswith(f"{shard}/")}


def known_page_keys(store, shard: str = SHARD) -> set[str]:
    """Return the keys of the pages that a settled record names."""
    settled = record(store, shard)
    sets = [pages for pages in (settled.current and settled.current.pages, settled.previous) if pages]
    return {key for pages in sets for key in pages.keys(shard)}


def without_time(store: MemoryStore) -> dict[str, object]:
    """Return the items of the model's table without the load's time, and without versions, which depend on it."""
    items: dict[str, object] = dict(store.tables[MODEL])
    for shard in [key for key in items if key.isdigit()]:
        text = repr(record(store, shard))
        items[shard] = text.replace(record(store, shard).current.loaded_at, "")
    return items


def damage(tables, table: str, shard: str, how: str) -> None:
    """Lose or change one page that readers see."""
    current = ShardRecord.from_item(tables.get_many(table, [shard])[shard]).current
    *_, key = current.pages.keys(shard)
    if how == "lost":
        tables.delete_many(table, [key])
    elif how == "flipped":
        value = tables.get_many(table, [key])[key].value
        tables.put_many(table, [Item(key, value[:-1] + bytes([value[-1] ^ 1]))])
    else:
        content = decompress(tables.get_many(table, [key])[key].value)
        other = content[:-1] + bytes([content[-1] ^ 1])
        tables.put_many(table, [Item(key, zstandard.ZstdCompressor(write_checksum=True).compress(other))])
