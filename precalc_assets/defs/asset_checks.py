"""The checks of an asset: their specs, and the translation of a `Check` into Dagster's evaluations.

Dagster counts an evaluation as current if it names the partition's last materialization, and otherwise shows the
partition as missing. So a materialization is recorded first, and the evaluations that name it afterwards.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import dagster as dg

from precalc_assets.defs.dagster_internals import AssetCheckEvaluationTargetMaterializationData as Target
from precalc_assets.defs.dagster_internals import AssetCheckExecutionRecordStatus as Status
from precalc_assets.defs.dagster_internals import evaluations_with
from precalc_assets.outcomes import Check

Metadatum = dg.MetadataValue | str | int | float

_UNDECIDED = "undecided"
"""The metadatum of an evaluation that passed since there was too little to judge by."""

_SHOWN = 3
"""The most partitions that a summary names."""


class Finding(NamedTuple):
    """The evaluated checks of one partition, and the metadata of their evaluations."""

    checks: Sequence[Check]
    metadata: Mapping[str, Metadatum]


@dataclass(frozen=True, slots=True)
class AssetChecks:
    """The checks of an asset: the promise of each, by name. Checks in `warnings` never block a partition."""

    asset: dg.AssetKey
    promises: Mapping[str, str]
    warnings: Container[str] = ()

    def specs(self, partitions: dg.PartitionsDefinition[str] | None = None) -> list[dg.AssetCheckSpec]:
        """Return the checks' specs; the asset's own step evaluates them, each partition by itself."""
        return [
            dg.AssetCheckSpec(
                name,
                asset=self.asset,
                description=promise,
                blocking=name not in self.warnings,
                partitions_def=partitions,
            )
            for name, promise in self.promises.items()
        ]

    def evaluations(
        self, instance: dg.DagsterInstance, findings: Mapping[str, Finding]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield the evaluations of partitions. Each names the partition's last materialization in the instance.

        A partition that failed a check has no materialization from this attempt. Its evaluation names the previous one,
        if any.
        """
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        # Two queries for all of them. To Dagster, an empty set of partitions means all, and no ids mean any.
        ids = instance.get_latest_storage_id_by_partition(self.asset, kind, set(findings)) if findings else {}
        last = dg.AssetRecordsFilter(self.asset, storage_ids=list(ids.values()))
        records = instance.fetch_materializations(last, limit=len(ids)).records if ids else ()
        targets = {record.partition_key: _target(record) for record in records}
        for partition, finding in findings.items():
            for check in finding.checks:
                yield self._evaluation(check, targets.get(partition), finding.metadata, partition)

    def evaluations_of_whole(
        self, instance: dg.DagsterInstance, checks: Sequence[Check]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield evaluations without a partition, which name the asset's last materialization."""
        # Without a target Dagster compares times, which SQLite keeps in whole seconds.
        last = instance.fetch_materializations(self.asset, limit=1).records
        for check in checks:
            yield self._evaluation(check, _target(last[0]) if last else None)

    def summaries(
        self, instance: dg.DagsterInstance, partitions: dg.PartitionsDefinition[str] | None
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield an evaluation without a partition for each evaluated check, which passed if no partition failed.

        Dagster shows a check's last evaluation, of whichever partition, as the asset's. So these must come last.
        """
        existing = set(partitions.get_partition_keys(dynamic_partitions_store=instance) if partitions else ())
        evaluated: Counter[str] = Counter()
        broken: dict[str, list[str]] = {}
        undecided: Counter[str] = Counter()
        undecided_ids = evaluations_with(instance, self.asset, _UNDECIDED)
        for info in instance.event_log_storage.get_asset_check_partition_info(self._keys):
            planned = info.latest_execution_status is Status.PLANNED
            if info.partition_key in existing and info.is_current and not planned:
                name = info.check_key.name
                evaluated[name] += 1
                undecided[name] += info.latest_check_event_storage_id in undecided_ids
                if info.latest_execution_status is Status.FAILED:
                    broken.setdefault(name, []).append(info.partition_key)
        summaries = []
        for name, total in evaluated.items():
            failed, unknown = sorted(broken.get(name, ())), undecided[name]
            said = f"passed in all {total} evaluated partitions of {len(existing)}"
            if failed:
                shown = ", ".join(failed[:_SHOWN]) + (", …" if len(failed) > _SHOWN else "")
                said = f"failed in {len(failed)} of {total} evaluated partitions: {shown}"
            elif unknown:
                said = f"passed in {total - unknown} of {total} evaluated partitions"
            if unknown:
                said += f"; too little to tell by in {unknown}"
            summaries.append(Check(name, not failed, said))
        yield from self.evaluations_of_whole(instance, summaries)

    def unevaluated(self, instance: dg.DagsterInstance, partitions: Sequence[str]) -> set[str]:
        """Return the partitions with a check that is neither evaluated since the last materialization nor planned."""
        infos = instance.event_log_storage.get_asset_check_partition_info(self._keys, partition_keys=partitions)
        planned = [info.latest_planned_run_id for info in infos if info.latest_execution_status is Status.PLANNED]
        runs = instance.get_runs(dg.RunsFilter(run_ids=planned)) if planned else []
        unfinished = {run.run_id for run in runs if not run.is_finished}
        evaluated = Counter(
            info.partition_key
            for info in infos
            if (
                info.latest_planned_run_id in unfinished
                if info.latest_execution_status is Status.PLANNED
                else info.is_current
            )
        )
        return {partition for partition in partitions if evaluated[partition] < len(self.promises)}

    @property
    def _keys(self) -> list[dg.AssetCheckKey]:
        return [dg.AssetCheckKey(self.asset, name) for name in self.promises]

    def _evaluation(
        self,
        check: Check,
        target: Target | None,
        metadata: Mapping[str, Metadatum] | None = None,
        partition: str | None = None,
    ) -> dg.AssetCheckEvaluation:
        """Translate a check. Failing the asset for a failed check is left to its step, which says which and why."""
        return dg.AssetCheckEvaluation(
            asset_key=self.asset,
            check_name=check.name,
            passed=check.passed,
            metadata={**(metadata or {}), **({_UNDECIDED: True} if check.undecided else {})},
            target_materialization_data=target,
            severity=dg.AssetCheckSeverity.WARN if check.name in self.warnings else dg.AssetCheckSeverity.ERROR,
            description=check.description,
            partition=partition,
        )


def _target(record: dg.EventLogRecord) -> Target:
    return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)


def check_outputs(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
    """Yield the outputs that Dagster expects of a step's checks, whose evaluations are recorded already."""
    for name in context.assets_def.check_specs_by_output_name:
        yield dg.Output(None, output_name=name)
