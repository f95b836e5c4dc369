"""The sensors around executions: what asks for them, what settles them, and what tries again what failed.

Each ticks at most every 30 seconds and works for less than 40. What they do is in `requests` and `settling`, which are
imported at the first tick: githubkit takes a third of a second to load, and every run loads this module.
"""

from collections.abc import Callable
from functools import wraps

import dagster as dg

from precalc_assets.defs.resources import Platform
from precalc_assets.errors import PrecalcError
from precalc_assets.settings import load_settings

_INTERVAL = 30

_WITH_GITHUB = dg.DefaultSensorStatus.RUNNING if load_settings().compute == "github" else dg.DefaultSensorStatus.STOPPED

Ticked = dg.SensorResult | dg.SkipReason
_Sensor = Callable[[dg.SensorEvaluationContext, Platform], Ticked]


def _clear_skips(sensor: _Sensor) -> _Sensor:
    """Have a tick skip with an error that is meant for people as its reason, in place of a traceback."""

    @wraps(sensor)
    def tick(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> Ticked:
        try:
            return sensor(context, platform)
        except PrecalcError as error:
            return dg.SkipReason(str(error))

    return tick


REQUESTED_JOBS = {
    asset: dg.define_asset_job(f"requested_{asset}", selection=dg.AssetSelection.assets(asset))
    for asset in ("sample_predictions", "raw_predictions")
}
"""The jobs of requests, by asset: one job can have no assets of different partitions."""


@dg.sensor(
    jobs=list(REQUESTED_JOBS.values()),
    minimum_interval_seconds=_INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Meets what `precalc request` asks for: adds the model, runs its canary, and then all its shards. A "
    "request for a sample ends with the canary.",
)
@_clear_skips
def precalculation_requests(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> Ticked:
    """Ask for the runs that requests need next."""
    from precalc_assets.defs.executions.requests import meet_requests

    platform.library()
    return meet_requests(context, platform)


@dg.sensor(
    minimum_interval_seconds=_INTERVAL,
    default_status=_WITH_GITHUB,
    description="Settles executions on GitHub's runners that no Dagster run follows, as those that people start there, "
    "and reports the shards and canaries that they have brought.",
)
@_clear_skips
def github_executions(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> Ticked:
    """Settle and report."""
    from precalc_assets.defs.executions.settling import Position, Tick, alone, settle_unfollowed

    with alone(context.instance) as mine:
        if not mine:
            return dg.SkipReason("the tick before is still at work")
        told, position = settle_unfollowed(Tick(context, platform), Position.of(context.cursor))
    return dg.SensorResult(
        skip_reason=f"{told} events of shards and canaries reported" if told else None,
        cursor=position.model_dump_json(),
    )


@dg.sensor(
    minimum_interval_seconds=_INTERVAL,
    default_status=_WITH_GITHUB,
    description="Has shards tried again that failed on GitHub's runners and that no Dagster run follows: three times "
    "in all, each time with the reasons so far. The sensor github_executions launches and settles what this one opens.",
)
@_clear_skips
def failed_shards(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> Ticked:
    """Open executions for what failed."""
    from precalc_assets.defs.executions.settling import Position, Tick, launch_again

    opened, position = launch_again(Tick(context, platform), Position.of(context.cursor))
    for intent in opened:
        for shard in intent.shards:
            before = "; ".join(intent.reasons.get(shard, ())) or "there was no time left for it"
            context.log.info(f"{intent.key}: shard {shard}, attempt {intent.attempt(shard)}; before: {before}")
    return dg.SensorResult(cursor=position.model_dump_json())
