"""The canary's events in Dagster: its figures, its checks, and the input that it is to shards computed after it."""

from collections.abc import Iterator

import dagster as dg

from precalc_assets.defs.asset_checks import Finding
from precalc_assets.defs.dagster_internals import PartitionKeyFilter
from precalc_assets.defs.inference.checks import CANARY
from precalc_assets.defs.model_description import Metadata, model_metadata
from precalc_assets.defs.partitions import models
from precalc_assets.defs.recording import Event, Input, recorded_input, version_tags
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import CanaryReport, find_report
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.storage import canary_report, sample

_FINISHED_AT = "finished_at"
"""The metadata of a check's evaluation that identifies the canary."""


def canary_evaluations(instance: dg.DagsterInstance, report: CanaryReport) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the evaluations of the canary's checks and their summaries. Call this after the materialization."""
    metadata = {_FINISHED_AT: dg.MetadataValue.timestamp(report.finished_at)}
    yield from CANARY.evaluations(instance, {report.model: Finding(report.checks, metadata)})
    yield from CANARY.summaries(instance, models)


def is_recorded(instance: dg.DagsterInstance, report: CanaryReport) -> bool:
    """Return whether Dagster has recorded this canary: whether its last check, if it has any, was evaluated."""
    if not report.checks:
        return True
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(CANARY.asset, report.checks[-1].name),
        limit=1,
        partition_filter=PartitionKeyFilter(key=report.model),
    )
    evaluation = history[0].evaluation if history else None
    found = evaluation.metadata.get(_FINISHED_AT) if evaluation else None
    return found is not None and found.value == report.finished_at.timestamp()


class PrecedingCanary:
    """The canary of a model whose shards a run records. GitHub's workflow may run or rerun it before the shards."""

    def __init__(self, instance: dg.DagsterInstance, platform: Platform, model: str) -> None:
        self._instance = instance
        self._platform = platform
        self._model = model
        self._report: CanaryReport | None = None
        self._input = Input("sample_predictions")

    def record(self) -> Iterator[Event]:
        """Yield the canary's events if its report is new and not recorded in Dagster."""
        report = find_report(self._platform.store, self._model)
        if report is None or report == self._report:
            return
        self._report = report
        if not is_recorded(self._instance, report):
            if not report.broken:
                yield dg.AssetMaterialization(
                    asset_key=CANARY.asset,
                    partition=self._model,
                    metadata=canary_metadata(report, self._platform),
                    tags={**version_tags(report.version), **recorded_input(self._instance, "library_shards").tags},
                )
            yield from canary_evaluations(self._instance, report)
        self._input = recorded_input(self._instance, "sample_predictions", self._model, report.version)

    def input_of(self, outcome: ShardOutcome) -> Input:
        """Return the canary as an input of a shard, as missing if it is of another release or other columns."""
        release = str(outcome.facts.get("release"))
        if self._report and self._report.is_of(release, outcome.columns):
            return self._input
        return Input("sample_predictions")


def canary_metadata(report: CanaryReport, platform: Platform) -> Metadata:
    """Return what the UI shows of a canary: the model, its speed, and the cost of a full run and of its table."""
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
