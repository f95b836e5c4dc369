"""Dagster runs that have shards or a canary computed on GitHub's runners or a SLURM cluster, and follow them.

The engine (`precalc_assets.executions`) launches, retries, cancels and reattaches. This module decides when a run
cancels. A run that was requested for one execution continues that execution and launches no other.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg

from precalc_assets.defs.dead_runs import is_of_this_process
from precalc_assets.executions.compute_backend import Engine
from precalc_assets.executions.following import cancel, follow, follow_sample, sample_error, shards_to_retry
from precalc_assets.executions.records import Execution, followed, unsettled
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import ExecutionError, ModelError
from precalc_assets.predictions.canary_report import CanaryReport, find_report

EXECUTION_TAG = "precalc/execution"
"""The tag of a run that was requested for an unfollowed execution. Its value is the execution's key."""


def compute_on_engine(
    context: dg.AssetExecutionContext, platform: Platform, compute: str, model: str, shards: list[str]
) -> Iterator[ShardOutcome]:
    """Have a model's missing shards computed on `compute`, and yield each shard as it lands or fails.

    Shards that an earlier run recorded before it died are yielded, too: if this run fails, Dagster shows each partition
    that this run has not recorded as failed.
    """
    engine = platform.engine(context.log.info, compute)
    left = set(shards)
    try:
        for outcome in _ended_shards(engine, _execution(context, engine), shards):
            left.discard(outcome.shard)
            yield _with_checks(engine, model, outcome)
        with _cancelling(context, engine, model):
            run_id = context.run.run_id
            for outcome in follow(engine, model, sorted(left), dagster_run=run_id, on_follow=_tagging(context)):
                left.discard(outcome.shard)
                yield outcome if outcome.landed else _with_checks(engine, model, outcome)
    except FAILURES as error:
        for shard in sorted(left):
            yield ShardOutcome(shard, failure=reason(error))


def try_on_engine(
    context: dg.AssetExecutionContext, platform: Platform, compute: str, model: str, size: int
) -> CanaryReport:
    """Have a model's canary run on `compute`, and return its report.

    Raises ExecutionError if it left none, ModelError if that is the model's fault.
    """
    engine = platform.engine(context.log.info, compute)
    execution = _execution(context, engine)
    before = find_report(engine.store, model)
    if execution and before and before.finished_at >= execution.intent.created_at:
        before = None
    failure: ExecutionError | ModelError | None = None
    try:
        settled = execution.settled.read() if execution else None
        if settled is None:
            with _cancelling(context, engine, model):
                follow_sample(engine, model, size, dagster_run=context.run.run_id, on_follow=_tagging(context))
        elif settled.failures:
            raise sample_error(model, settled)
    except (ExecutionError, ModelError) as error:
        failure = error
    report = find_report(engine.store, model)
    if report is None or (failure and (report == before or not report.broken)):
        raise failure or ExecutionError(f"the canary of {model} left no report")
    return report


def find_outcome(engine: Engine, model: str, shard: str) -> ShardOutcome | None:
    """Return a shard's outcome if it has raw predictions; log a damaged manifest and return None."""
    found = engine.find_landed(model, shard)
    if found is None or found.digest:
        return found
    engine.say(found.failure)
    return None


def _tagging(context: dg.AssetExecutionContext) -> Callable[[str], None]:
    """Return a function that adds an execution to the run's tag `execution`, by which people filter runs."""
    keys: list[str] = []

    def tag(key: str) -> None:
        keys.append(key)
        context.instance.add_run_tags(context.run.run_id, {"execution": ", ".join(keys)})

    return tag


def _execution(context: dg.AssetExecutionContext, engine: Engine) -> Execution | None:
    key = context.run.tags.get(EXECUTION_TAG)
    return Execution(engine.store, key) if key else None


def _ended_shards(engine: Engine, execution: Execution | None, shards: Sequence[str]) -> Iterator[ShardOutcome]:
    """Yield the shards that ended without predictions before the run began, such as cancelled ones."""
    if execution is None:
        return
    model = execution.model
    unfinished = {shard for each in unsettled(engine.store, model) for shard in each.intent.shards}
    unfinished |= shards_to_retry(engine.store, model).keys()
    settled = execution.settled.read()
    failures = settled.failures if settled else {}
    for shard in shards:
        found = None if shard in unfinished else find_outcome(engine, model, shard)
        if shard not in unfinished and not (found and found.landed):
            why = failures.get(shard, f"execution {execution.key} ended without it")
            models_fault = settled is not None and shard in settled.models_faults
            yield ShardOutcome(shard, failure=f"shard {shard} of {model}: {why}", models_fault=models_fault)


def _with_checks(engine: Engine, model: str, outcome: ShardOutcome) -> ShardOutcome:
    """Return a failed shard with the failed checks of its data in the store, if it has data."""
    found = find_outcome(engine, model, outcome.shard)
    return replace(found, failure=outcome.failure) if found and not found.landed else outcome


@contextmanager
def _cancelling(context: dg.AssetExecutionContext, engine: Engine, model: str) -> Iterator[None]:
    """Cancel the executions that this run follows if a person terminates the run, or interrupts `precalc run`.

    Any other interruption, such as a stop of Dagster or a crash, leaves the executions at work.
    """
    try:
        yield
    except BaseException as stop:
        run = context.instance.get_run_by_id(context.run.run_id)
        terminated = run and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        if (terminated or is_of_this_process(context.run)) and not isinstance(stop, Exception | GeneratorExit):
            cancel(engine, followed(engine.store, model, context.run.run_id))
        raise
