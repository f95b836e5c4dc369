"""Validate raw predictions: parse the parts, check them against the library's shard, and store them as Parquet."""

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
"""Cells to check and write together, about 8 MB: a row group of the file."""


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
    canary: Canary | None = None,
) -> Iterator[ShardOutcome]:
    """Make the predictions of each shard from its raw predictions, and yield the outcome.

    A shard that fails a check has a failed outcome with that check, and its earlier predictions stay unchanged. If it
    fails only checks of `PREDICTION_WARNINGS`, it lands with them. `canary` is the model's, if one was run. Memory is
    bounded by a few parts.
    """
    releases: list[str] = []
    task = _Task(store, library, model, max_failure_rate, canary, releases)
    yield from each_shard(shards, lambda shard: _validate_shard(task, shard))


@dataclass(frozen=True, slots=True)
class _Task:
    """The arguments of `validate_shards`, and the releases of the shards that it has validated."""

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
        except FailedCheckError as broken:
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
    """Write a shard's file, and return the checks of the comparison with the canary."""
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
    for batch in _concatenated(_read_parts(store, manifest)):
        expected = molecules.slice(rows, batch.height)
        if expected.height < batch.height:
            raise FailedCheckError(
                "keys", f"the parts have more than the {molecules.height} molecules of the library's shard"
            )
        frame = batch.insert_column(1, expected["smiles"])
        broken = broken_check(frame, predictions_schema(manifest.columns, expected["inchikey"]))
        if broken:
            raise FailedCheckError(*broken)
        writer.write(frame)
        comparison.add(frame)
        rows += frame.height
        values += frame.height * len(manifest.columns) - sum(frame.null_count().row(0))
    writer.close()
    if rows != molecules.height:
        raise FailedCheckError("keys", f"the parts have {rows} molecules, the library's shard has {molecules.height}")
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


def _read_parts(store: ObjectStore, manifest: RawManifest) -> Iterator[pl.DataFrame]:
    """Yield each part as a frame of `inchikey` and the model's typed columns."""
    for part in manifest.parts:
        frame, problems = read_part(store, part, manifest.columns)
        if problems:
            row, problem = next(iter(problems.items()))
            raise FailedCheckError(
                "schema",
                f"{problem} ({frame['key'][row]}; {len(problems)} such molecules in {part.name}); correct the model, "
                "or declare the column as string in its run_columns.csv, and predict again",
            )
        yield frame.rename({"key": "inchikey"})


def _concatenated(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Concatenate frames to about a million cells each: pandera takes 9 ms per frame, even for few rows."""
    group: list[pl.DataFrame] = []
    for frame in frames:
        group.append(frame)
        if sum(part.height for part in group) * frame.width >= _CHECKED_CELLS:
            yield pl.concat(group)
            group = []
    if group:
        yield pl.concat(group)
