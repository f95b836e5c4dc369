"""Prediction tables: key-value tables of pages, one table a model, which readers are served from.

What is exported here is the reading side, which the Lambda carries: standard library and zstandard alone, and boto3,
which is there already, for a URL of DynamoDB. Loading, and estimating what a table will take, need pyarrow and numpy
and are imported as `precalc_assets.tables.loader` and `precalc_assets.tables.table_cost`.
"""

from precalc_assets.platform_errors import UsageError
from precalc_assets.tables.directory import Directory
from precalc_assets.tables.pages import Value
from precalc_assets.tables.reader import TableReader
from precalc_assets.tables.sqlite import SQLiteStore
from precalc_assets.tables.store import LIBRARY, REGISTRY, Consumed, Found, Item, KeyValueStore, missing_table

__all__ = [
    "LIBRARY",
    "REGISTRY",
    "Consumed",
    "Directory",
    "Found",
    "Item",
    "KeyValueStore",
    "TableReader",
    "Value",
    "missing_table",
    "open_tables",
]

_SQLITE = "sqlite:///"
_DYNAMODB = "dynamodb://"


def open_tables(url: str) -> KeyValueStore:
    """Open the key-value store at a URL.

    That is `sqlite:///./relative.db`, `sqlite:////absolute.db`, or `dynamodb://<region>/<prefix>`.

    Raises UsageError for any other URL, and when there are no credentials for AWS, TableError when the file cannot be
    used.
    """
    if url.startswith(_DYNAMODB):
        # boto3 takes a third of a second to load.
        from precalc_assets.tables.dynamodb import DynamoDBStore

        return DynamoDBStore.from_url(url)
    path = url.removeprefix(_SQLITE)
    if path in {url, ""}:
        raise UsageError(
            f"PRECALC_TABLES_URL={url!r} is not a table store; write sqlite:///./path/tables.db"
            " or dynamodb://eu-central-1/precalc"
        )
    return SQLiteStore(path)
