"""Executions that no Dagster run follows: started in GitHub's UI, or left by a run that died.

For each, the sensor requests runs over the shards that Dagster has no record of, one run per contiguous range, as
Dagster splits a backfill. Such a run reattaches, retries and records like any other. An execution without anything to
record was cancelled, is of an old library, or was recorded already. The sensor settles it to free its shards.
"""

import time
from collections.abc import Sequence

import dagster as dg
from pydantic import BaseModel, ValidationError

from precalc_assets.defs.attempts import Attempts, any_under_way, new_models, run_and_retries
from precalc_assets.defs.canary_events import is_recorded
from precalc_assets.defs.checks import RAW
from precalc_assets.defs.dagster_internals import DATA_VERSION_TAG
from precalc_assets.defs.on_engine import EXECUTION_TAG, find_outcome
from precalc_assets.defs.partitions import partition_key
from precalc_assets.executions.compute_backend import Engine
from precalc_assets.executions.following import retry_reasons
from precalc_assets.executions.records import Cancellation, Execution, Settled, list_executions
from precalc_assets.executions.stepping import step
from precalc_assets.outcomes import FAILURES, reason
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.sharding import contiguous_ranges

_TICK_SECONDS = 15.0
"""Seconds after which a tick looks at no further execution. One takes two answers of a backend, of 12 seconds each
at most, and Dagster's timeout of a tick is 60 seconds."""


class Position(BaseModel):
    """A sensor's cursor: per model the number up to which all executions are done, and the last key looked at."""

    done: dict[str, int] = {}
    last: str = ""


def follow_unfollowed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Return runs for executions that no run follows, and settle executions with nothing to record.

    A tick that is lost or repeated does no harm: runs have keys, and settling is idempotent. Raises PrecalcError if
    there is no library, or a setting of the backend is missing.
    """
    deadline = time.monotonic() + _TICK_SECONDS
    engine = platform.engine(context.log.info, patient=False)
    try:
        position = Position.model_validate_json(context.cursor or "{}")
    except ValidationError:  # a person has edited it; beginning anew does no harm
        position = Position()
    executions = [each for each in list_executions(engine.store) if each.number > position.done.get(each.model, 0)]
    runs: list[dg.RunRequest] = []
    done: set[str] = set()
    for execution in sorted(executions, key=lambda each: (each.key <= position.last, each.key)):
        if time.monotonic() > deadline:
            break
        position.last = execution.key
        later = [each for each in executions if each.model == execution.model and each.number > execution.number]
        try:
            needed = _needed_runs(context.instance, engine, execution, later)
        except FAILURES as error:
            context.log.warning(f"{execution.key}: {reason(error)}")
            continue
        runs += needed or ()
        done |= {execution.key} if needed is None else set()
    all_done = {execution.model for execution in executions}
    for execution in executions:
        if execution.key not in done:
            all_done.discard(execution.model)
        elif execution.model in all_done:
            position.done[execution.model] = execution.number
    return dg.SensorResult(
        run_requests=runs,
        dynamic_partitions_requests=new_models(context.instance, {run.tags["model"] for run in runs}),
        cursor=position.model_dump_json(),
    )


def _needed_runs(
    instance: dg.DagsterInstance, engine: Engine, execution: Execution, later: Sequence[Execution]
) -> list[dg.RunRequest] | None:
    """Return the runs that an execution needs now, or move it a step towards settled; None if nothing is left to do."""
    sample = execution.intent.sample
    asset = "raw_predictions" if sample is None else "sample_predictions"
    attempts = Attempts.find(instance, asset, EXECUTION_TAG, execution.key)
    follower = execution.follower.read()
    followers = run_and_retries(instance, follower.dagster_run) if follower else []
    if attempts.under_way or any_under_way(followers):
        return []
    settled = execution.settled.read()
    cancelled = not settled and followers and followers[0].status is dg.DagsterRunStatus.CANCELED
    if cancelled:
        # The run had no time to cancel the execution, or a person marked a dead run as cancelled.
        execution.cancellation.create(Cancellation(requested_at=engine.now()))
    if not cancelled and not attempts.over:
        config = {"compute": execution.intent.compute} | ({} if sample is None else {"size": sample})
        ranges = _unrecorded(instance, engine, execution, settled, later)
        if ranges:
            return [attempts.next_run(first, last, config) for first, last in ranges]
    if settled:
        return None
    step(engine, execution)
    return []


def _unrecorded(
    instance: dg.DagsterInstance,
    engine: Engine,
    execution: Execution,
    settled: Settled | None,
    later: Sequence[Execution],
) -> list[tuple[str, str]]:
    """Return the first and last partition of each range that a run has to follow or to record."""
    model, intent = execution.model, execution.intent
    if intent.sample is not None:
        report = find_report(engine.store, model) if settled and settled.landed else None
        left = settled is None or (report is not None and not is_recorded(instance, report))
        return [(model, model)] if left else []
    if intent.library_digest != engine.library.digest:
        return []
    with_later = {shard for each in later for shard in each.intent.shards}
    keys = {shard: partition_key(model, shard) for shard in intent.shards if shard not in with_later}
    if not keys:
        return []
    recorded = instance.event_log_storage.get_latest_tags_by_partition(
        RAW.asset, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], asset_partitions=[*keys.values()]
    )
    unevaluated = RAW.unevaluated(instance, [*keys.values()])
    again = retry_reasons(intent, settled) if settled else keys

    def is_left(shard: str) -> bool:
        outcome = find_outcome(engine, model, shard)
        if outcome is None:
            return shard in again
        if outcome.landed and recorded.get(keys[shard], {}).get(DATA_VERSION_TAG) != outcome.digest:
            return True
        return keys[shard] in unevaluated or not (outcome.landed or settled)

    parts = contiguous_ranges([shard for shard in keys if is_left(shard)])
    return [(keys[part[0]], keys[part[-1]]) for part in parts]
