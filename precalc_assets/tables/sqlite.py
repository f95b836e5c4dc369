"""The embedded key-value store: one SQLite file, for a laptop and for tests.

Its accounts are DynamoDB's, by the item rules of `store`, so a run on a laptop shows what the same run would cost.
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
from precalc_assets.tables.store import (
    ConditionalPut,
    Consumed,
    Found,
    Item,
    missing_table,
    units_to_read,
    write_units,
)

_PREFIX = "table:"
_BATCH = 256
"""Items per transaction: about 1 MB of pages, written in some 5 ms, so that other writers get their turn."""
_KEYS_PER_QUERY = 500
"""Below SQLite's lowest default bound of variables in a statement, 999 (SQLITE_MAX_VARIABLE_NUMBER, limits.html)."""
_BUSY_SECONDS = 60.0
"""How long a writer waits for the others before it gives up."""

_T = TypeVar("_T")


class SQLiteStore:
    """A key-value store in one SQLite file, which is made, with its folders, when it is not there.

    Threads share one connection behind a lock; a forked process opens its own. In WAL mode readers and the one
    writer of the moment do not wait for each other, and a process that is killed loses at most the transaction it
    was in. `synchronous=NORMAL` may lose the last transactions when the machine loses power, never the file.

    Raises TableError for a file that is not a SQLite database or cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._open()

    def create_table(self, table: str) -> None:
        """Make a table; nothing happens when it is there."""
        with self._connected(table) as db:
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {_sql_name(table)}"
                " (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, version TEXT NOT NULL)"
            )

    def drop_table(self, table: str) -> None:
        """Remove a table and its items; nothing happens when it is not there."""
        with self._connected(table) as db:
            db.execute(f"DROP TABLE IF EXISTS {_sql_name(table)}")

    def has_table(self, table: str) -> bool:
        """Return whether the table is there."""
        return table in self.list_tables()

    def list_tables(self) -> list[str]:
        """Return the names of all tables, sorted."""
        with self._connected("*") as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))

    def put_many(self, table: str, items: Iterable[Item]) -> Consumed:
        """Write items, each batch in a transaction, over what their keys held before."""
        sql = f"INSERT OR REPLACE INTO {_sql_name(table)} (key, value, version) VALUES (?, ?, ?)"  # noqa: S608
        consumed = Consumed()
        for batch in _batches(items, _BATCH):
            with self._transaction(table) as db:
                db.executemany(sql, [(item.key, item.value, item.version) for item in batch])
            consumed += Consumed(write_units=sum(map(write_units, batch)), items=len(batch))
        return consumed

    def get_many(self, table: str, keys: Sequence[str], *, consistent: bool = False) -> Found:
        """Return the items at the keys; every read is consistent here, and charged as the one that was asked for."""
        stored: list[Item] = []
        # In the order in which they are stored, if not side by side.
        asked = sorted(set(keys))
        for batch in _batches(asked, _KEYS_PER_QUERY):
            with self._connected(table) as db:
                stored += _select(db, table, batch)
        return Found(stored, lambda: Consumed(read_units=units_to_read(len(asked), stored, consistent=consistent)))

    def put_if(self, table: str, item: Item, expected: str | None) -> ConditionalPut:
        """Write an item if the stored one's version equals `expected`, or if there is none when that is None."""
        with self._connected(table) as db:
            # One statement is one transaction, so nobody comes between the comparison and the write.
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
        """Remove the items at the keys, each batch in a transaction."""
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
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit, since transactions are opened by name below; shared, since the lock guards it.
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            _switch_to_wal(self._connection)
            self._connection.execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            foreign = isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error)
            way_out = "move it away" if foreign else "see that its folder can be written and the disk has room"
            raise TableError(
                f"{self._path} cannot be used as prediction tables: {error}; {way_out}, or set PRECALC_TABLES_URL"
            ) from error

    @contextmanager
    def _connected(self, table: str) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time, and turn SQLite's errors into ours."""
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
                raise TableError(f"table {table!r} in {self._path}: {error}; mend the cause and try again") from error

    @contextmanager
    def _transaction(self, table: str) -> Iterator[sqlite3.Connection]:
        # The connection as a context commits at the end, and rolls back after any error, one of the commit included.
        with self._connected(table) as db, db:
            # IMMEDIATE waits its turn here; a transaction that begins by reading can be refused when it writes.
            db.execute("BEGIN IMMEDIATE")
            yield db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Wait until no other process is switching the same new file: SQLite itself answers "locked" at once here."""
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
