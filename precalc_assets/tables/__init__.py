"""Prediction tables: key-value tables of pages, one table per model, from which readers are served.

This package exports the reading side, which the Lambda imports. It needs zstandard and pydantic, and boto3
(part of the Lambda runtime) for DynamoDB. Loading and cost estimates need pyarrow and numpy: import them from
`precalc_assets.tables.loader` and `precalc_assets.tables.table_cost`.
"""

from precalc_assets.store_urls import check_tables_url
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


def open_tables(url: str) -> KeyValueStore:
    """Open the key-value store at a URL.

    URLs are `sqlite:///./relative.db`, `sqlite:////absolute.db` and `dynamodb://<region>/<prefix>`.

    Raises UsageError for any other URL and when there are no AWS credentials, TableError when the file cannot be used.
    """
    if check_tables_url(url).startswith("dynamodb:"):
        # boto3 takes a third of a second to load.
        from precalc_assets.tables.dynamodb import DynamoDBStore

        region, prefix = url.removeprefix("dynamodb://").split("/")
        return DynamoDBStore(region, prefix)
    return SQLiteStore(url.removeprefix("sqlite:///"))
