"""The Dagster runs that meet a request, which is an object in the store.

Dagster's runs, tagged with the request's id, hold its progress: first the model's canary, then all its shards.
"""

from collections.abc import Iterator
from itertools import islice

import dagster as dg

from precalc_assets.defs.executions.attempts import Attempts, new_models
from precalc_assets.defs.partitions import partition_key
from precalc_assets.defs.resources import Platform
from precalc_assets.executions import Request, meet_request, pending_requests, read_request
from precalc_assets.inference import find_report
from precalc_assets.outcomes import FAILURES, reason
from precalc_assets.sharding import shard_keys

REQUEST_TAG = "precalc/request"

_MOST_AT_ONCE = 100
"""The most requests per tick; the others follow once these are met."""


def meet_requests(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Return the runs that requests need next, and mark requests that need no more runs as met.

    Raises LibraryError if there is no library.
    """
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
    canary = Attempts(context.instance, "sample_predictions", REQUEST_TAG, request.id)
    raw = Attempts(context.instance, "raw_predictions", REQUEST_TAG, request.id)
    if canary.under_way or raw.under_way:
        return
    report = find_report(platform.store, model)
    if request.sample is None and canary.done and not (raw.done or raw.over):
        keys = [partition_key(model, shard) for shard in shard_keys(platform.settings.n_shards)]
        yield raw.next_run(keys[0], keys[-1], {})
    elif not (canary.done or canary.over or (canary.made and report and report.broken)):
        yield canary.next_run(model, model, {"size": request.sample} if request.sample else {})
    else:
        met = raw.done or (request.sample is not None and canary.done)
        context.log.info(f"{request.id}: {'met' if met else 'given up; its last run says why'}")
        meet_request(platform.store, request.id)
