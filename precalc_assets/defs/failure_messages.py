"""The sensor that posts a message about each failed run to a webhook, such as one of Slack's."""

import dagster as dg

from precalc_assets.defs.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)
from precalc_assets.defs.own_runs import PARENT_TAG, shorten, why_failed
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings

_LONGEST = 1_000
"""Characters of the reason in a message. The run has all of it."""

_TIMEOUT = 10.0
_RETRIES = 3


def failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor, which is on by default if the settings name a webhook."""

    @dg.run_failure_sensor(
        name="failure_messages",
        description="Posts a message about each failed run to PRECALC_FAILURE_WEBHOOK, as Slack reads it.",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if _url(settings) else dg.DefaultSensorStatus.STOPPED,
    )
    def failure_messages(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
        run = context.dagster_run
        # A run that another one started fails with it, unless a person repeats it. A retried one may yet succeed.
        is_part = PARENT_TAG in run.tags and not run.parent_run_id
        if _url(platform.settings) and not is_part and run.tags.get(WILL_RETRY_TAG) != "true":
            why = why_failed(context.get_step_failure_events()) or context.failure_event.message
            problem = post(_url(platform.settings), describe(run, why or "", platform.settings.ui_url))
            if problem:
                context.log.warning(problem)

    return failure_messages


def describe(run: dg.DagsterRun, why: str, ui_url: str) -> str:
    """Return the message about a failed run: what failed, on which model and partitions, why, and where to look."""
    tags = run.tags
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    what = ", ".join(assets) or run.job_name
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG, "")
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG, first)
    where = first if first == last else f"{first} to {last}"
    of = " ".join(part for part in (tags.get("model", ""), where and f"({where})") if part)
    link = f"{ui_url.rstrip('/')}/runs/{run.run_id}" if ui_url else f"run {run.run_id}"
    return "\n".join([f"precalc: {what}{f' of {of}' if of else ''} failed", shorten(why, _LONGEST), link])


def post(url: str, text: str) -> str:
    """Post a message, and return why that failed, or an empty string. The URL is a secret, so nothing names it."""
    # httpx takes a tenth of a second to load, and only failures need it.
    import httpx

    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=_RETRIES), timeout=_TIMEOUT) as client:
            answer = client.post(url, json={"text": text})
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = type(error).__name__
    else:
        if answer.is_success:
            return ""
        why = f"HTTP {answer.status_code}"
    return f"no message was sent: {why}; check PRECALC_FAILURE_WEBHOOK"


def _url(settings: Settings) -> str:
    return settings.failure_webhook.get_secret_value()
