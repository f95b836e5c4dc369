"""Prediction tables: key-value tables of pages, one table a model, which readers are served from.

What is exported here is the reading side, which the Lambda carries: standard library and zstandard alone. Loading
needs pyarrow and numpy and is imported as `precalc_assets.tables.loader`.
"""

from precalc_assets.errors import UsageError
from precalc_assets.tables.directory import Directory
from precalc_assets.tables.pages import Value
from precalc_assets.tables.reader import TableReader
from precalc_assets.tables.sqlite import SQLiteStore
from precalc_assets.tables.store import LIBRARY, REGISTRY, Consumed, Item, KeyValueStore, missing_table

__all__ = [
    "LIBRARY",
    "REGISTRY",
    "Consumed",
    "Directory",
    "Item",
    "KeyValueStore",
    "TableReader",
    "Value",
    "missing_table",
    "open_tables",
]

_SQLITE = "sqlite:///"


def open_tables(url: str) -> KeyValueStore:
    """Open the key-value store at a URL: `sqlite:///./relative.db` or `sqlite:////absolute.db`.

    Raises UsageError for any other URL, TableError when the file cannot be used.
    """
    path = url.removeprefix(_SQLITE)
    if path in {url, ""}:
        raise UsageError(f"PRECALC_TABLES_URL={url!r} is not a table store; write sqlite:///./path/tables.db")
    return SQLiteStore(path)
