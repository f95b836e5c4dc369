"""From a request, an object that anybody may put into the store, to the Dagster runs that meet it.

How far a request is is in Dagster's runs, which carry its id as a tag: first the model's canary, then all its shards.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    WILL_RETRY_TAG,
)

from precalc_assets.defs.executions.sensors import REQUESTED_JOBS
from precalc_assets.defs.partitions import MODELS, partition_key, shards
from precalc_assets.defs.resources import Platform
from precalc_assets.executions import ATTEMPTS, Request, meet_request, pending_requests, read_request
from precalc_assets.inference import find_report
from precalc_assets.outcomes import FAILURES, reason

REQUEST_TAG = "precalc/request"
STAGE_TAG = "precalc/stage"

_MOST_AT_ONCE = 100
"""Requests that a tick looks at; the others come when these are met."""


@dataclass(frozen=True)
class _Stage:
    """How the runs of one asset for a request went."""

    asset: str
    runs: tuple[dg.DagsterRun, ...]

    @property
    def under_way(self) -> bool:
        """Whether a run has not ended, or is about to be retried by Dagster itself."""
        last = self.runs[0] if self.runs else None
        return last is not None and (not last.is_finished or last.tags.get(WILL_RETRY_TAG) == "true")

    @property
    def done(self) -> bool:
        """Whether the last run was a success."""
        return bool(self.runs) and self.runs[0].is_success

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the last run."""
        return bool(self.runs) and self.runs[0].status is dg.DagsterRunStatus.CANCELED

    @property
    def used_up(self) -> bool:
        """Whether there were as many attempts as there may be."""
        return len(self.runs) >= ATTEMPTS


def meet_requests(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Return the runs that the requests need next, and mark those as met that need none any more."""
    runs: list[dg.RunRequest] = []
    new: set[str] = set()
    known = set(context.instance.get_dynamic_partitions(MODELS))
    for number, request_id in enumerate(pending_requests(platform.store)):
        if number == _MOST_AT_ONCE:
            break
        try:
            request = read_request(platform.store, request_id)
            if request:
                runs += _next_runs(context, platform, request)
                new |= {request.model} - known
        except FAILURES as error:
            context.log.warning(reason(error))
    added = [dg.AddDynamicPartitionsRequest(MODELS, sorted(new))] if new else []
    return dg.SensorResult(run_requests=runs, dynamic_partitions_requests=added)


def _next_runs(context: dg.SensorEvaluationContext, platform: Platform, request: Request) -> Iterator[dg.RunRequest]:
    """Yield the run that a request needs now, if it needs one; mark it as met if it will need none."""
    canary, raw = (_stage(context.instance, request, asset) for asset in ("sample_predictions", "raw_predictions"))
    if canary.under_way or raw.under_way:
        return
    report = find_report(platform.store, request.model)
    if request.sample is None and canary.done and not (raw.done or raw.cancelled or raw.used_up):
        yield _run(request, raw)
    elif not (canary.done or canary.cancelled or canary.used_up or (canary.runs and report and report.broken)):
        yield _run(request, canary)
    else:
        met = raw.done or (request.sample is not None and canary.done)
        context.log.info(f"{request.id}: {'met' if met else 'given up; its last run says why'}")
        meet_request(platform.store, request.id)


def _stage(instance: dg.DagsterInstance, request: Request, asset: str) -> _Stage:
    runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: request.id, STAGE_TAG: asset}))
    return _Stage(asset, tuple(runs))


def _run(request: Request, stage: _Stage) -> dg.RunRequest:
    """Return the next attempt at a stage. Its key counts attempts, since Dagster never runs a key again."""
    size = {"size": request.sample} if request.sample else {}
    return dg.RunRequest(
        run_key=f"{request.id}/{stage.asset}/{len(stage.runs) + 1}",
        job_name=REQUESTED_JOBS[stage.asset].name,
        run_config={"ops": {stage.asset: {"config": size}}},
        tags={
            REQUEST_TAG: request.id,
            STAGE_TAG: stage.asset,
            "model": request.model,
            **_partitions(request, stage.asset),
        },
    )


def _partitions(request: Request, asset: str) -> dict[str, str]:
    """Return the tags that name a run's partitions: the model, or all its shards."""
    first, last = request.model, request.model
    if asset == "raw_predictions":
        names = shards.get_partition_keys()
        first, last = (partition_key(request.model, shard) for shard in (names[0], names[-1]))
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
