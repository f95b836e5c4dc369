"""Validate raw predictions: parse the parts, check them against the library's shard, and store them as Parquet."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import obstore
import polars as pl
import pyarrow as pa
from obstore.store import ObjectStore

from precalc.scratch import scratch_folder
from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import count_cells, describe_emptied
from precalc_assets.library.library_manifest import SHARD_SCHEMA, LibraryManifest, open_shard
from precalc_assets.outcomes import Check, ShardOutcome, each_shard
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.against_canary import Comparison, check_release
from precalc_assets.predictions.canary_report import CanaryReport
from precalc_assets.predictions.cells import DTYPES, infinite_columns
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance, one_large_write
from precalc_assets.predictions.shard_manifest import RawManifest, read_part, require_manifest

RAW_CHECKS = {
    "failure_rate": "few enough molecules are quarantined",
    "cells": "every cell is of its column's type; other cells are emptied",
}
"""The checks of a shard's raw predictions: name and description."""

RAW_WARNINGS = frozenset({"cells"})
"""Checks that do not keep a shard from landing."""

PREDICTION_CHECKS = {
    "schema": "every output column exists, in order, with its declared type; the emptied cells are those counted",
    "keys": "the molecules are those of the library's shard, each once, in its order",
    "finite": "every number is finite",
    "nulls": "not every value is null",
    "not_constant": "not all of the columns that varied in the canary are constant",
    "one_release": "the release is the canary's, and that of the other shards",
    "distribution": "each column's values are distributed as in the canary, within its statistical precision",
}
"""The checks of a shard's predictions: name and description."""

PREDICTION_WARNINGS = frozenset({"one_release", "distribution"})
"""Checks that do not block publication: a sample may mislead, and the release may change during a run."""

_CHECKED_CELLS = 1_000_000
"""Cells to check together, about 8 MB."""
_PUTS_AT_ONCE = 4
"""Pieces of a large file to put at once, of 5 MB each."""
_CELLS_OF_TEXTS = 16
"""The InChIKey and the SMILES of a row take as many bytes as this many numbers."""


class FailedCheckError(Exception):
    """A shard's predictions failed a check, so none of them are published."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(found)
        self.name = name


def validate_shards(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    shards: Iterable[str],
    *,
    max_failure_rate: float,
    canary: CanaryReport | None = None,
) -> Iterator[ShardOutcome]:
    """Make the predictions of each shard from its raw predictions, and yield the outcome.

    A shard that fails a check has a failed outcome with that check, and its earlier predictions stay unchanged. If it
    fails only checks of `PREDICTION_WARNINGS`, it lands with them. `canary` is the model's, if one was run. Memory is
    bounded by two row groups.
    """
    releases: list[str] = []  # of the shards validated so far
    yield from each_shard(
        shards, lambda shard: _validate_shard(store, library, model, shard, max_failure_rate, canary, releases)
    )


def _validate_shard(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    shard: str,
    max_failure_rate: float,
    canary: CanaryReport | None,
    releases: list[str],
) -> ShardOutcome:
    started = time.perf_counter()
    manifest = require_manifest(store, model, shard)
    if manifest.shard_digest != library.shards[shard].digest:
        raise ShardError(
            f"the raw predictions of {model} for shard {shard} are of another version of the library; "
            f"run `precalc predict {model} --shards {shard}`"
        )
    rate = check_failure_rate(manifest, max_failure_rate)
    if not rate.passed:
        raise ShardError(f"shard {shard} of {model}: {rate.description}")
    path_in_store = storage.predictions(model, shard)
    with scratch_folder() as folder:
        path = folder / "predictions.parquet"
        try:
            with one_large_write(manifest.rows, len(manifest.columns)):
                compared = _write_predictions(path, store, library, manifest, canary)
        except FailedCheckError as broken:
            check = Check(broken.name, passed=False, description=str(broken))
            return ShardOutcome(shard, failure=f"shard {shard} of {model}: {broken}", checks=(check,))
        obstore.put(store, path_in_store, path, max_concurrency=_PUTS_AT_ONCE)
        size = path.stat().st_size
    compared.append(check_release(manifest.release, canary, tuple(releases)))
    releases.append(manifest.release)
    found = {check.name: check for check in compared}
    return ShardOutcome(
        shard,
        digest=manifest.digest,
        source_digest=manifest.digest,
        columns=manifest.columns,
        facts={
            "rows": manifest.rows,
            "quarantined": manifest.quarantined,
            "emptied_cells": count_cells(manifest.emptied),
            "columns": len(manifest.columns),
            "bytes": size,
            "path": path_in_store,
            "release": manifest.release,
            "seconds": round(time.perf_counter() - started, 3),
        },
        checks=tuple(
            found.get(name) or Check(name, passed=True, description=promise)
            for name, promise in PREDICTION_CHECKS.items()
        ),
    )


def _write_predictions(
    path: Path, store: ObjectStore, library: LibraryManifest, manifest: RawManifest, canary: CanaryReport | None
) -> list[Check]:
    """Write a shard's file, and return the checks of the comparison with the canary."""
    comparison = Comparison(canary, manifest.release, manifest.columns)
    provenance = Provenance(
        model=manifest.model,
        release=manifest.release,
        shard=manifest.shard,
        n_shards=library.n_shards,
        shard_digest=manifest.shard_digest,
        raw_digest=manifest.digest,
        quarantined=manifest.quarantined,
        columns=manifest.columns,
    )
    writer = PredictionsWriter(path, provenance, manifest.rows)
    rows = values = 0
    molecules = library.shards[manifest.shard].rows
    with open_shard(store, library, manifest.shard) as batches:
        all_expected = _Molecules(batches())
        for batch in _concatenated(_read_parts(store, manifest)):
            expected = all_expected.take(batch.height)
            if expected.height < batch.height:
                raise FailedCheckError(
                    "keys", f"the parts have more than the {molecules} molecules of the library's shard"
                )
            frame = batch.insert_column(1, expected["smiles"])
            broken = broken_check(frame, manifest.columns, expected["inchikey"])
            if broken:
                name, found = broken
                raise FailedCheckError(name, f"{found} (expected: {PREDICTION_CHECKS[name]})")
            writer.write(frame)
            comparison.add(frame)
            rows += frame.height
            values += frame.height * len(manifest.columns) - sum(frame.null_count().row(0))
    writer.close()
    if rows != molecules:
        raise FailedCheckError("keys", f"the parts have {rows} molecules, the library's shard has {molecules}")
    if rows and not values:
        raise FailedCheckError("nulls", f"all values of all {rows} molecules are null; see the model's log")
    checks = comparison.checks()
    for check in checks:
        if not check.passed and check.name not in PREDICTION_WARNINGS:
            raise FailedCheckError(
                check.name,
                f"{check.description}; see the model's log, or run its canary again if the predictions are right",
            )
    return checks


class _Molecules:
    """The molecules of the library's shard, taken in order."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest = pa.Table.from_batches([], SHARD_SCHEMA)

    def take(self, rows: int) -> pl.DataFrame:
        """Return the next rows; fewer at the end."""
        tables = [self._rest]
        while sum(table.num_rows for table in tables) < rows and (batch := next(self._batches, None)):
            tables.append(pa.Table.from_batches([batch]))
        table = pa.concat_tables(tables)
        self._rest = table.slice(rows)
        return pl.DataFrame(pl.from_arrow(table.slice(0, rows)))


def _read_parts(store: ObjectStore, manifest: RawManifest) -> Iterator[pl.DataFrame]:
    """Yield the parts in frames of `inchikey` and the model's typed columns, whose invalid cells are null."""
    emptied, example = 0, ""
    for part in manifest.parts:
        for frame, invalid in read_part(store, part, manifest.columns):
            for cells in invalid:
                emptied += len(cells.printed)
                row = next(iter(cells.printed))
                example = example or f", such as {cells.why(row)} ({frame['key'][row]})"
            yield frame.rename({"key": "inchikey"})
    counted = count_cells(manifest.emptied)
    if emptied != counted:
        raise FailedCheckError(
            "schema",
            f"{emptied:,} cells are not of their column's type{example}, and the manifest counts {counted:,}; "
            f"delete the shard's manifest and run `precalc predict {manifest.model} --shards {manifest.shard}`",
        )


def _concatenated(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Concatenate frames to about a million cells each, since each check takes a while per frame."""
    group: list[pl.DataFrame] = []
    for frame in frames:
        group.append(frame)
        if sum(part.height for part in group) * (frame.width + _CELLS_OF_TEXTS) >= _CHECKED_CELLS:
            joined, group = pl.concat(group), []
            yield joined
    if group:
        yield pl.concat(group)


def broken_check(frame: pl.DataFrame, columns: Sequence[Column], inchikeys: pl.Series) -> tuple[str, str] | None:
    """Return the first check that a batch of predictions fails, and what was found; None if it passes all.

    The batch has `inchikey`, `smiles` and one column per output; `inchikeys` are the library's at its place.
    """
    expected: dict[str, pl.DataType] = {"inchikey": pl.String(), "smiles": pl.String()}
    expected |= {column.name: DTYPES[column.type]() for column in columns}
    if list(frame.schema.items()) != list(expected.items()):
        wrong = sorted(set(frame.schema.items()) ^ set(expected.items()), key=str)[:3]
        return "schema", f"the columns are not those expected: {wrong or 'they have another order'}"
    if not frame["inchikey"].equals(inchikeys) or frame["smiles"].null_count():
        return "keys", "the molecules are not those of the library's shard at this place"
    if infinite := infinite_columns(frame):
        return "finite", f"a value of {infinite[0]!r} is not finite"
    return None


def check_failure_rate(manifest: RawManifest, limit: float) -> Check:
    """Check that a shard's share of quarantined molecules is at most the limit."""
    rate = manifest.quarantined / manifest.rows if manifest.rows else 0.0
    found = f"{manifest.quarantined} of {manifest.rows} molecules quarantined"
    found += f" ({rate:.1%}; limit {limit:.0%}, PRECALC_MAX_FAILURE_RATE)"
    if manifest.quarantined:
        found += f"; the reasons are in {storage.quarantine(manifest.model, manifest.shard)}"
    return Check("failure_rate", rate <= limit, found)


def check_emptied(manifest: RawManifest) -> Check:
    """Check that no cell of a shard is emptied."""
    found = describe_emptied(manifest.emptied)
    if manifest.emptied:
        found += f"; all columns are in {storage.emptied(manifest.model, manifest.shard)}"
    return Check("cells", not manifest.emptied, found)
