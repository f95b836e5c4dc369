"""The sensors of requests and executions: one meets requests, one follows executions that no Dagster run follows."""

from collections.abc import Callable

import dagster as dg

from precalc_assets.defs.executions.jobs import COMPUTE_SHARDS, TRY_MODEL
from precalc_assets.defs.executions.requests import meet_requests
from precalc_assets.defs.executions.unfollowed import follow_unfollowed
from precalc_assets.defs.resources import Platform
from precalc_assets.platform_errors import PrecalcError

_Tick = Callable[[dg.SensorEvaluationContext, Platform], dg.SensorResult | dg.SkipReason]


def execution_sensors(compute: str) -> list[dg.SensorDefinition]:
    """Return the sensors. The one for executions on GitHub's runners is on by default if `compute` is github."""
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    requests = dg.sensor(
        name="precalculation_requests",
        jobs=[TRY_MODEL, COMPUTE_SHARDS],
        minimum_interval_seconds=30,
        default_status=running,
        description="Meets what `precalc request` asks for: adds the model, runs its canary, and then all its shards. "
        "A request for a sample ends with the canary.",
    )
    executions = dg.sensor(
        name="github_executions",
        jobs=[TRY_MODEL, COMPUTE_SHARDS],
        minimum_interval_seconds=30,
        default_status=running if compute == "github" else stopped,
        description="Starts a run for each execution on GitHub's runners that no run follows, such as one that a "
        "person started in GitHub's UI, or whose run died. That run records what landed and retries what failed.",
    )
    return [requests(_clear_skips(meet_requests)), executions(_clear_skips(follow_unfollowed))]


def _clear_skips(evaluate: _Tick) -> _Tick:
    """Turn a PrecalcError into a skipped tick with its message, without a traceback."""

    def tick(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            return evaluate(context, platform)
        except PrecalcError as error:
            return dg.SkipReason(str(error))

    return tick
