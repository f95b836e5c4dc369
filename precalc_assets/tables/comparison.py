"""Comparing a table's shard with the rows that it was loaded from: every page, molecule and value."""

from itertools import islice

from precalc_assets.platform_errors import TableError
from precalc_assets.tables.directory import COLUMNS_KEY, Directory, ShardRecord, TableColumns, columns_key
from precalc_assets.tables.page_writer import PageEncoder
from precalc_assets.tables.pages import decompress, page_layout
from precalc_assets.tables.paging import ShardRows
from precalc_assets.tables.store import KeyValueStore

_PAGES_AT_ONCE = 100
"""Pages to read at a time: a request to DynamoDB."""


def differences(store: KeyValueStore, molecules: ShardRows, rows: int) -> str:
    """Return how a shard in the table differs from its `rows` molecules; empty if it does not.

    Each page's content is made again from the rows and compared, byte for byte, with the stored one. So this checks
    every value, and that there are no others. Each page costs a consistent read, a unit for each 4 KB.
    """
    try:
        current = _directory(store, molecules.table, molecules.shard)
        if current.rows != rows:
            return f"{current.rows:,} molecules in the table, {rows:,} in the file"
        return _compare_pages(store, molecules, current)
    except TableError as error:
        return str(error)


def _directory(store: KeyValueStore, table: TableColumns, shard: str) -> Directory:
    """Return a shard's directory. Raises TableError if a reader could not read by it, or would find other columns."""
    keys = [shard, COLUMNS_KEY, columns_key(table.digest)]
    items = store.get_many(table.model, keys, consistent=True)
    current = ShardRecord.from_item(items[shard]).current if shard in items else None
    if current is None:
        raise TableError("it is not loaded")
    if current.columns != table.digest:
        raise TableError("it was loaded with other columns")
    for key in keys[1:]:
        if key not in items:
            raise TableError(f"item {key!r} is lost")
        TableColumns.from_item(items[key])
    return current


def _compare_pages(store: KeyValueStore, rows: ShardRows, current: Directory) -> str:
    layout = page_layout(tuple(column.type for column in rows.table.columns), current.dtypes)
    faults: dict[str, list[str]] = {"lost": [], "damaged": [], "different": []}
    pages = rows.encoded(layout, current.n_pages, PageEncoder.content)
    while some := list(islice(pages, _PAGES_AT_ONCE)):
        contents = {current.pages.key(rows.shard, page): content for page, _, content in some}
        stored = store.get_many(rows.table.model, list(contents), consistent=True)
        faults["lost"] += [key for key in contents if key not in stored]
        for key, item in stored.items():
            try:
                if decompress(item.value) != contents[key]:
                    faults["different"].append(key)
            except TableError:
                faults["damaged"].append(key)
    found = [f"{len(keys):,} are {fault}, such as {min(keys)}" for fault, keys in faults.items() if keys]
    return f"of {current.n_pages:,} pages {'; '.join(found)}" if found else ""
