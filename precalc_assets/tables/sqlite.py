"""The embedded key-value store: one SQLite file, for a laptop and for tests.

It counts DynamoDB's units by the rules of `store`, so a run on a laptop shows what the same run would cost on DynamoDB.
Standard library only.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from precalc_assets.platform_errors import TableError
from precalc_assets.tables.store import ConditionalPut, Consumed, Found, Item, missing_table, units_to_read, write_units

_PREFIX = "table:"
_BATCH = 256
"""Items per transaction: about 1 MB of pages, written in some 5 ms, so other writers do not wait long."""
_KEYS_PER_QUERY = 500
"""Below SQLite's lowest default limit of variables per statement, 999 (SQLITE_MAX_VARIABLE_NUMBER, limits.html)."""
_BUSY_SECONDS = 60.0
"""Timeout of a writer that waits for the file's lock."""

_T = TypeVar("_T")


class SQLiteStore:
    """A key-value store in one SQLite file. Creates the file and its folders if they do not exist.

    Threads share one connection behind a lock; a forked process opens its own. In WAL mode, readers and the current
    writer do not block each other, and a killed process loses at most its open transaction. With `synchronous=NORMAL`,
    a power failure may lose the last transactions, but never corrupts the file. A file that cannot be written, on a
    full disk or a mount for reading, is opened for reading.

    Raises TableError for a file that is not a SQLite database or cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._open()

    def create_table(self, table: str) -> None:
        """Create a table unless it exists."""
        with self._connected(table) as db:
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {_sql_name(table)}"
                " (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, version TEXT NOT NULL)"
            )

    def drop_table(self, table: str) -> None:
        """Delete a table and its items, if it exists."""
        with self._connected(table) as db:
            db.execute(f"DROP TABLE IF EXISTS {_sql_name(table)}")

    def has_table(self, table: str) -> bool:
        """Return whether the table exists."""
        return table in self.list_tables()

    def list_tables(self) -> list[str]:
        """Return the names of all tables, sorted."""
        with self._connected("*") as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))

    def put_many(self, table: str, items: Iterable[Item]) -> Consumed:
        """Write items, one transaction per batch, replacing those at the same keys."""
        sql = f"INSERT OR REPLACE INTO {_sql_name(table)} (key, value, version) VALUES (?, ?, ?)"  # noqa: S608
        consumed = Consumed()
        for batch in _batches(items, _BATCH):
            with self._transaction(table) as db:
                db.executemany(sql, [(item.key, item.value, item.version) for item in batch])
            consumed += Consumed(write_units=sum(map(write_units, batch)), items=len(batch))
        return consumed

    def get_many(self, table: str, keys: Sequence[str], *, consistent: bool = False) -> Found:
        """Return the items at the keys. Every read is consistent; `consistent` only decides the counted units."""
        stored: list[Item] = []
        # Sorted as in the index, for locality.
        distinct = sorted(set(keys))
        for batch in _batches(distinct, _KEYS_PER_QUERY):
            with self._connected(table) as db:
                stored += _select(db, table, batch)
        return Found(stored, lambda: Consumed(read_units=units_to_read(len(distinct), stored, consistent=consistent)))

    def missing_keys(self, table: str, keys: Sequence[str]) -> tuple[list[str], Consumed]:
        """Return the keys that have no item. The values are not read, so their size in DynamoDB is not counted."""
        there: set[str] = set()
        for batch in _batches(sorted(keys), _KEYS_PER_QUERY):
            with self._connected(table) as db:
                sql = f"SELECT key FROM {_sql_name(table)} WHERE key IN ({_marks(batch)})"  # noqa: S608
                there.update(key for (key,) in db.execute(sql, batch))
        missing = [key for key in keys if key not in there]
        return missing, Consumed(read_units=len(keys) / 2)

    def put_if(self, table: str, item: Item, expected: str | None) -> ConditionalPut:
        """Write an item if the stored one's version equals `expected`, or if there is none when `expected` is None."""
        with self._connected(table) as db:
            # One statement is one transaction, so no other writer can change the item between comparison and write.
            if expected is None:
                cursor = db.execute(
                    f"INSERT INTO {_sql_name(table)} (key, value, version) VALUES (?, ?, ?)"  # noqa: S608
                    " ON CONFLICT (key) DO NOTHING",
                    (item.key, item.value, item.version),
                )
            else:
                cursor = db.execute(
                    f"UPDATE {_sql_name(table)} SET value = ?, version = ?"  # noqa: S608
                    " WHERE key = ? AND version = ?",
                    (item.value, item.version, item.key, expected),
                )
            written = cursor.rowcount == 1
        return ConditionalPut(written, Consumed(write_units=write_units(item), items=int(written)))

    def delete_many(self, table: str, keys: Iterable[str]) -> Consumed:
        """Delete the items at the keys, one transaction per batch."""
        consumed = Consumed()
        for batch in _batches(keys, _KEYS_PER_QUERY):
            with self._transaction(table) as db:
                stored = _select(db, table, batch)
                db.execute(f"DELETE FROM {_sql_name(table)} WHERE key IN ({_marks(batch)})", batch)  # noqa: S608
            units = sum(map(write_units, stored)) + len(batch) - len(stored)
            consumed += Consumed(write_units=units, items=len(batch))
        return consumed

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        try:
            try:
                self._connection = self._open_to_write()
            except (sqlite3.OperationalError, OSError):
                if not self._path.is_file():
                    raise
                self._connection = self._open_to_read()
        except (sqlite3.Error, OSError) as error:
            foreign = isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error)
            way_out = "move it away" if foreign else "check that its folder is writable and the disk has room"
            raise TableError(
                f"{self._path} cannot be used as prediction tables: {error}; {way_out}, or set PRECALC_TABLES_URL"
            ) from error

    def _open_to_write(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = _connect(str(self._path))
        _switch_to_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    def _open_to_read(self) -> sqlite3.Connection:
        """Open the file without writing to its folder. Raises sqlite3.Error if only a writer can say what it holds."""
        url = f"{self._path.resolve().as_uri()}?mode=ro"
        try:
            return _connect(url)
        except sqlite3.OperationalError:
            # Without locks and the log of writes. The log is empty or gone after writers have closed the file.
            log = self._path.with_name(f"{self._path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise
            return _connect(f"{url}&immutable=1")

    @contextmanager
    def _connected(self, table: str) -> Iterator[sqlite3.Connection]:
        """Yield the connection to one thread at a time, and turn SQLite's errors into TableError."""
        if self._pid != os.getpid():
            # A connection must not be used after a fork, nor closed (sqlite.org/howtocorrupt.html, 2.6).
            self._inherited = self._connection
            self._open()
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                if "no such table" in str(error):
                    raise missing_table(table) from None
                way_out = (
                    "make its disk and folder writable" if "readonly" in str(error) else "fix the cause and try again"
                )
                if not isinstance(error, sqlite3.OperationalError):  # damage: "malformed", "not a database"
                    way_out = (
                        f"move it and {self._path.name}-wal away, then run `precalc library build`, and `precalc load "
                        "MODEL` for each model, which write it anew"
                    )
                raise TableError(f"table {table!r} in {self._path}: {error}; {way_out}") from error

    @contextmanager
    def _transaction(self, table: str) -> Iterator[sqlite3.Connection]:
        # As a context, the connection commits at the end, and rolls back after any error, also of the commit.
        with self._connected(table) as db, db:
            # IMMEDIATE waits for the lock here; a transaction that begins with a read can fail at its first write.
            db.execute("BEGIN IMMEDIATE")
            yield db


def _connect(database: str) -> sqlite3.Connection:
    # Autocommit, since `_transaction` begins its own; shared between threads, since the store's lock guards it.
    db = sqlite3.connect(
        database, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=database.startswith("file:")
    )
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Switch to WAL mode. Retries, since SQLite does not wait here while another process switches the same new file."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _select(db: sqlite3.Connection, table: str, keys: list[str]) -> list[Item]:
    rows = db.execute(
        f"SELECT key, value, version FROM {_sql_name(table)} WHERE key IN ({_marks(keys)})",  # noqa: S608
        keys,
    )
    return [Item(*row) for row in rows]


def _sql_name(table: str) -> str:
    return '"' + (_PREFIX + table).replace('"', '""') + '"'


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _batches(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch
