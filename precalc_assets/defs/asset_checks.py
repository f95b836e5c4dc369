"""The checks of a partitioned asset: their specs, and what they find as Dagster's evaluations.

Dagster counts an evaluation as current if it names the partition's last materialization, and otherwise shows the
partition as missing. So a materialization is recorded first, and the evaluations that name it afterwards.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from precalc_assets.outcomes import Check

Metadatum = dg.MetadataValue | str | int | float

_SHOWN = 3
"""Partitions that a summary names."""


class Finding(NamedTuple):
    """What the checks of one partition found, and the metadata of their evaluations."""

    checks: Sequence[Check]
    metadata: Mapping[str, Metadatum]


@dataclass(frozen=True, slots=True)
class AssetChecks:
    """The checks of an asset, by name with their promises. `warnings` keep no partition from landing."""

    asset: dg.AssetKey
    promises: Mapping[str, str]
    partitions: dg.PartitionsDefinition[str]
    warnings: Container[str] = ()

    def specs(self) -> list[dg.AssetCheckSpec]:
        """Return the checks' specs; the asset's own step evaluates them, each partition by itself."""
        return [
            dg.AssetCheckSpec(
                name,
                asset=self.asset,
                description=promise,
                blocking=name not in self.warnings,
                partitions_def=self.partitions,
            )
            for name, promise in self.promises.items()
        ]

    def evaluations(
        self, instance: dg.DagsterInstance, findings: Mapping[str, Finding]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield the evaluations of partitions, each of the last materialization that the instance has.

        A partition that broke a check has no materialization from this attempt: its evaluation names the one before,
        which stays in place, or none.
        """
        targets = self._last_materializations(instance, set(findings))
        for partition, finding in findings.items():
            for check in finding.checks:
                yield dg.AssetCheckEvaluation(
                    asset_key=self.asset,
                    check_name=check.name,
                    passed=check.passed,
                    metadata=finding.metadata,
                    target_materialization_data=targets.get(partition),
                    severity=self._severity(check.name),
                    description=check.description,
                    blocking=check.name not in self.warnings,
                    partition=partition,
                )

    def summaries(self, instance: dg.DagsterInstance) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield an evaluation of no partition for each check that was evaluated: it passed if all partitions did.

        Dagster shows a check's last evaluation as that of the asset, whichever partition it is of. So these come last.
        """
        # Without a target Dagster compares times, which SQLite keeps in whole seconds.
        last = instance.fetch_materializations(self.asset, limit=1).records
        target = _target(last[0]) if last else None
        there = set(self.partitions.get_partition_keys(dynamic_partitions_store=instance))
        evaluated: dict[str, list[str]] = {}
        broken: dict[str, list[str]] = {}
        for info in instance.event_log_storage.get_asset_check_partition_info(self._keys):
            if info.partition_key in there and info.is_current and info.latest_execution_status is not Status.PLANNED:
                evaluated.setdefault(info.check_key.name, []).append(info.partition_key)
                if info.latest_execution_status is Status.FAILED:
                    broken.setdefault(info.check_key.name, []).append(info.partition_key)
        for name, partitions in evaluated.items():
            failed = sorted(broken.get(name, ()))
            more = ", …" if len(failed) > _SHOWN else ""
            found = (
                f"broken in {len(failed)} of {len(partitions)} evaluated partitions: {', '.join(failed[:_SHOWN])}{more}"
            )
            yield dg.AssetCheckEvaluation(
                asset_key=self.asset,
                check_name=name,
                passed=not failed,
                target_materialization_data=target,
                severity=self._severity(name),
                description=found if failed else f"kept in all {len(partitions)} evaluated partitions of {len(there)}",
            )

    def unevaluated(self, instance: dg.DagsterInstance, partitions: Sequence[str]) -> set[str]:
        """Return the partitions with a check that is not evaluated since the last materialization, nor about to be."""
        infos = instance.event_log_storage.get_asset_check_partition_info(self._keys, partition_keys=partitions)
        planned = [info.latest_planned_run_id for info in infos if info.latest_execution_status is Status.PLANNED]
        going = dg.RunsFilter(run_ids=planned, statuses=NOT_FINISHED_STATUSES) if planned else None
        runs = {run.run_id for run in instance.get_runs(going)} if going else set()
        evaluated = Counter(
            info.partition_key
            for info in infos
            if (
                info.latest_planned_run_id in runs
                if info.latest_execution_status is Status.PLANNED
                else info.is_current
            )
        )
        return {partition for partition in partitions if evaluated[partition] < len(self.promises)}

    @property
    def _keys(self) -> list[dg.AssetCheckKey]:
        return [dg.AssetCheckKey(self.asset, name) for name in self.promises]

    def _severity(self, name: str) -> dg.AssetCheckSeverity:
        return dg.AssetCheckSeverity.WARN if name in self.warnings else dg.AssetCheckSeverity.ERROR

    def _last_materializations(self, instance: dg.DagsterInstance, partitions: set[str]) -> dict[str | None, Target]:
        """Return the last materialization of each partition that has one, in two queries for all of them."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        # No partitions would be all of them, and no ids any.
        ids = instance.get_latest_storage_id_by_partition(self.asset, kind, partitions) if partitions else {}
        if not ids:
            return {}
        last = dg.AssetRecordsFilter(self.asset, storage_ids=list(ids.values()))
        return {
            record.partition_key: _target(record)
            for record in instance.fetch_materializations(last, limit=len(ids)).records
        }


def _target(record: dg.EventLogRecord) -> Target:
    return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)


def check_outputs(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
    """Yield the outputs that Dagster wants of a step's checks. The evaluations themselves are recorded already."""
    for name in context.assets_def.check_specs_by_output_name:
        yield dg.Output(None, output_name=name)
