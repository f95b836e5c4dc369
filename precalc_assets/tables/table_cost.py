"""What the table of a whole library will take, by the pages that a sample of it makes.

How rows become pages is in `paging`, what Amazon asks for them in `prices`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from precalc_assets.columns import Column
from precalc_assets.sharding import HASH_SPACE, key_hash
from precalc_assets.tables.directory import PageSet, TableColumns
from precalc_assets.tables.paging import PAGE_BYTES, ShardRows, make_plan
from precalc_assets.tables.prices import DOLLARS_PER_GB_MONTH, DOLLARS_PER_WRITE_UNIT, GB, ITEM_OVERHEAD_BYTES
from precalc_assets.tables.store import WRITE_UNIT_BYTES, item_bytes


@dataclass(frozen=True, slots=True)
class TableEstimate:
    """What the table of the whole library takes: DynamoDB's write units, once, and storage for as long as it is there.

    It counts pages. The few items that say what is in a table cost a cent at most.
    """

    pages: int
    write_units: float
    write_dollars: float
    gigabytes: float
    dollars_per_month: float


def estimate_table(
    model: str, columns: Sequence[Column], sample: pa.Table, shard_sizes: Iterable[int]
) -> TableEstimate:
    """Return what the table of shards with so many molecules each takes.

    The sample (`inchikey` and the columns) is the library's first molecules by hash: it is paged as if it were the
    first of so many shards that this one ends with the sample. Raises TableError if a molecule is too large for a page.
    """
    per_molecule = _page_bytes(model, columns, sample) / sample.num_rows
    pages = units = total = 0.0
    for molecules in shard_sizes:
        size = molecules * per_molecule
        n_pages = min(molecules, max(1, round(size / PAGE_BYTES)))
        pages += n_pages
        total += size
        # Each started unit counts, and pages are not all of one size: on average, half a unit more.
        units += max(n_pages, size / WRITE_UNIT_BYTES + n_pages / 2)
    gigabytes = (total + pages * ITEM_OVERHEAD_BYTES) / GB
    return TableEstimate(
        pages=int(pages),
        write_units=units,
        write_dollars=units * DOLLARS_PER_WRITE_UNIT,
        gigabytes=gigabytes,
        dollars_per_month=gigabytes * DOLLARS_PER_GB_MONTH,
    )


def _page_bytes(model: str, columns: Sequence[Column], sample: pa.Table) -> int:
    """Return the size of all pages of the sample's shard."""
    last = key_hash(sample["inchikey"][-1].as_py())
    shards = min(HASH_SPACE // (last + 1), HASH_SPACE >> 32)
    rows = ShardRows(TableColumns(model, shards, tuple(columns)), "0", lambda: iter(sample.to_batches()))
    plan = make_plan(rows)
    return sum(item_bytes(item) for item, _ in rows.items(plan.layout, PageSet("0" * 16, 1, plan.n_pages)))
