"""From the canary's molecules to the whole library: what a full run of a model, and its table, will take."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyarrow.parquet as pq

from precalc_assets.columns import Column
from precalc_assets.inference.canary_report import RunEstimate, Speed, TableEstimate
from precalc_assets.library import LibraryManifest
from precalc_assets.settings import Settings
from precalc_assets.sharding import HASH_SPACE, key_hash
from precalc_assets.tables.directory import PageSet, TableColumns
from precalc_assets.tables.paging import PAGE_BYTES, ShardRows, make_plan
from precalc_assets.tables.prices import DOLLARS_PER_GB_MONTH, DOLLARS_PER_WRITE_UNIT, GB, ITEM_OVERHEAD_BYTES
from precalc_assets.tables.store import WRITE_UNIT_BYTES, item_bytes

_HOUR = 3600.0


class Call(NamedTuple):
    """A call of the model that went well: molecules, and how long it took."""

    molecules: int
    seconds: float


def measure_speed(calls: Iterable[Call], seconds_to_start: float) -> Speed:
    """Return how long the model takes, by its calls of different sizes; there is one at least.

    Of the calls of one size the median counts, since the first call of all is mostly slow: files are read from disk
    for the first time. A straight line through these, by least squares, has a call's own time and a molecule's.
    """
    by_size: defaultdict[int, list[float]] = defaultdict(list)
    for call in calls:
        by_size[call.molecules].append(call.seconds)
    points = [Call(molecules, median(seconds)) for molecules, seconds in sorted(by_size.items())]
    best = min(points, key=lambda point: point.seconds / point.molecules)
    per_call, per_molecule = _fit_line(points)
    return Speed(
        best_batch_size=best.molecules,
        seconds_per_molecule=best.seconds / best.molecules,
        seconds_per_call=per_call,
        seconds_per_further_molecule=per_molecule,
        seconds_to_start=seconds_to_start,
    )


def _fit_line(points: list[Call]) -> tuple[float, float]:
    """Return intercept and slope, neither of them negative; of points of one size alone, all of it is slope."""
    sizes = sum(point.molecules for point in points) / len(points)
    seconds = sum(point.seconds for point in points) / len(points)
    spread = sum((point.molecules - sizes) ** 2 for point in points)
    if not spread:
        return 0.0, seconds / sizes
    slope = sum((point.molecules - sizes) * (point.seconds - seconds) for point in points) / spread
    if slope < 0:
        return seconds, 0.0
    if seconds < slope * sizes:
        return 0.0, seconds / sizes
    return seconds - slope * sizes, slope


def estimate_run(speed: Speed, library: LibraryManifest, settings: Settings) -> RunEstimate:
    """Return what a run over the library takes, in batches and on runners as the settings have them.

    A runner computes whole shards, one after the other, so the wall time is that of the runner with the most of them.
    """
    sizes = sorted((info.rows for info in library.shards.values() if info.rows), reverse=True)
    shards = [
        -(-rows // settings.batch_size) * speed.seconds_per_call + rows * speed.seconds_per_further_molecule
        for rows in sizes
    ]
    runners = max(1, min(settings.runners, len(shards)))
    hours = (runners * speed.seconds_to_start + sum(shards)) / _HOUR
    # The largest of every round: the others of it are done by then.
    wall = (speed.seconds_to_start + sum(shards[::runners])) / _HOUR
    return RunEstimate(
        molecules=library.molecules,
        runners=runners,
        runner_hours=hours,
        wall_hours=wall,
        dollars=hours * settings.runner_price,
    )


def estimate_table(model: str, columns: tuple[Column, ...], sample: Path, library: LibraryManifest) -> TableEstimate:
    """Return what the table of the library takes, by the pages that the sample's Parquet file makes.

    The sample is the library's first molecules by hash: it is paged as if it were the first of so many shards that
    this one ends with the sample. Raises TableError if a molecule is too large for a page.
    """
    table = pq.read_table(sample)
    last = key_hash(table["inchikey"][-1].as_py())
    shards = min(HASH_SPACE // (last + 1), HASH_SPACE >> 32)
    rows = ShardRows(TableColumns(model, shards, columns), "0", lambda: iter(table.to_batches()))
    plan = make_plan(rows)
    items = rows.items(plan.layout, PageSet("0" * 16, 1, plan.n_pages))
    per_molecule = sum(item_bytes(item) for item, _ in items) / table.num_rows
    pages = units = 0.0
    for info in library.shards.values():
        size = info.rows * per_molecule
        n_pages = min(info.rows, max(1, round(size / PAGE_BYTES)))
        pages += n_pages
        # Each started unit counts, and pages are not all of one size: on average, half a unit more.
        units += max(n_pages, size / WRITE_UNIT_BYTES + n_pages / 2)
    gigabytes = (library.molecules * per_molecule + pages * ITEM_OVERHEAD_BYTES) / GB
    return TableEstimate(
        pages=int(pages),
        write_units=units,
        write_dollars=units * DOLLARS_PER_WRITE_UNIT,
        gigabytes=gigabytes,
        dollars_per_month=gigabytes * DOLLARS_PER_GB_MONTH,
    )
