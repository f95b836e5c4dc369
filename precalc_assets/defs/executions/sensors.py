"""The sensors around executions: one meets requests, one sees to executions that no Dagster run follows."""

from collections.abc import Callable
from functools import wraps

import dagster as dg

from precalc_assets.defs.executions.jobs import COMPUTE_SHARDS, TRY_MODEL
from precalc_assets.defs.executions.requests import meet_requests
from precalc_assets.defs.executions.unfollowed import follow_unfollowed
from precalc_assets.defs.resources import Platform
from precalc_assets.errors import PrecalcError

_INTERVAL = 30

_Ticked = dg.SensorResult | dg.SkipReason
_Sensor = Callable[[dg.SensorEvaluationContext, Platform], _Ticked]


def _clear_skips(sensor: _Sensor) -> _Sensor:
    """Skip a tick with the reason in place of a traceback, where an error is meant for people."""

    @wraps(sensor)
    def tick(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> _Ticked:
        try:
            return sensor(context, platform)
        except PrecalcError as error:
            return dg.SkipReason(str(error))

    return tick


@dg.sensor(
    jobs=[TRY_MODEL, COMPUTE_SHARDS],
    minimum_interval_seconds=_INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Meets what `precalc request` asks for: adds the model, runs its canary, and then all its shards. A "
    "request for a sample ends with the canary.",
)
@_clear_skips
def precalculation_requests(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> _Ticked:
    """Return the runs that requests need next."""
    platform.library()
    return meet_requests(context, platform)


def github_executions(compute: str) -> dg.SensorDefinition:
    """Return the sensor that sees to executions on GitHub's runners; it is on where `compute` is github."""
    status = dg.DefaultSensorStatus.RUNNING if compute == "github" else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name="github_executions",
        jobs=[TRY_MODEL, COMPUTE_SHARDS],
        minimum_interval_seconds=_INTERVAL,
        default_status=status,
        description="Starts a run for each execution on GitHub's runners that no run follows, such as one that a "
        "person started in GitHub's UI, or whose run died. That run records what landed and retries what failed.",
    )
    @_clear_skips
    def sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> _Ticked:
        return follow_unfollowed(context, platform)

    return sensor
