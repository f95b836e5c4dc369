"""The sensors: one meets requests, one advances the campaign, one follows executions that no Dagster run follows.

A request is an object in the store. Dagster's runs, tagged with its id, hold its progress: first the model's canary,
then all its shards.
"""

from collections.abc import Iterator
from itertools import islice

import dagster as dg

from precalc_assets.defs.attempts import COMPUTE_SHARDS, TRY_MODEL, Attempts, new_models
from precalc_assets.defs.campaign_sensor import advance_campaign
from precalc_assets.defs.dead_runs import settle_dead_runs
from precalc_assets.defs.policies import clear_skips
from precalc_assets.defs.unfollowed import follow_unfollowed
from precalc_assets.executions.request_queue import Request, meet_request, pending_requests, read_request
from precalc_assets.outcomes import FAILURES, reason
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import find_report

REQUEST_TAG = "precalc/request"

_MOST_AT_ONCE = 100
"""The most requests per tick; the others follow once these are met."""


def execution_sensors(compute: str) -> list[dg.SensorDefinition]:
    """Return the sensors. The one for executions is on by default unless `compute` is local."""
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    requests = dg.sensor(
        name="precalculation_requests",
        jobs=[TRY_MODEL, COMPUTE_SHARDS],
        minimum_interval_seconds=30,
        default_status=running,
        description="Meets what `precalc request` asks for: adds the model, runs its canary, and then all its shards. "
        "A request for a sample ends with the canary.",
    )
    campaign = dg.sensor(
        name="campaign",
        jobs=[TRY_MODEL, COMPUTE_SHARDS],
        minimum_interval_seconds=30,
        default_status=running,
        description="Works through what `precalc campaign start` asks for: canaries first, and after a person's "
        "approval all shards, pinned models first and then the shortest, while jobs and budget allow.",
    )
    executions = dg.sensor(
        name="executions",
        jobs=[TRY_MODEL, COMPUTE_SHARDS],
        minimum_interval_seconds=30,
        default_status=stopped if compute == "local" else running,
        description="Starts a run for each execution that no run follows, such as one that a person started in "
        "GitHub's UI, or whose run died. That run records what landed and retries what failed.",
    )
    return [
        requests(clear_skips(_meet_requests)),
        campaign(clear_skips(advance_campaign)),
        executions(clear_skips(follow_unfollowed)),
    ]


def _meet_requests(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Return the runs that requests need next, mark met requests, and settle dead runs. Raises LibraryError."""
    settle_dead_runs(context.instance)
    platform.library()
    runs: list[dg.RunRequest] = []
    models: set[str] = set()
    for request_id in islice(pending_requests(platform.store), _MOST_AT_ONCE):
        try:
            request = read_request(platform.store, request_id)
            if request:
                runs += _next_runs(context, platform, request)
                models.add(request.model)
        except FAILURES as error:
            context.log.warning(reason(error))
    return dg.SensorResult(run_requests=runs, dynamic_partitions_requests=new_models(context.instance, models))


def _next_runs(context: dg.SensorEvaluationContext, platform: Platform, request: Request) -> Iterator[dg.RunRequest]:
    """Yield the run that a request needs now, if any. Mark the request as met if it needs no more runs."""
    model = request.model
    runs = context.instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: request.id}))
    canary = Attempts("sample_predictions", REQUEST_TAG, request.id, runs)
    raw = Attempts("raw_predictions", REQUEST_TAG, request.id, runs)
    if canary.under_way or raw.under_way:
        return
    report = find_report(platform.store, model)
    if request.sample is None and canary.done and not (raw.done or raw.over):
        yield raw.next_of_shards(model, platform.settings.n_shards)
    elif not (canary.done or canary.over or (canary.made and report and report.broken)):
        yield canary.next_run(model, model, {"size": request.sample} if request.sample else {})
    else:
        met = raw.done or (request.sample is not None and canary.done)
        context.log.info(f"{request.id}: {'met' if met else 'given up; its last run says why'}")
        meet_request(platform.store, request.id)
