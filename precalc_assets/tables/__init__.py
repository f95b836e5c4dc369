"""Prediction tables: key-value tables of pages, one table per model, from which readers are served.

This package exports the reading side, which the Lambda imports. It needs only the standard library and zstandard, and
boto3 (part of the Lambda runtime) for DynamoDB. Loading and cost estimates need pyarrow and numpy: import them from
`precalc_assets.tables.loader` and `precalc_assets.tables.table_cost`.
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

    URLs are `sqlite:///./relative.db`, `sqlite:////absolute.db` and `dynamodb://<region>/<prefix>`.

    Raises UsageError for any other URL and when there are no AWS credentials, TableError when the file cannot be used.
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
