"""The contract of every key-value store, and the SQLite store beyond it. `tests/aws` has the DynamoDB store."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aws_emulator import REGION, tables_url
from dynamodb_hooks import check_batches
from moto import mock_aws
from table_doubles import MemoryStore

from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.tables import Consumed, Item, open_tables
from precalc_assets.tables.dynamodb import DynamoDBStore
from precalc_assets.tables.sqlite import SQLiteStore
from precalc_assets.tables.store import item_bytes, read_units, write_units

TABLE = "eos0abc"


@pytest.fixture
def sqlite_store(tmp_path):
    return SQLiteStore(tmp_path / "tables.db")


@pytest.fixture
def memory_store():
    return MemoryStore()


@pytest.fixture
def moto_store():
    with mock_aws():
        store = DynamoDBStore(REGION, "test")
        check_batches(store)
        yield store


@pytest.fixture
def ministack_store(aws):
    store = open_tables(tables_url())
    check_batches(store)
    return store


@pytest.fixture(params=["sqlite", "memory", "moto", "ministack"])
def store(request):
    store = request.getfixturevalue(f"{request.param}_store")
    yield store
    store.close()


@pytest.fixture
def table(store):
    store.create_table(TABLE)
    return TABLE


def test_a_table_exists_from_creation_to_deletion(store):
    assert not store.has_table("eos0abc-v2")
    for name in ("models", "eos0abc-v2", "library"):
        store.create_table(name)
    store.put_many("library", [Item("k", b"v")])
    store.create_table("library")
    assert store.get_many("library", ["k"]) == {"k": Item("k", b"v")}
    assert store.list_tables() == ["eos0abc-v2", "library", "models"]
    for _ in range(2):
        store.drop_table("library")
    assert not store.has_table("library")
    store.create_table("library")
    assert store.get_many("library", ["k"]) == {}


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.get_many("eos9zzz", ["k"]),
        lambda store: store.put_many("eos9zzz", [Item("k", b"")]),
        lambda store: store.put_if("eos9zzz", Item("k", b""), None),
        lambda store: store.put_if("eos9zzz", Item("k", b""), "v"),
        lambda store: store.delete_many("eos9zzz", ["k"]),
    ],
)
def test_a_missing_table_is_an_error_with_a_remedy(store, use):
    with pytest.raises(TableError, match=r"eos9zzz.*run `precalc load eos9zzz` first"):
        use(store)


def test_items_are_read_back_and_missing_ones_are_absent(store, table):
    items = [Item("07", b"\x00\xff", "v1"), Item("07/a/0", b""), Item("é'\"", b"x")]
    assert store.put_many(table, items).items == 3
    assert store.get_many(table, ["07", "07/a/0", "é'\"", "08", "07"]) == {item.key: item for item in items}
    store.put_many(table, [Item("07", b"new")])
    assert store.get_many(table, ["07"]) == {"07": Item("07", b"new")}
    assert store.get_many(table, []) == {}
    assert store.put_many(table, []) == store.delete_many(table, []) == Consumed()


def test_a_duplicate_key_is_stored_once(store, table):
    store.put_many(table, [Item("a", b"1"), Item("b", b""), Item("a", b"2")])
    assert store.get_many(table, ["a", "a", "b"])["a"].value in {b"1", b"2"}
    store.delete_many(table, ["a", "a"])
    assert store.get_many(table, ["a", "b"]).keys() == {"b"}


def test_large_items_are_written_and_read_many_at_once(store, table):
    # More than 1 MB per batch of 25. moto counts the base64 of a value, so it takes no larger ones.
    assert store.put_many(table, (Item(str(i), bytes([i]) * 300_000) for i in range(10))).items == 10
    found = store.get_many(table, [str(i) for i in range(10)], consistent=True)
    assert [found[str(i)].value for i in range(10)] == [bytes([i]) * 300_000 for i in range(10)]


def test_a_thousand_items_are_written_read_and_deleted(store, table):
    assert store.put_many(table, (Item(str(i), bytes(i)) for i in range(1_200))).items == 1_200
    found = store.get_many(table, [str(i) for i in range(1_500)])
    assert {key: len(item.value) for key, item in found.items()} == {str(i): i for i in range(1_200)}
    store.delete_many(table, (str(i) for i in range(1, 1_500)))
    assert list(store.get_many(table, [str(i) for i in range(1_500)])) == ["0"]


def test_tables_do_not_share_keys(store, table):
    store.create_table("other")
    store.put_many("other", [Item("k", b"theirs")])
    store.put_many(table, [Item("k", b"ours")])
    store.delete_many("other", ["k"])
    assert store.get_many(table, ["k"])["k"].value == b"ours"


def test_put_if_writes_only_over_the_version_it_expects(store, table):
    assert not store.put_if(table, Item("k", b"1", "v1"), "v0")
    assert store.put_if(table, Item("k", b"1", "v1"), None)
    assert not store.put_if(table, Item("k", b"2", "v2"), None)
    assert not store.put_if(table, Item("k", b"2", "v2"), "v0")
    assert store.put_if(table, Item("k", b"2", "v2"), "v1")
    assert store.get_many(table, ["k"]) == {"k": Item("k", b"2", "v2")}


def test_put_if_treats_a_missing_version_as_empty(store, table):
    store.put_many(table, [Item("k", b"1")])
    assert not store.put_if(table, Item("k", b"2"), None)
    assert store.put_if(table, Item("k", b"2", "v"), "")


def test_one_of_many_threads_wins_each_version(store, table):
    def attempt(at):
        return store.put_if(table, Item("k", b"", f"{at}"), None)

    with ThreadPoolExecutor(8) as pool:
        assert sum(put.written for put in pool.map(attempt, range(40))) == 1


def test_threads_that_write_and_read_at_once_lose_nothing(store, table):
    def work(name):
        store.put_many(table, (Item(f"{name}-{i}", b"x" * 100) for i in range(300)))
        return len(store.get_many(table, [f"{name}-{i}" for i in range(300)]))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [300] * 6


def test_units_follow_the_item_rules_of_dynamodb(store, table):
    exact = Item("k", bytes(1024 - len("key") - len("value") - 1))
    over = Item("k", exact.value + b"x")
    assert (item_bytes(exact), write_units(exact), write_units(over)) == (1024, 1, 2)
    assert item_bytes(Item("é", b"", "v")) == len("key") + 2 + len("value") + len("version") + 1
    assert [read_units(Item("k", bytes(n))) for n in (0, 4096 - 9, 4096 - 8)] == [0.5, 0.5, 1.0]
    assert read_units(None) == 0.5
    if isinstance(store, DynamoDBStore) and "AWS_ENDPOINT_URL" not in os.environ:
        return  # moto counts one unit for every item.
    assert store.put_many(table, [exact, Item("l", b"")]) == Consumed(write_units=2, items=2)
    assert store.put_many(table, [over]) == Consumed(write_units=2, items=1)
    assert store.get_many(table, ["k", "l", "missing"]).consumed == Consumed(read_units=1.5)
    assert store.get_many(table, ["k", "missing"], consistent=True).consumed == Consumed(read_units=2)
    assert store.put_if(table, over, "").consumed == Consumed(write_units=2, items=1)
    assert store.put_if(table, over, "other").consumed == Consumed(write_units=2)
    assert store.delete_many(table, ["k", "l", "missing"]) == Consumed(write_units=4, items=3)
    assert Consumed(1, 0.5, 1) + Consumed(2, 1, 3) == Consumed(3, 1.5, 4)


def test_a_url_names_a_file_whose_folders_are_created(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_tables("sqlite:///./a/b/tables.db").create_table(TABLE)
    assert (tmp_path / "a/b/tables.db").exists()
    assert open_tables(f"sqlite:///{tmp_path}/a/b/tables.db").list_tables() == [TABLE]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tables.db",
        "postgres://host/db",
        "sqlite://tables.db",
        "sqlite:///",
        "dynamodb://",
        "dynamodb://eu-central-1",
        "dynamodb://somewhere/precalc",
        "dynamodb:///precalc",
        "dynamodb://eu-central-1/a/b",
    ],
)
def test_a_wrong_url_is_an_error_that_names_the_setting(url):
    with pytest.raises(UsageError, match="PRECALC_TABLES_URL"):
        open_tables(url)


def test_a_file_that_is_no_database_is_refused_unchanged(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at\n" * 50)
    for broken in (path, tmp_path):
        with pytest.raises(TableError, match=r"PRECALC_TABLES_URL"):
            SQLiteStore(broken)
    assert path.read_text().startswith("not a database")


def test_a_failing_generator_leaves_whole_batches(tmp_path):
    store = SQLiteStore(tmp_path / "tables.db")
    store.create_table(TABLE)

    def items():
        yield from (Item(str(i), b"x") for i in range(300))
        raise ValueError

    with pytest.raises(ValueError):
        store.put_many(TABLE, items())
    assert len(store.get_many(TABLE, [str(i) for i in range(300)])) == 256
    assert store.put_many(TABLE, [Item("k", b"")]).items == 1


def _race(path, winners):
    store = SQLiteStore(path)
    store.create_table(TABLE)
    for i in range(50):
        store.put_many(TABLE, [Item(f"{os.getpid()}-{i}", b"x")])
        if store.put_if(TABLE, Item(f"prize-{i}", b"", str(os.getpid())), None):
            winners.put(i)


def _open_each(folder, barrier, failures):
    for number in range(60):
        barrier.wait(60)
        try:
            store = SQLiteStore(folder / f"{number}.db")
            store.create_table(TABLE)
            store.put_many(TABLE, [Item(str(os.getpid()), b"")])
        except TableError as error:
            failures.put(str(error))


def test_processes_open_a_new_file_at_the_same_instant(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_open_each, args=(tmp_path, barrier, failures)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failures.empty()


def test_processes_share_a_new_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    winners = context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path / "new/tables.db", winners)) for _ in range(3)]
    for process in processes:
        process.start()
    won = sorted(winners.get(timeout=60) for _ in range(50))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert won == list(range(50))


def test_a_forked_process_uses_a_connection_of_its_own(tmp_path):
    store = SQLiteStore(tmp_path / "tables.db")
    store.create_table(TABLE)
    child = os.fork()
    if child == 0:
        store.put_many(TABLE, [Item("child", b"")])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert "child" in store.get_many(TABLE, ["child"])


WRITER = """
import sys
from precalc_assets.tables import Item, open_tables
store = open_tables(sys.argv[1])
store.create_table("eos0abc")
print("ready", flush=True)
while True:
    store.put_many("eos0abc", (Item(str(i), bytes(2000)) for i in range(2560)))
"""


def test_a_file_survives_a_killed_writer(tmp_path):
    url = f"sqlite:///{tmp_path}/tables.db"
    for pause in (0.01, 0.1):
        with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(pause)
            writer.send_signal(signal.SIGKILL)
        store = open_tables(url)
        found = store.get_many(TABLE, [str(i) for i in range(2560)])
        assert len(found) % 256 == 0
        assert all(len(item.value) == 2000 for item in found.values())
        assert store.put_many(TABLE, [Item("after", b"")]).items == 1
        store.delete_many(TABLE, ["after"])
        store.close()


def test_a_writer_does_not_block_a_reader(tmp_path):
    path = tmp_path / "tables.db"
    writer, reader = SQLiteStore(path), SQLiteStore(path)
    writer.create_table(TABLE)
    writer.put_many(TABLE, [Item("k", b"old")])
    with writer._transaction(TABLE) as db:
        db.execute('UPDATE "table:eos0abc" SET value = ?', (b"new",))
        seen = []
        thread = threading.Thread(target=lambda: seen.append(reader.get_many(TABLE, ["k"])["k"].value))
        thread.start()
        thread.join(10)
        assert seen == [b"old"]
    assert reader.get_many(TABLE, ["k"])["k"].value == b"new"
