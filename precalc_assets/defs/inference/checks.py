"""The checks of the group, and the canary as the graph records it: its figures, and the input of shards after it.

What it finds, and how, is in `inference.canary_checks`.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from precalc_assets.columns import Column
from precalc_assets.defs.asset_checks import AssetChecks, Finding
from precalc_assets.defs.model_metadata import Metadata, model_metadata
from precalc_assets.defs.partitions import model_shards, models
from precalc_assets.defs.recording import Input, recorded_input
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import CANARY_CHECKS, CANARY_WARNINGS, CanaryReport, find_report
from precalc_assets.storage import canary_report, sample

CANARY = AssetChecks(dg.AssetKey("sample_predictions"), CANARY_CHECKS, models, CANARY_WARNINGS)
RAW = AssetChecks(
    dg.AssetKey("raw_predictions"), {"failure_rate": "few enough molecules are quarantined"}, model_shards
)

FINISHED_AT = "finished_at"
"""The metadata of a check's evaluation that says of which canary it is."""


def canary_evaluations(instance: dg.DagsterInstance, report: CanaryReport) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield what the canary's checks found, of the model and of all models. Its materialisation is recorded before."""
    metadata = {FINISHED_AT: dg.MetadataValue.timestamp(report.finished_at)}
    yield from CANARY.evaluations(instance, {report.model: Finding(report.checks, metadata)})
    yield from CANARY.summaries(instance)


def canary_input(
    instance: dg.DagsterInstance, platform: Platform, model: str, release: str, columns: Sequence[Column]
) -> Input:
    """Return the canary that a model's shards are made after, if there is one of this release and its columns."""
    report = find_report(platform.store, model)
    if report and report.is_of(release, columns):
        return recorded_input(instance, "sample_predictions", model, report.version)
    return Input("sample_predictions")


def canary_metadata(report: CanaryReport, platform: Platform) -> Metadata:
    """Return what the UI shows of a canary: the model, its speed, and what a full run and a table will take."""
    shown: Metadata = {
        **model_metadata(report.metadata, report.declared),
        "release": report.release,
        "dagster/row_count": report.molecules,
        "dagster/uri": platform.uri(sample(report.model)),
        "report": platform.uri(canary_report(report.model)),
        "quarantined": report.quarantined,
        "varying_columns": len(report.varying),
    }
    if report.speed:
        shown["best_batch_size"] = report.speed.best_batch_size
        shown["milliseconds_per_molecule"] = round(1000 * report.speed.seconds_per_molecule, 3)
        shown["seconds_per_call"] = round(report.speed.seconds_per_call, 3)
        shown["seconds_to_start"] = round(report.speed.seconds_to_start, 3)
    if report.peak_memory:
        shown["peak_memory_mb"] = round(report.peak_memory / (1 << 20))
    if report.bytes_per_molecule:
        shown["bytes_per_molecule"] = round(report.bytes_per_molecule)
    if report.run:
        shown["full_run_runner_hours"] = round(report.run.runner_hours, 3)
        shown["full_run_wall_hours"] = round(report.run.wall_hours, 3)
        shown["full_run_dollars"] = round(report.run.dollars, 2)
    if report.table:
        shown["table_write_units"] = round(report.table.write_units)
        shown["table_write_dollars"] = round(report.table.write_dollars, 4)
        shown["table_gigabytes"] = round(report.table.gigabytes, 6)
        shown["table_dollars_per_month"] = round(report.table.dollars_per_month, 4)
    return shown
