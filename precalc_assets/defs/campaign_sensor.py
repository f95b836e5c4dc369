"""The campaign in Dagster: its runs as plain values, by which `precalc_assets.campaigns` decides, and what it launches.

A run that failed is read once more for the reason: which of the model and the infrastructure was at fault.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg

from precalc_assets.campaigns.campaign_plan import Ending
from precalc_assets.campaigns.campaign_records import find_unfinished
from precalc_assets.campaigns.campaign_tick import CampaignRun, tick
from precalc_assets.defs.attempts import TRY_MODEL, Attempts, any_under_way, new_models
from precalc_assets.defs.own_runs import shorten, why_step_failed
from precalc_assets.defs.recording import MODELS_FAULT
from precalc_assets.platform import Platform

CAMPAIGN_TAG = "precalc/campaign"

_LONGEST_REASON = 300

_LAST_ENTRIES = 10
"""Entries of a dead run's log to look through for its last own one."""

_ENDED: dict[str, CampaignRun] = {}
"""The runs that have ended, by id. They do not change, and the log of each takes some 12 ms to read."""


def advance_campaign(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Return the runs that the unfinished campaign needs next, and cancel those of a stopped one.

    Raises PrecalcError if there is no library, a setting of the compute backend is missing, or a record is damaged.
    """
    campaign = find_unfinished(platform.store)
    if campaign is None:
        return dg.SkipReason("no campaign is under way; `precalc campaign start` starts one")
    settings, instance = platform.settings, context.instance
    platform.library()
    if settings.compute != "local":
        platform.engine(context.log.info, patient=False)  # otherwise each canary would fail for a missing setting
    records = instance.get_run_records(dg.RunsFilter(tags={CAMPAIGN_TAG: campaign.id}))
    runs = [record.dagster_run for record in records]
    seen = [_campaign_run(instance, record, runs) for record in reversed(records)]
    plan = tick(campaign, seen, settings, datetime.now(UTC), context.log.warning)
    if plan.phase == "stopping":
        for run in runs:
            waits = not run.is_finished and run.status is not dg.DagsterRunStatus.CANCELING
            if waits and not instance.run_coordinator.cancel_run(run.run_id):
                context.log.warning(f"run {run.run_id} cannot be cancelled from here; terminate it in Dagster's UI")
    requests: list[dg.RunRequest] = []
    for model in plan.launches:
        own = [run for run in runs if run.tags["model"] == model]
        if plan.phase == "canaries":
            requests.append(Attempts("sample_predictions", CAMPAIGN_TAG, campaign.id, own).next_run(model, model, {}))
        else:
            shards = Attempts("raw_predictions", CAMPAIGN_TAG, campaign.id, own)
            requests.append(shards.next_of_shards(model, settings.n_shards))
    said = f"campaign {campaign.id}: {plan.phase}" + (f"; nothing is launched: {plan.held}" if plan.held else "")
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else dg.SkipReason(said),
        dynamic_partitions_requests=new_models(instance, set(plan.launches)),
    )


def _campaign_run(instance: dg.DagsterInstance, record: dg.RunRecord, runs: Sequence[dg.DagsterRun]) -> CampaignRun:
    run = record.dagster_run
    began = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None
    seen = CampaignRun(run.tags["model"], run.job_name == TRY_MODEL.name, began)
    is_retried = any(each.parent_run_id == run.run_id for each in runs)
    if not run.is_finished or (any_under_way([run]) and not is_retried):
        return seen
    if run.run_id not in _ENDED:
        _ENDED[run.run_id] = _ended_run(instance, record, seen)
    return _ENDED[run.run_id]


def _ended_run(instance: dg.DagsterInstance, record: dg.RunRecord, seen: CampaignRun) -> CampaignRun:
    run = record.dagster_run
    ended = datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
    if run.is_success:
        return replace(seen, ended=ended, ending=Ending.done)
    if run.status is dg.DagsterRunStatus.CANCELED:
        return replace(seen, ended=ended, ending=Ending.cancelled, why=f"run {run.run_id[:8]} was cancelled")
    failures = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id, failures) if entry.dagster_event]
    for event in events:
        if event.is_step_failure:
            ending, why = _fault(event)
            return replace(seen, ended=ended, ending=ending, why=shorten(" ".join(why.split()), _LONGEST_REASON))
    # The run died, and is reported when that is noticed, perhaps days later. Its own last entry says when it was alive.
    last = instance.get_records_for_run(run.run_id, limit=_LAST_ENTRIES, ascending=False).records
    alive = next((each.timestamp for each in last if not _is_report(each.event_log_entry)), ended.timestamp())
    why = next((event.message for event in events if event.message), "its process died and gave no reason")
    ended = min(ended, datetime.fromtimestamp(alive, UTC))
    return replace(seen, ended=ended, ending=Ending.infrastructure, why=shorten(" ".join(why.split()), _LONGEST_REASON))


def _fault(event: dg.DagsterEvent) -> tuple[Ending, str]:
    """Return whether the model or the infrastructure was at fault for a failed step, and why it failed."""
    said = event.step_failure_data.user_failure_data
    models_fault = said.metadata.get(MODELS_FAULT) if said else None
    return Ending.broken if models_fault and models_fault.value else Ending.infrastructure, why_step_failed(event)


def _is_report(entry: dg.EventLogEntry) -> bool:
    """Return whether an entry of a run's log was written by Dagster about the run, and not by the run."""
    event = entry.dagster_event
    return event is not None and event.event_type in (
        dg.DagsterEventType.RUN_FAILURE,
        dg.DagsterEventType.ENGINE_EVENT,
    )
