"""The assets `hub_status`, all models at a glance, and `campaign_status`, with the sensor that refreshes them.

The facts are those of `precalc status` and `precalc campaign status`; see `model_progress` and `campaign_report`.
Dagster adds why the last run of a model failed, where the store does not know.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg

from precalc.identifiers import is_model_id
from precalc_assets.campaigns.campaign_records import Campaign, find_latest
from precalc_assets.campaigns.campaign_report import HEAD, next_command, report_models
from precalc_assets.defs.own_runs import shorten, why_failed
from precalc_assets.defs.partitions import MODELS
from precalc_assets.defs.recording import own_step
from precalc_assets.defs.ui_metadata import Metadata, heat_map, markdown_table
from precalc_assets.model_progress import ModelProgress, find_all_progress
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import CanaryReport

REFRESH_STATUS = dg.define_asset_job(
    "refresh_status",
    selection=["hub_status", "campaign_status"],
    description="Looks up again how far all models are, and the campaign.",
)

_LONGEST, _LONGEST_OF_MODEL = 200, 70
"""Characters of a reason in the table of failures, and in that of models, whose rows are a line each."""

_RUNS = 100
"""The most of the newest runs that a tick looks at."""


@dg.multi_asset(
    name="status",
    pool="library",
    specs=[
        dg.AssetSpec(
            "hub_status",
            deps=["model_card"],
            group_name="serving",
            description="How far all models are: canary, shards at each stage, quarantined molecules, cost so far, and "
            "why something failed. Refreshed some minutes after a run has ended.",
        ),
        dg.AssetSpec(
            "campaign_status",
            deps=["model_card"],
            group_name="serving",
            description="How the latest campaign stands: what was spent of its budget, what runs, what waits and why, "
            "failures by reason, and the command that goes on. Refreshed with hub_status.",
        ),
    ],
)
def status(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None]]:
    """Look up how far all models are, and how the campaign stands."""
    with own_step(context):
        known = {*context.instance.get_dynamic_partitions(MODELS), *platform.tables.list_tables()}
        campaign = find_latest(platform.store)
        models = known.union(campaign.intent.models if campaign else ())
        progress = {each.model: each for each in find_all_progress(platform, sorted(filter(is_model_id, models)))}
        reasons = {
            model: each.failures() or ([] if each.complete else _last_failure(context.instance, model))
            for model, each in progress.items()
        }
        metadata = status_metadata([*progress.values()], reasons, platform.settings.runner_price)
        yield dg.MaterializeResult(asset_key="hub_status", metadata=metadata)
        metadata = campaign_metadata(platform, campaign, progress) if campaign else {"campaign": "there is none yet"}
        yield dg.MaterializeResult(asset_key="campaign_status", metadata=metadata)


@dg.sensor(
    name="hub_status",
    job=REFRESH_STATUS,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Refreshes hub_status and campaign_status if a run has ended since, at most every five minutes.",
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


def status_metadata(
    progress: Sequence[ModelProgress], reasons: Mapping[str, Sequence[str]], runner_price: float
) -> Metadata:
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
    return {
        "complete": f"{sum(each.complete for each in progress)} of {len(progress)} models",
        "models": markdown_table(head, rows),
        "shards": heat_map([(each.model, each.stages()) for each in progress]),
        "failures": _failures(reasons),
        "runner_hours": round(hours, 3),
        "dollars": round(hours * runner_price, 2),
    }


def campaign_metadata(platform: Platform, campaign: Campaign, progress: Mapping[str, ModelProgress]) -> Metadata:
    """Return what the UI shows of a campaign. `progress` has its models."""
    price, said = platform.settings.runner_price, campaign.progress.read()
    facts: Metadata = {"campaign": campaign.headline(price)}
    if said is None:
        return facts
    rows = report_models(platform.store, platform.settings, said)
    if command := next_command(campaign, said):
        facts["next"] = dg.MetadataValue.md(command)
    failures = {model: [each.why] for model, each in said.models.items() if each.why and each.standing != "left out"}
    table = [(*cells, _short([_unnamed(cells[0], why) for why in whys], _LONGEST_OF_MODEL)) for cells, whys in rows]
    return {
        **facts,
        "models": markdown_table((*HEAD, "why"), table),
        "shards": heat_map([(cells[0], progress[cells[0]].stages()) for cells, _ in rows]),
        "failures": _failures(failures),
        "runner_hours": round(said.spent_hours, 3),
        "dollars": round(said.spent_hours * price, 2),
        "as_of": dg.MetadataValue.timestamp(said.seen_at),
    }


def _failures(reasons: Mapping[str, Sequence[str]]) -> dg.MetadataValue | str:
    """Return a table of the reasons and how often each is given. Those that differ only in numbers are one."""
    given = [_unnamed(model, why) for model, whys in reasons.items() for why in whys]
    kinds = {re.sub(r"\d+", "", why): why for why in reversed(given)}
    counts = Counter(re.sub(r"\d+", "", why) for why in given)
    rows = [(f"{count:,}", _short([kinds[kind]])) for kind, count in counts.most_common()]
    return markdown_table(("times", "why"), rows) if rows else "none"


def _unnamed(model: str, why: str) -> str:
    """Return a reason without the model's id, so that reasons of several models are equal."""
    return why.removeprefix(f"{model} ").replace(model, "eos…")


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
