"""A Dagster run that has shards or a canary computed on GitHub's runners, and follows them to the end.

Launching, trying again, cancelling and reattaching are the engine's (`precalc_assets.executions`); here is what the
run adds: whose it is, when it cancels, where it says how things are, and that a canary that GitHub ran is in Dagster
before the shards that were made after it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg

from precalc_assets.defs.executions.reporting import canary_events, find_outcome, tell_dagster
from precalc_assets.defs.inference.checks import canary_input
from precalc_assets.defs.inference.computing import Computation
from precalc_assets.defs.recording import Input
from precalc_assets.defs.resources import Platform
from precalc_assets.errors import ExecutionError
from precalc_assets.executions import Engine, cancel, follow, follow_sample, followed
from precalc_assets.inference import CanaryReport, find_report
from precalc_assets.library import LibraryManifest
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason


def compute_on_runners(
    context: dg.AssetExecutionContext, platform: Platform, library: LibraryManifest, model: str, shards: list[str]
) -> Computation:
    """Have those of a model's shards computed that are not there; each outcome is recorded by this run.

    So is that of a shard which a run before had recorded when it died: Dagster takes a partition that a run was asked
    for and has not recorded for failed if that run fails, whatever was recorded before.
    """
    engine = replace(platform.engine(context.log.info), library=library)

    def outcomes() -> Iterator[ShardOutcome]:
        left = set(shards)
        try:
            with _cancelling(context, engine, model):
                for outcome in follow(engine, model, shards, dagster_run=context.run.run_id):
                    left.discard(outcome.shard)
                    yield outcome if outcome.landed else with_checks(outcome)
        except FAILURES as error:
            for shard in sorted(left):
                yield ShardOutcome(shard, failure=reason(error))

    def with_checks(outcome: ShardOutcome) -> ShardOutcome:
        """Return a shard that failed with the checks that its data in the store broke, if there are data."""
        found = find_outcome(engine, model, outcome.shard)
        return replace(found, failure=outcome.failure) if found and not found.landed else outcome

    def beside(outcome: ShardOutcome) -> Sequence[Input]:
        tell_dagster(context.instance, model, canary_events(context.instance, platform, model))
        release = str(outcome.facts["release"])
        return [canary_input(context.instance, platform, model, release, outcome.columns)]

    return Computation(outcomes(), beside)


def try_on_runner(
    context: dg.AssetExecutionContext, platform: Platform, library: LibraryManifest, model: str, size: int
) -> CanaryReport:
    """Have a model's canary run, and return its report, also that of a model which broke a check.

    Raises ExecutionError if none came of it.
    """
    before = find_report(platform.store, model)
    failure: ExecutionError | None = None
    engine = replace(platform.engine(context.log.info), library=library)
    try:
        with _cancelling(context, engine, model):
            follow_sample(engine, model, size, dagster_run=context.run.run_id)
    except ExecutionError as error:
        failure = error
    report = find_report(platform.store, model)
    if report is None or (failure and (report == before or not report.broken)):
        raise failure or ExecutionError(f"the canary of {model} has left no report")
    return report


@contextmanager
def _cancelling(context: dg.AssetExecutionContext, engine: Engine, model: str) -> Iterator[None]:
    """Cancel what this run follows if somebody terminates the run.

    An interruption that nobody asked for, as when Dagster is stopped, leaves GitHub's runs at work, as a crash does.
    """
    try:
        yield
    except BaseException as stop:
        run = context.instance.get_run_by_id(context.run.run_id)
        terminated = run and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        if terminated and not isinstance(stop, Exception | GeneratorExit):
            cancel(engine, followed(engine.store, model, context.run.run_id))
        raise
