"""The asset `hub_status`: all models at a glance, with the sensor that refreshes it.

The facts are those of `precalc status`; see `model_progress`. Dagster adds why the last run of a model failed, where
the store does not know.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from precalc.identifiers import is_model_id
from precalc_assets.campaigns.campaign_records import find_latest
from precalc_assets.defs.own_runs import shorten, why_failed
from precalc_assets.defs.partitions import MODELS
from precalc_assets.defs.recording import own_step
from precalc_assets.defs.ui_metadata import Metadata, heat_map, markdown_table
from precalc_assets.model_progress import ModelProgress, find_all_progress
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import CanaryReport

REFRESH_STATUS = dg.define_asset_job(
    "refresh_status",
    selection="hub_status",
    description="Looks up again how far all models are.",
)

_LONGEST, _LONGEST_OF_MODEL = 200, 70
"""Characters of a reason in the table of failures, and in that of models, whose rows are a line each."""

_RUNS = 100
"""The most of the newest runs that a tick looks at."""


@dg.asset(
    deps=["model_card"],
    group_name="serving",
    pool="library",
    description="How far all models are: canary, shards at each stage, quarantined molecules, cost so far, why "
    "something failed, and the latest campaign. Refreshed some minutes after a run has ended.",
)
def hub_status(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None]]:
    """Look up how far all models are."""
    with own_step(context):
        models = {*context.instance.get_dynamic_partitions(MODELS), *platform.tables.list_tables()}
        progress = find_all_progress(platform, sorted(filter(is_model_id, models)))
        reasons = {
            each.model: each.failures() or ([] if each.complete else _last_failure(context.instance, each.model))
            for each in progress
        }
        price = platform.settings.runner_price
        campaign = find_latest(platform.store)
        said = {"campaign": campaign.headline(price)} if campaign else {}
        yield dg.MaterializeResult(metadata={**said, **status_metadata(progress, reasons, price)})


@dg.sensor(
    name="hub_status",
    job=REFRESH_STATUS,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Refreshes the asset hub_status if a run has ended since, at most every five minutes.",
)
def hub_status_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a refresh if a run other than a refresh has ended since the last one."""
    now = time.time()
    since = datetime.fromtimestamp(float(context.cursor or 0), UTC)
    records = context.instance.get_run_records(dg.RunsFilter(updated_after=since), limit=_RUNS)
    runs = [record.dagster_run for record in records]
    if not any(run.is_finished and run.job_name != REFRESH_STATUS.name for run in runs):
        return dg.SkipReason("no run has ended since")
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=str(now))


def status_metadata(progress: Sequence[ModelProgress], reasons: dict[str, list[str]], runner_price: float) -> Metadata:
    """Return what the UI shows of all models. `reasons` says of each why something failed."""
    hours = sum(each.runner_hours for each in progress)
    shards = len(progress[0].shards) if progress else 0
    rows = [
        (
            each.model,
            _canary(each.report),
            *(f"{len(there)}/{shards}" for there in (each.raw, each.predicted, each.served)),
            f"{each.quarantined:,}",
            f"{each.runner_hours:,.2f}",
            _short(reasons[each.model], _LONGEST_OF_MODEL),
        )
        for each in progress
    ]
    head = ("model", "canary", "raw", "predictions", "table", "quarantined", "hours", "why")
    # Messages that differ only in numbers have the same reason.
    kinds = {re.sub(r"\d+", "", why): why for each in reasons.values() for why in reversed(each)}
    counts = Counter(re.sub(r"\d+", "", why) for each in reasons.values() for why in each)
    failures = [(f"{count:,}", _short([kinds[kind]])) for kind, count in counts.most_common()]
    return {
        "complete": f"{sum(each.complete for each in progress)} of {len(progress)} models",
        "models": markdown_table(head, rows),
        "shards": heat_map([(each.model, each.stages()) for each in progress]),
        "failures": markdown_table(("times", "why"), failures) if failures else "none",
        "runner_hours": round(hours, 3),
        "dollars": round(hours * runner_price, 2),
    }


def _canary(report: CanaryReport | None) -> str:
    return "–" if report is None else f"{report.release} {'failed' if report.broken else 'passed'}"


def _short(reasons: Sequence[str], longest: int = _LONGEST) -> str:
    """Return the first reason, without the model and the shard, and the number of the others."""
    said = re.sub(r"^shard \S+ of \S+: ", "", " ".join(reasons[0].split())) if reasons else ""
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return shorten(said, longest) + more


def _last_failure(instance: dg.DagsterInstance, model: str) -> list[str]:
    """Return why the last ended run of a model failed, if it did."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    for run in instance.get_runs(dg.RunsFilter(tags={"model": model}, statuses=ended), limit=1):
        records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
        events = [record.event_log_entry.dagster_event for record in records]
        return [why for event in events if event and (why := why_failed([event]))]
    return []
