"""The canary's events in Dagster: its checks, and the input that it is to shards computed after it."""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from precalc_assets.defs.asset_checks import Finding
from precalc_assets.defs.checks import CANARY
from precalc_assets.defs.dagster_internals import AssetCheckExecutionRecordStatus as Status
from precalc_assets.defs.dagster_internals import PartitionKeyFilter
from precalc_assets.defs.partitions import models
from precalc_assets.defs.recording import Event, Input, recorded_input, version_tags
from precalc_assets.defs.ui_metadata import canary_metadata
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import CanaryReport, find_report

_FINISHED_AT = "finished_at"
"""The metadata of a check's evaluation that identifies the canary."""

_NO_CANARY = Input("sample_predictions")


def canary_evaluations(instance: dg.DagsterInstance, report: CanaryReport) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the evaluations of the canary's checks and their summaries. Call this after the materialization."""
    metadata = {_FINISHED_AT: dg.MetadataValue.timestamp(report.finished_at)}
    yield from CANARY.evaluations(instance, {report.model: Finding(report.checks, metadata)})
    yield from CANARY.summaries(instance, models)


def is_recorded(instance: dg.DagsterInstance, report: CanaryReport) -> bool:
    """Return whether Dagster has recorded this canary: whether its last check, if it has any, was evaluated."""
    if not report.checks:
        return True
    # Without those that a run has planned, and has not evaluated yet or died before.
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(CANARY.asset, report.checks[-1].name),
        limit=1,
        status={Status.SUCCEEDED, Status.FAILED},
        partition_filter=PartitionKeyFilter(key=report.model),
    )
    evaluation = history[0].evaluation if history else None
    found = evaluation.metadata.get(_FINISHED_AT) if evaluation else None
    return found is not None and found.value == report.finished_at.timestamp()


@dataclass
class PrecedingCanary:
    """The canary of a model whose shards a run records. An execution may run or rerun it before the shards."""

    _instance: dg.DagsterInstance
    _platform: Platform
    _model: str
    _report: CanaryReport | None = None
    _input: Input = _NO_CANARY

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
        return _NO_CANARY
