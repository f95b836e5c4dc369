"""What the store has and Dagster has no record of, as events: of canaries and shards that no run has recorded.

Whether something is recorded is asked of Dagster's own events, by the version of the data: so nothing is reported
twice, and nothing that a dead run or a failed tick has left out is missed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
)
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.storage.tags import SENSOR_NAME_TAG

from precalc_assets.defs.inference.checks import (
    CANARY,
    FINISHED_AT,
    RAW,
    canary_evaluations,
    canary_input,
    canary_metadata,
)
from precalc_assets.defs.partitions import partition_key
from precalc_assets.defs.recording import EVALUATED_VERSION, Input, ShardEvents
from precalc_assets.defs.resources import Platform
from precalc_assets.errors import ShardError
from precalc_assets.executions import Engine, find_landed
from precalc_assets.executions.following import Facts
from precalc_assets.inference import find_report
from precalc_assets.outcomes import ShardOutcome

AssetEvent = dg.AssetMaterialization | dg.AssetCheckEvaluation

_SOURCE_TAG = "precalc/reported"

_JOB = "github_executions"
"""What the UI calls the runs that stand for executions."""

_LIBRARY = dg.AssetKey("library_shards")


def tell_dagster(instance: dg.DagsterInstance, source: str, events: Iterable[AssetEvent], *, sensor: str = "") -> int:
    """Tell Dagster of events, as those of a run that stands for their source, an execution or model; return how many.

    Not as events without a run: of these, Dagster 1.13 takes one evaluation of a check and partition, and raises
    IntegrityError at the next. A check is taken for that of the materialisation which has the same run. The run has
    ended before anything is told, since one that has not would take a place in the queue if this dies. It shows as one
    of the `sensor`, if that tells.
    """
    told = 0
    tags = {_SOURCE_TAG: source, **({SENSOR_NAME_TAG: sensor} if sensor else {})}
    run = dg.DagsterRun(_JOB, run_id=str(uuid4()), status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    for event in events:
        if not told:
            instance.add_run(run)
            # Its times, without which the UI has it starting for ever.
            for kind in (DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS):
                instance.report_dagster_event(DagsterEvent(kind.value, _JOB), run.run_id)
        recorded = (
            DagsterEvent(
                DagsterEventType.ASSET_MATERIALIZATION.value, _JOB, event_specific_data=StepMaterializationData(event)
            )
            if isinstance(event, dg.AssetMaterialization)
            else DagsterEvent(DagsterEventType.ASSET_CHECK_EVALUATION.value, _JOB, event_specific_data=event)
        )
        instance.report_dagster_event(recorded, run.run_id)
        told += 1
    return told


def canary_events(instance: dg.DagsterInstance, platform: Platform, model: str) -> Iterator[AssetEvent]:
    """Yield the events of a model's canary if Dagster has no record of it."""
    report = find_report(platform.store, model)
    if report is None or not report.checks:
        return
    check = dg.AssetCheckKey(CANARY.asset, report.checks[-1].name)
    if _evaluated(instance, check, model, FINISHED_AT) == report.finished_at.timestamp():
        return
    if not report.broken:
        tags = {DATA_VERSION_TAG: report.version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true", CODE_VERSION_TAG: "1"}
        yield dg.AssetMaterialization(
            asset_key=CANARY.asset,
            partition=model,
            metadata=canary_metadata(report, platform),
            tags={**tags, **_library_input(instance).tags},
        )
    yield from canary_evaluations(instance, report)


def shard_events(
    instance: dg.DagsterInstance,
    platform: Platform,
    engine: Engine,
    model: str,
    shards: Sequence[str],
    facts: Facts,
) -> Iterator[AssetEvent]:
    """Yield the events of those of a model's shards that are there, if Dagster has no record of them.

    They are marked as a run marks them, with the `facts` of the execution that brought them. What the canary is has to
    be recorded before.
    """
    keys = {shard: partition_key(model, shard) for shard in shards}
    partitions = list(keys.values())
    recorded = instance.event_log_storage.get_latest_tags_by_partition(
        RAW.asset, DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], asset_partitions=partitions
    )
    unevaluated = RAW.unevaluated(instance, partitions)
    events = ShardEvents(instance, platform, RAW, _LIBRARY.to_user_string(), partitions)
    reported: dict[str, ShardOutcome] = {}
    for shard, key in keys.items():
        found = find_outcome(engine, model, shard)
        if found is None:
            continue
        outcome = replace(found, facts={**found.facts, **facts.get(shard, {})})
        if outcome.landed and recorded.get(key, {}).get(DATA_VERSION_TAG) != outcome.digest:
            release = str(outcome.facts["release"])
            canary = canary_input(instance, platform, model, release, outcome.columns)
            yield events.materialization(outcome, key, [canary])
            reported[key] = outcome
        elif (outcome.landed and key in unevaluated) or (
            not outcome.landed
            and any(
                _evaluated(instance, dg.AssetCheckKey(RAW.asset, check.name), key, EVALUATED_VERSION) != outcome.digest
                for check in outcome.checks
            )
        ):
            reported[key] = outcome
    if reported:
        yield from events.evaluations(reported)
        yield from RAW.summaries(instance)


def find_outcome(engine: Engine, model: str, shard: str) -> ShardOutcome | None:
    """Return what there is of a shard; nothing of one that is damaged, which whoever computes it next is told."""
    try:
        return find_landed(engine, model, shard)
    except ShardError as error:
        engine.say(str(error))
        return None


def _evaluated(instance: dg.DagsterInstance, check: dg.AssetCheckKey, partition: str, of: str) -> object:
    """Return which data a check has evaluated last, by that metadata of its evaluation."""
    history = instance.event_log_storage.get_asset_check_execution_history(
        check, limit=1, partition_filter=PartitionKeyFilter(key=partition)
    )
    event = history[0].event if history else None
    evaluation = event.asset_check_evaluation if event else None
    found = evaluation.metadata.get(of) if evaluation else None
    return found.value if found else None


def _library_input(instance: dg.DagsterInstance) -> Input:
    """Return the library as Dagster marks it on a canary: its shard that was recorded last, for all of them."""
    for record in instance.fetch_materializations(_LIBRARY, limit=1).records:
        recorded = record.asset_materialization
        if recorded and DATA_VERSION_TAG in (recorded.tags or {}):
            return Input("library_shards", (recorded.tags or {})[DATA_VERSION_TAG], str(record.storage_id))
    return Input("library_shards")
