"""From raw predictions to predictions: parts are parsed, checked against the library's shard and put as Parquet."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
import polars as pl
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.library import LibraryManifest, read_shard
from precalc_assets.outcomes import Check, ShardOutcome, each_shard
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.against_canary import Canary, Comparison, check_release
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance
from precalc_assets.predictions.shard_manifest import RawManifest, read_part, require_manifest
from precalc_assets.predictions.validation import (
    PREDICTION_CHECKS,
    PREDICTION_WARNINGS,
    broken_check,
    check_failure_rate,
    predictions_schema,
)

_CHECKED_CELLS = 1_000_000
"""Cells that are checked and written together, some 8 MB: a row group of the file."""


class BrokenCheckError(Exception):
    """A shard's predictions break a check; nothing of them is published."""

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
    canary: Canary | None = None,
) -> Iterator[ShardOutcome]:
    """Make the predictions of each shard from its raw predictions, and yield what came of it.

    A shard whose data break a check is a failed outcome that carries the check, and its earlier predictions, if any,
    stay as they were; those of `PREDICTION_WARNINGS` it carries broken, and lands. `canary` is the model's, if one
    was run. Memory is bounded by a few parts.
    """
    releases: list[str] = []
    task = _Task(store, library, model, max_failure_rate, canary, releases)
    yield from each_shard(shards, lambda shard: _validate_shard(task, shard))


@dataclass(frozen=True, slots=True)
class _Task:
    """What `validate_shards` was asked for, and the releases of the shards that it has validated."""

    store: ObjectStore
    library: LibraryManifest
    model: str
    max_failure_rate: float
    canary: Canary | None
    releases: list[str]


def _validate_shard(task: _Task, shard: str) -> ShardOutcome:
    started = time.perf_counter()
    store, library, model = task.store, task.library, task.model
    manifest = require_manifest(store, model, shard)
    if manifest.shard_digest != library.shards[shard].digest:
        raise ShardError(
            f"the raw predictions of {model} for shard {shard} are of another version of the library; "
            f"run `precalc predict {model} --shards {shard}`"
        )
    rate = check_failure_rate(manifest, task.max_failure_rate)
    if not rate.passed:
        raise ShardError(f"shard {shard} of {model}: {rate.description}")
    path_in_store = storage.predictions(model, shard)
    with TemporaryDirectory(prefix="precalc-") as folder:
        path = Path(folder) / "predictions.parquet"
        try:
            compared = _write_predictions(path, task, manifest)
        except BrokenCheckError as broken:
            check = Check(broken.name, passed=False, description=str(broken))
            return ShardOutcome(shard, failure=f"shard {shard} of {model}: {broken}", checks=(check,))
        obstore.put(store, path_in_store, path)
        size = path.stat().st_size
    compared.append(check_release(manifest.release, task.canary, tuple(task.releases)))
    task.releases.append(manifest.release)
    found = {check.name: check for check in compared}
    return ShardOutcome(
        shard,
        digest=manifest.digest,
        source_digest=manifest.digest,
        columns=manifest.columns,
        facts={
            "rows": manifest.rows,
            "quarantined": manifest.quarantined,
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


def _write_predictions(path: Path, task: _Task, manifest: RawManifest) -> list[Check]:
    """Write a shard's file, and return what comes of comparing it with the canary."""
    store, library = task.store, task.library
    molecules = pl.DataFrame(pl.from_arrow(read_shard(store, library, manifest.shard)))
    comparison = Comparison(task.canary, manifest.release, manifest.columns)
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
    writer = PredictionsWriter(path, provenance)
    rows = values = 0
    for batch in _gathered(_read_parts(store, manifest)):
        expected = molecules.slice(rows, batch.height)
        if expected.height < batch.height:
            raise BrokenCheckError(
                "keys", f"the parts go beyond the {molecules.height} molecules of the library's shard"
            )
        frame = batch.insert_column(1, expected["smiles"])
        broken = broken_check(frame, predictions_schema(manifest.columns, expected["inchikey"]))
        if broken:
            raise BrokenCheckError(*broken)
        writer.write(frame)
        comparison.add(frame)
        rows += frame.height
        values += frame.height * len(manifest.columns) - sum(frame.null_count().row(0))
    writer.close()
    if rows != molecules.height:
        raise BrokenCheckError("keys", f"the parts have {rows} molecules, the library's shard has {molecules.height}")
    if rows and not values:
        raise BrokenCheckError("nulls", f"all values of all {rows} molecules are null; see the model's log")
    checks = comparison.checks()
    for check in checks:
        if not check.passed and check.name not in PREDICTION_WARNINGS:
            raise BrokenCheckError(
                check.name, f"{check.description}; see the model's log, or run its canary again if it is right"
            )
    return checks


def _read_parts(store: ObjectStore, manifest: RawManifest) -> Iterator[pl.DataFrame]:
    """Yield the parts, typed: `inchikey` and the model's columns."""
    for part in manifest.parts:
        frame, problems = read_part(store, part, manifest.columns)
        if problems:
            row, problem = next(iter(problems.items()))
            raise BrokenCheckError(
                "schema",
                f"{problem} ({frame['key'][row]}; {len(problems)} such molecules in {part.name}); mend the model, or "
                "declare the column as string in its run_columns.csv, and predict again",
            )
        yield frame.rename({"key": "inchikey"})


def _gathered(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the frames put together to about a million cells: pandera takes 9 ms, of however few rows."""
    kept: list[pl.DataFrame] = []
    for frame in frames:
        kept.append(frame)
        if sum(part.height for part in kept) * frame.width >= _CHECKED_CELLS:
            yield pl.concat(kept)
            kept = []
    if kept:
        yield pl.concat(kept)
