"""Reading a table: rows in the order of the request, an error for a lost page, and few imports."""

import subprocess
import sys

import pytest
from table_doubles import (
    COLUMNS,
    MODEL,
    SHARD,
    Crash,
    InterruptedStore,
    MemoryStore,
    crash,
    load,
    page_keys,
    predictions,
    record,
    shard_molecules,
)

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.tables import TableReader, directory, loader, pages
from precalc_assets.tables.reader import PageCache

KEYS = shard_molecules(400)
OTHER_SHARD = shard_molecules(5, "01")


@pytest.fixture
def store():
    store = MemoryStore()
    load(store, KEYS[:300])
    return store


def test_rows_come_in_the_order_of_the_request(store):
    asked = [KEYS[7], KEYS[350], KEYS[0], KEYS[7], OTHER_SHARD[0]]
    rows = predictions(asked)
    assert TableReader(store, MODEL).get(asked) == [rows[0], None, rows[2], rows[0], None]
    assert TableReader(store, MODEL).get([]) == []


def test_a_read_distinguishes_missing_shards_from_molecules(store):
    reader = TableReader(store, MODEL)
    assert reader.read([KEYS[350], *OTHER_SHARD]).directories.keys() == {"02"}
    load(store, OTHER_SHARD, shard="01")
    assert reader.read([KEYS[350], *OTHER_SHARD]).directories.keys() == {"01", "02"}
    assert reader.get(OTHER_SHARD) == predictions(OTHER_SHARD)


@pytest.mark.parametrize("room", [0, 5_000, 1 << 20])
def test_a_cache_of_pages_changes_no_row(store, room):
    cache = PageCache(room)
    before = TableReader(store, MODEL, cache=cache)
    for _ in range(2):
        assert before.get(KEYS[:300]) == predictions(KEYS[:300])
        assert before.read(KEYS[:300], (1, 0)).rows == [row[1::-1] for row in predictions(KEYS[:300])]
    load(store, KEYS[:200], "v2", columns=NEW_COLUMNS, rows=new_rows(KEYS[:200]))
    after = TableReader(store, MODEL, cache=cache)
    for _ in range(2):
        assert after.get(KEYS[:200]) == new_rows(KEYS[:200])
        assert cache.bytes <= room
    deleted = [key for key in store.tables[MODEL] if "/" in key]
    store.delete_many(MODEL, deleted)
    if room == 1 << 20:
        assert after.get(KEYS[:200]) == new_rows(KEYS[:200])
    else:
        with pytest.raises(TableError, match="is lost"):
            after.get(KEYS[:200])


def test_pages_are_read_once_and_directories_cached_a_minute(store):
    reads = []

    class Watched(MemoryStore):
        def get_many(self, table, keys, **options):
            reads.append(sorted(keys))
            return super().get_many(table, keys, **options)

    watched, now = Watched(), [0.0]
    watched.tables = store.tables
    reader = TableReader(watched, MODEL, clock=lambda: now[0])
    for at, directory_reads in ((0.0, 1), (59.0, 0), (61.0, 1)):
        now[0] = at
        reads.clear()
        reader.get(KEYS[:300])
        flat = [key for keys in reads for key in keys]
        assert flat.count(SHARD) == directory_reads
        assert sorted(key for key in flat if key != SHARD) == sorted(page_keys(store))


def test_directories_list_the_loaded_shards(store):
    load(store, OTHER_SHARD, shard="01")
    with pytest.raises(Crash):
        load(InterruptedStore(store, 12, crash), shard_molecules(3, "03"), shard="03")
    found = TableReader(store, MODEL).directories()
    assert {shard: (d.rows, d.release, d.shard_digest) for shard, d in found.items()} == {
        "01": (5, "v1", "library"),
        "02": (300, "v1", "library"),
    }


def test_a_lost_page_is_an_error_and_not_a_null(store):
    reader = TableReader(store, MODEL)
    lost = min(page_keys(store))
    del store.tables[MODEL][lost]
    with pytest.raises(TableError, match=f"{MODEL}: page '{lost}' is lost"):
        reader.get(KEYS[:300])


def test_a_reader_survives_deletion_of_its_cached_generation(store):
    reader = TableReader(store, MODEL, clock=lambda: 0.0)
    assert reader.get(KEYS[:300]) == predictions(KEYS[:300])
    load(store, KEYS[:300], "v2")
    assert reader.get(KEYS[:300]) == predictions(KEYS[:300])
    load(store, KEYS, "v3")
    assert reader.get(KEYS) == predictions(KEYS, "v3")


@pytest.mark.parametrize("bad", ["", "aspirin", KEYS[0].lower(), KEYS[0] + "\n", KEYS[0][:-1], "é" * 27])
def test_an_error_names_a_malformed_inchikey(store, bad):
    reader = TableReader(store, MODEL)
    with pytest.raises(UsageError) as caught:
        reader.get([KEYS[0], bad])
    assert repr(bad) in str(caught.value)


def test_a_missing_or_empty_table_is_an_error_with_a_remedy(store):
    with pytest.raises(TableError, match=r"eos9zzz.*run `precalc load eos9zzz` first"):
        TableReader(store, "eos9zzz")
    store.create_table("eos9zzz")
    with pytest.raises(TableError, match=r"eos9zzz.*run `precalc load eos9zzz` first"):
        TableReader(store, "eos9zzz")


NEW_COLUMNS = [Column("extra", "float", "", ""), COLUMNS[2], Column("count", "float", "", "now a mean"), COLUMNS[0]]


def new_rows(keys):
    return [(at / 3, f"new {at}", at + 0.5, at / 7) for at, _ in enumerate(keys)]


def test_old_shards_are_read_by_shared_names_and_types(store):
    before = TableReader(store, MODEL)
    load(store, OTHER_SHARD, "v2", shard="01", columns=NEW_COLUMNS, rows=new_rows(OTHER_SHARD))
    after = TableReader(store, MODEL)
    assert after.columns == tuple(NEW_COLUMNS)
    assert after.get(OTHER_SHARD) == new_rows(OTHER_SHARD)
    old = predictions(KEYS[:300])
    assert after.get(KEYS[:300]) == [(None, label, None, score) for score, _, label in old]
    # A reader opened before keeps its columns.
    assert before.columns == tuple(COLUMNS)
    assert before.get(KEYS[:300]) == old
    assert before.get(OTHER_SHARD) == [(score, None, label) for _, label, _, score in new_rows(OTHER_SHARD)]


def test_new_columns_are_published_after_any_crash(store):
    tables = {MODEL: dict(store.tables[MODEL])}
    arguments = {"columns": NEW_COLUMNS, "rows": new_rows(KEYS[:50])}
    n, reached = 0, True
    while reached:
        store = MemoryStore()
        store.tables = {MODEL: dict(tables[MODEL])}
        interrupted = InterruptedStore(store, n, crash)
        try:
            load(interrupted, KEYS[:50], "v2", **arguments)
        except Crash:
            if record(store).current.release == "v1":
                assert TableReader(store, MODEL).columns == tuple(COLUMNS)
            load(store, KEYS[:50], "v2", **arguments)
        reached = interrupted.reached
        assert TableReader(store, MODEL).columns == tuple(NEW_COLUMNS)
        assert TableReader(store, MODEL).get(KEYS[:50]) == new_rows(KEYS[:50])
        n += 1


def test_reloading_an_old_shard_keeps_the_new_columns(store):
    load(store, OTHER_SHARD, "v2", shard="01", columns=NEW_COLUMNS, rows=new_rows(OTHER_SHARD))
    assert not load(store, KEYS[:300]).written
    assert TableReader(store, MODEL).columns == tuple(NEW_COLUMNS)


def test_a_reader_refuses_a_table_replaced_with_other_shards(store):
    reader = TableReader(store, MODEL)
    store.drop_table(MODEL)
    load(store, shard_molecules(10, "02", 8), n_shards=8)
    with pytest.raises(TableError, match="replaced by one with 8 shards, not 4"):
        reader.get(KEYS[:1])


def test_reading_imports_no_large_library():
    large = ["numpy", "pyarrow", "pandas", "polars", "rdkit", "dagster"]
    code = f"import sys; import precalc_assets.tables; print([m for m in {large} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_table_whose_pages_have_another_format_is_refused_not_misread(monkeypatch):
    older = MemoryStore()
    with monkeypatch.context() as then:
        for module in (directory, loader):
            then.setattr(module, "FORMAT_VERSION", pages.FORMAT_VERSION - 1)
        load(older, KEYS[:300])
        assert TableReader(older, MODEL).get(KEYS[:1]) == predictions(KEYS[:1])
    with pytest.raises(TableError, match=f"item '{SHARD}' of the table has another format .* run `precalc drop`"):
        TableReader(older, MODEL).get(KEYS[:1])
