"""Estimating the cost of a whole library's table from a sample's pages.

`paging` divides rows into pages; `store` has DynamoDB's prices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from precalc_assets.columns import Column
from precalc_assets.sharding import HASH_SPACE, key_hash
from precalc_assets.tables import store
from precalc_assets.tables.directory import PageSet, TableColumns
from precalc_assets.tables.paging import PAGE_BYTES, ShardRows, make_plan


@dataclass(frozen=True, slots=True)
class TableEstimate:
    """The cost of the library's pages: write units, paid once, and storage, per month. Other items cost a cent."""

    pages: int
    write_units: float
    write_dollars: float
    gigabytes: float
    dollars_per_month: float


def estimate_table(
    model: str, columns: Sequence[Column], sample: pa.Table, shard_sizes: Iterable[int]
) -> TableEstimate:
    """Estimate the cost of a table whose shards have these numbers of molecules.

    The sample (`inchikey` and the columns) is the library's first molecules by hash. It is paged as the first shard of
    a library with so many shards that this one ends with the sample. Raises TableError if a row exceeds a page.
    """
    last = key_hash(sample["inchikey"][-1].as_py())
    shards = min(HASH_SPACE // (last + 1), HASH_SPACE >> 32)
    rows = ShardRows(TableColumns(model, shards, tuple(columns)), "0", lambda: iter(sample.to_batches()))
    plan = make_plan(rows)
    items = rows.items(plan.layout, PageSet("0" * 16, 1, plan.n_pages))
    per_molecule = sum(store.item_bytes(item) for item, _ in items) / sample.num_rows
    pages = units = total = 0.0
    for molecules in shard_sizes:
        size = molecules * per_molecule
        n_pages = min(molecules, max(1, round(size / PAGE_BYTES)))
        pages += n_pages
        total += size
        # Each started unit counts, and sizes vary: on average, a page takes half a unit more than its size.
        units += max(n_pages, size / store.WRITE_UNIT_BYTES + n_pages / 2)
    gigabytes = (total + pages * store.ITEM_OVERHEAD_BYTES) / store.GB
    return TableEstimate(
        pages=int(pages),
        write_units=units,
        write_dollars=units * store.DOLLARS_PER_WRITE_UNIT,
        gigabytes=gigabytes,
        dollars_per_month=gigabytes * store.DOLLARS_PER_GB_MONTH,
    )
