"""Loading a shard: atomic and idempotent, despite crashes and concurrent loads."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from aws_emulator import tables_url
from table_doubles import (
    COLUMNS,
    MODEL,
    N_SHARDS,
    SHARD,
    Crash,
    InterruptedStore,
    LaggingStore,
    MemoryStore,
    crash,
    known_page_keys,
    load,
    page_keys,
    predictions,
    record,
    record_batch,
    shard_molecules,
    without_time,
)

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.tables import Item, TableReader, open_tables
from precalc_assets.tables.directory import Origin, TableColumns
from precalc_assets.tables.loader import load_shard
from precalc_assets.tables.pages import Page, page_layout
from precalc_assets.tables.paging import ShardRows
from precalc_assets.tables.store import MAX_ITEM_BYTES, item_bytes, write_units

KEYS = shard_molecules(600)


@pytest.fixture
def store():
    return MemoryStore()


def test_loaded_rows_are_read_back(store):
    result = load(store, KEYS)
    assert (result.directory.rows, result.written) == (600, True)
    assert result.directory.n_pages > 1
    assert TableReader(store, MODEL).get(KEYS) == predictions(KEYS)
    assert page_keys(store) == known_page_keys(store)
    assert result.directory.page_bytes == sum(item_bytes(store.tables[MODEL][key]) for key in page_keys(store))


def test_pages_do_not_depend_on_the_batches(store):
    keys = shard_molecules(3_000)
    results = [load(store, keys, size=3_000)]
    assert 3_200 < results[0].directory.page_bytes / results[0].directory.n_pages < 3_800
    for size in (7, 1_000):
        other = MemoryStore()
        load(other, keys, size=size)
        assert without_time(other) == without_time(store)


def test_a_load_reports_the_units_of_its_writes(store):
    result = load(store, KEYS)
    stored = store.tables[MODEL].values()
    # The shard's record, of less than a KB, is put twice.
    assert result.consumed.write_units == sum(map(write_units, stored)) + 1
    assert result.consumed.items == len(stored) + 1


def test_a_repeated_load_writes_nothing(store):
    first = load(store, KEYS)
    before = dict(store.tables[MODEL])
    again = load(store, KEYS)
    assert not again.written
    assert again.consumed.write_units == 0
    assert again.directory == first.directory
    assert store.tables[MODEL] == before


def test_the_source_file_of_rows_is_recorded(store):
    load(store, KEYS, file_bytes=7, file_sha256="aa")
    current = record(store).current
    assert (current.file_bytes, current.file_sha256) == (7, "aa")
    assert TableReader(store, MODEL).directories()[SHARD] == current


def test_the_same_rows_in_another_file_cost_one_write(store):
    first = load(store, KEYS, file_bytes=7, file_sha256="aa")
    pages = page_keys(store)
    for file_sha256, units in (("aa", 0), ("bb", 1), ("bb", 0), ("aa", 1)):
        again = load(store, KEYS, file_bytes=7, file_sha256=file_sha256)
        assert again.directory.generation == first.directory.generation
        assert (again.written, again.consumed.write_units) == (False, units)
        assert record(store).current.file_sha256 == file_sha256
    assert page_keys(store) == pages


def test_the_generation_before_last_is_deleted(store):
    for release in ("v1", "v2", "v3", "v1"):
        load(store, KEYS, release)
        assert page_keys(store) == known_page_keys(store)
        assert TableReader(store, MODEL).get(KEYS) == predictions(KEYS, release)
    assert len({key.split("/")[1] for key in page_keys(store)}) == 2


def test_an_empty_shard_is_loaded_without_pages(store):
    result = load(store, [])
    assert (result.directory.rows, result.directory.n_pages, result.written) == (0, 0, True)
    assert not load(store, []).written
    reader = TableReader(store, MODEL)
    assert reader.get(KEYS[:2]) == [None, None]
    assert reader.read(KEYS).directories["02"].rows == 0


def prepared(loads, n_keys=300) -> MemoryStore:
    """Return a store after these loads."""
    store = MemoryStore()
    store.tables = {name: dict(items) for name, items in loaded_once(tuple(loads), n_keys).tables.items()}
    return store


@cache
def loaded_once(loads, n_keys) -> MemoryStore:
    store = MemoryStore()
    for release in loads:
        load(store, KEYS[:n_keys], release)
    return store


@cache
def points(*loads) -> int:
    """Return the number of points at which a load of v9 after these loads can be interrupted."""
    n = 0
    while True:
        interrupted = InterruptedStore(prepared(loads), n, lambda: None)
        load(interrupted, KEYS[:300], "v9")
        if not interrupted.reached:
            return n
        n += 1


@pytest.mark.parametrize("loads", [[], ["v1"], ["v1", "v2"]], ids=["first", "second", "third"])
def test_the_same_load_recovers_from_a_crash_at_any_point(loads):
    undisturbed = prepared(loads)
    load(undisturbed, KEYS[:300], "v9")
    for n in range(points(*loads)):
        store = prepared(loads)
        with pytest.raises(Crash):
            load(InterruptedStore(store, n, crash), KEYS[:300], "v9")
        if loads:
            seen = TableReader(store, MODEL).get(KEYS[:300])
            assert seen in (predictions(KEYS[:300], loads[-1]), predictions(KEYS[:300], "v9"))
        load(store, KEYS[:300], "v9")
        assert without_time(store) == without_time(undisturbed), f"point {n}"


def test_the_same_load_recovers_from_two_crashes():
    undisturbed = prepared(["v1", "v2"])
    load(undisturbed, KEYS[:300], "v9")
    n_points = points("v1", "v2")
    for first in range(0, n_points, 4):
        for second in range(0, n_points, 3):
            store = prepared(["v1", "v2"])
            for n in (first, second):
                with suppress(Crash):
                    load(InterruptedStore(store, n, crash), KEYS[:300], "v9")
            load(store, KEYS[:300], "v9")
            assert without_time(store) == without_time(undisturbed), f"points {first}, {second}"


def test_a_load_cleans_up_after_another_one_that_crashed():
    for n in range(points("v1")):
        store = prepared(["v1"])
        with pytest.raises(Crash):
            load(InterruptedStore(store, n, crash), KEYS[:300], "v9")
        load(store, KEYS[:300], "v3")
        assert page_keys(store) == known_page_keys(store), f"point {n}"
        assert (record(store).garbage, record(store).publish) == ((), False)
        assert TableReader(store, MODEL).get(KEYS[:300]) == predictions(KEYS[:300], "v3")


@pytest.mark.parametrize("other", ["v9", "v3", "v1"], ids=["the same", "another", "the present"])
def test_one_of_two_concurrent_loads_wins_without_leftovers(other):
    for n in range(points("v1")):
        store = prepared(["v1"])
        try:
            load(InterruptedStore(store, n, lambda s=store: load(s, KEYS[:300], other)), KEYS[:300], "v9")
            expected = "v9"
        except TableError as error:
            assert other != "v9"
            assert f"{MODEL} shard {SHARD}: another load took over" in str(error)
            expected = other
        assert page_keys(store) == known_page_keys(store), f"point {n}"
        settled = record(store)
        assert (settled.pending, settled.garbage, settled.publish) == (None, (), False)
        seen = TableReader(store, MODEL).get(KEYS[:300])
        assert seen in (predictions(KEYS[:300], expected), predictions(KEYS[:300], other))


def test_threads_that_load_the_same_rows_all_succeed():
    store = MemoryStore()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load(store, KEYS), range(4)))
    assert {(r.directory.generation, r.directory.rows) for r in results} == {(record(store).current.generation, 600)}
    assert page_keys(store) == known_page_keys(store)


@pytest.fixture(params=["sqlite", "dynamodb"])
def url(request, tmp_path):
    """The URL of tables on disk, and of DynamoDB over HTTP."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tables.db"
    request.getfixturevalue("aws")
    return tables_url()


def test_concurrent_loads_succeed_or_say_which_took_over(url):
    load(open_tables(url), KEYS[:200], "v0")

    def attempt(release):
        try:
            return release, load(open_tables(url), KEYS[:200], release)
        except TableError as error:
            return release, str(error)

    with ThreadPoolExecutor(4) as pool:
        ends = dict(pool.map(attempt, ["v1", "v2", "v3", "v4"]))
    refused = [end for end in ends.values() if isinstance(end, str)]
    assert all(f"{MODEL} shard {SHARD}: another load took over" in text for text in refused)
    seen = TableReader(open_tables(url), MODEL, consistent=True).get(KEYS[:200])
    assert seen in [predictions(KEYS[:200], release) for release, end in ends.items() if end not in refused]
    assert record(open_tables(url)).pending is None


def test_readers_see_one_whole_release_during_loads(url):
    keys = KEYS[:200]
    load(open_tables(url), keys, "v0")
    wrong, seen, done = [], set(), threading.Event()

    def read():
        # One reader reads directories on every call, the other caches them over several generations.
        readers = [
            TableReader(open_tables(url), MODEL, clock=clock)
            for clock in (iter(range(0, 10**9, 61)).__next__, lambda: 0)
        ]
        while not done.is_set():
            for reader in readers:
                rows = reader.get(keys)
                releases = {row[2].split("-")[0] if row else None for row in rows}
                release = releases.pop()
                if releases or release is None or rows != predictions(keys, release):
                    wrong.append(releases | {release})
                seen.add(release)

    with ThreadPoolExecutor(2) as pool:
        readings = [pool.submit(read) for _ in range(2)]
        store = open_tables(url)
        try:
            for i in range(1, 13):
                load(store, keys, f"v{i}")
        finally:
            done.set()
    for reading in readings:
        reading.result()
    assert not wrong
    assert len(seen) > 3


LOADER = """
import sys
sys.path.insert(0, sys.argv[1])
from table_doubles import load, shard_molecules
from precalc_assets.tables import open_tables
keys = shard_molecules(600)
store = open_tables(sys.argv[2])
print("ready", flush=True)
for release in sys.argv[3].split(","):
    load(store, keys, release)
"""


def test_killed_loads_can_be_completed(tmp_path):
    url = f"sqlite:///{tmp_path}/tables.db"
    releases = [f"v{i}" for i in range(400)]
    store = open_tables(url)
    load(store, KEYS, "first")
    for pause in (0.03, 0.1, 0.25):
        arguments = [sys.executable, "-c", LOADER, str(Path(__file__).parent), url, ",".join(releases)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=os.environ) as loader:
            loader.stdout.readline()
            time.sleep(pause)
            loader.send_signal(signal.SIGKILL)
        rows = TableReader(store, MODEL).get(KEYS)
        release = rows[0][2].split("-")[0]
        assert rows == predictions(KEYS, release)
    load(store, KEYS, "last")
    load(store, KEYS, "last")
    assert TableReader(store, MODEL).get(KEYS) == predictions(KEYS, "last")
    with store._connected(MODEL) as db:
        stored = {key for (key,) in db.execute('SELECT key FROM "table:eos0abc"') if key.startswith(f"{SHARD}/")}
    assert stored == known_page_keys(store)


@pytest.mark.parametrize("lag", [1, 5, 40])
def test_readers_see_one_whole_release_in_a_lagging_store(lag):
    keys = KEYS[:200]
    store = LaggingStore(prepared(["v0"], 200), lag)
    kept = TableReader(store, MODEL, clock=lambda: 0)
    for i in range(1, 7):
        load(store, keys, f"v{i}")
        for reader in (kept, TableReader(store, MODEL)):
            rows = reader.get(keys)
            assert rows in [predictions(keys, f"v{release}") for release in range(i + 1)]
        assert TableReader(store, MODEL, consistent=True).get(keys) == predictions(keys, f"v{i}")
        assert TableReader(store, MODEL).directories()[SHARD].release == f"v{i}"


def random_text(seed: str, n: int) -> str:
    return "".join(f"{at:02x}" for at in Random(seed).randbytes(n // 2))


TEXT = [Column("text", "string", "", "")]


def test_a_row_too_wide_for_an_item_fails_before_any_write(store):
    rows = [(random_text(key, 2 * MAX_ITEM_BYTES + 10_000),) if at == 2 else ("",) for at, key in enumerate(KEYS[:5])]
    with pytest.raises(TableError, match=f"{MODEL} shard {SHARD}.*{KEYS[2]}.*{MAX_ITEM_BYTES - 64}"):
        load(store, KEYS[:5], columns=TEXT, rows=rows)
    assert store.list_tables() == []


def test_wide_rows_get_pages_that_fit_into_an_item(store):
    rows = [(random_text(key, 440_000),) for key in KEYS[:4]]  # 220 KB once compressed, so two are too many
    result = load(store, KEYS[:4], columns=TEXT, rows=rows)
    assert result.directory.n_pages > 4
    assert max(item_bytes(item) for item in store.tables[MODEL].values()) <= MAX_ITEM_BYTES
    assert TableReader(store, MODEL).get(KEYS[:4]) == rows


def test_rows_that_compress_well_may_be_wider_than_an_item(store):
    rows = [("ab" * MAX_ITEM_BYTES,) for _ in KEYS[:3]]
    load(store, KEYS[:3], columns=TEXT, rows=rows)
    assert TableReader(store, MODEL).get(KEYS[:3]) == rows


def test_a_directory_of_thousands_of_columns_is_small(store):
    columns = [Column(f"bit_{at:04d}", "integer", "", f"count of fragment {at}") for at in range(2_048)]
    load(store, KEYS[:20], columns=columns, rows=[tuple(at % 7 for at in range(2_048))] * 20)
    assert item_bytes(store.tables[MODEL][SHARD]) < 1_024
    assert TableReader(store, MODEL).columns == tuple(columns)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([KEYS[1], KEYS[0]], f"{KEYS[0]} is out of order"),
        ([KEYS[0], KEYS[0]], f"{KEYS[0]} is duplicated"),
        ([KEYS[0], shard_molecules(1, "03")[0]], "belongs to another shard"),
        ([KEYS[0], "not a key"], "'not a key' is not an InChIKey"),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_unordered_or_foreign_rows_are_refused(store, keys, message, size):
    with pytest.raises(TableError, match=f"{MODEL} shard {SHARD}: .*{message}"):
        load(store, keys, size=size)
    assert store.list_tables() == []


def test_a_shard_that_does_not_exist_is_refused(store):
    with pytest.raises(TableError, match="no shard '04' among 4"):
        load(store, [], shard="04")


def shard_rows(batches) -> ShardRows:
    return ShardRows(TableColumns(MODEL, N_SHARDS, tuple(COLUMNS)), SHARD, batches)


def test_an_error_names_a_missing_column(store):
    batch = record_batch(KEYS[:1], COLUMNS[:1], [(0.5,)])
    with pytest.raises(TableError, match=f"{MODEL} shard {SHARD}: column 'count'"):
        load_shard(store, shard_rows(lambda: iter([batch])), Origin(release="v1", shard_digest="", built_from=""))


def test_rows_that_change_between_passes_are_never_shown(store):
    load(store, KEYS, "v1")
    passes = iter([KEYS[:300], KEYS[:300], KEYS[:200], KEYS[:300], KEYS[:300], KEYS[:300]])
    origin = Origin(release="v2", shard_digest="", built_from="")

    def batches():
        keys = next(passes)
        return iter([record_batch(keys, COLUMNS, predictions(keys, "v2"))])

    with pytest.raises(TableError, match="changed during the load"):
        load_shard(store, shard_rows(batches), origin)
    assert TableReader(store, MODEL).get(KEYS) == predictions(KEYS, "v1")
    load_shard(store, shard_rows(batches), origin)
    assert TableReader(store, MODEL).get(KEYS) == predictions(KEYS[:300], "v2") + [None] * 300
    assert page_keys(store) == known_page_keys(store)


def test_another_number_of_shards_is_refused_with_a_remedy(store):
    load(store, KEYS)
    before = dict(store.tables[MODEL])
    with pytest.raises(
        TableError, match=r"has 4 shards, not 1; run `precalc drop .*` first, or set PRECALC_N_SHARDS=4"
    ):
        load(store, KEYS, "v2", n_shards=1, shard="00")
    assert store.tables[MODEL] == before


def test_shards_keep_their_own_rows(store):
    shards = {shard: shard_molecules(50, shard) for shard in ("00", "01", "03")}
    for shard, keys in shards.items():
        load(store, keys, shard=shard)
    everyone = [key for keys in shards.values() for key in keys]
    assert TableReader(store, MODEL).get(everyone) == predictions(everyone)


def test_pages_of_a_shard_do_not_overlap(store):
    load(store, KEYS)
    current = record(store).current
    layout = page_layout(tuple(column.type for column in COLUMNS), current.dtypes)
    pages = [Page(layout, store.tables[MODEL][key].value).hashes for key in current.pages.keys(SHARD)]
    assert sum(map(len, pages)) == 600
    assert all(a < b for a, b in pairwise(h for page in pages for h in page))


def test_rewriting_a_generation_repairs_a_damaged_page(store):
    keys = shard_molecules(300)
    before = load(store, keys)
    damaged = next(iter(page_keys(store)))
    store.put_many(MODEL, [Item(damaged, b"")])

    assert not load(store, keys).written
    after = load(store, keys, rewrite=True)

    assert after.written
    assert (after.directory.generation, after.directory.rows) == (before.directory.generation, before.directory.rows)
    assert None not in TableReader(store, MODEL).get(keys)
    load(store, keys, release="v2")
    load(store, keys, release="v3")
    assert page_keys(store) == known_page_keys(store)


def test_a_load_looks_for_every_page_and_writes_lost_ones(url):
    store = open_tables(url)
    before = load(store, KEYS)
    pages = sorted(record(store).current.pages.keys(SHARD))
    assert load(store, KEYS).consumed.read_units >= len(pages) / 2
    assert store.missing_keys(MODEL, [*pages, "lost"])[0] == ["lost"]

    store.delete_many(MODEL, pages[-1:])
    after = load(store, KEYS)

    assert (after.directory.generation, after.written) == (before.directory.generation, True)
    assert TableReader(store, MODEL).get(KEYS) == predictions(KEYS)
    assert not load(store, KEYS).written
