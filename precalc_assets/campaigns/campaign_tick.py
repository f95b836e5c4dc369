"""A tick of a campaign: gather what is known of its models, decide by `campaign_plan`, and record what was seen.

Runs are Dagster's; here they are plain values. Whoever calls `tick` launches what it returns. Each launch has a key, so
a tick that is lost or repeated does no harm.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.campaigns.campaign_plan import CampaignState, Ending, ModelState, Plan, Stage, next_launches
from precalc_assets.campaigns.campaign_records import Campaign, CampaignIntent, End, ModelStanding, Progress
from precalc_assets.executions.records import Cancellation, list_executions, unsettled
from precalc_assets.outcomes import FAILURES, reason
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.canary_report import CanaryReport, find_report
from precalc_assets.predictions.shard_manifest import find_manifest, manifest_name
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

_HOUR = timedelta(hours=1)

LATE = timedelta(seconds=90)
"""How long a stopped campaign stays open. A tick that began before the stop, and may take 60 seconds, can still launch
a run, which the next tick cancels."""


@dataclass(frozen=True)
class CampaignRun:
    """A run of a model's canary, or of its shards. `ending` is None while it is under way, `began` while it waits.

    A failure that the model is not known to be at fault for is one of the infrastructure; `tick` looks whether
    something new had landed before it.
    """

    model: str
    is_canary: bool
    began: datetime | None
    ended: datetime | None = None
    ending: Ending | None = None
    why: str = ""

    def hours(self, now: datetime) -> float:
        """Return how long the run has taken."""
        return max(0.0, ((self.ended or now) - self.began) / _HOUR) if self.began else 0.0


def tick(
    campaign: Campaign, runs: Sequence[CampaignRun], settings: Settings, now: datetime, warn: Callable[[str], None]
) -> Plan:
    """Return what to launch, given all runs of an unfinished campaign, oldest first; record progress, and the end.

    The executions of a stopped campaign are cancelled; its runs are the caller's to cancel. Raises CampaignError if a
    record is damaged, or the budget bounds nothing.
    """
    store, intent = campaign.store, campaign.intent
    before, pause, stop = campaign.progress.read(), campaign.pause.read(), campaign.stop.read()
    runs = [_judge(store, run) for run in runs]
    executions, at_work = _execution_hours(store, intent, before.executions if before else {}, warn)
    local = settings.compute == "local"
    states: list[ModelState] = []
    seen: dict[str, ModelStanding] = {}
    for model in intent.models:
        own = [run for run in runs if run.model == model]
        canaries, shard_runs = ([run for run in own if run.is_canary is wanted] for wanted in (True, False))
        state = ModelState(
            model,
            canary=_stage(canaries, at_work=model in at_work and not shard_runs),
            shards=_stage(shard_runs, at_work=model in at_work),
            spent=sum(run.hours(now) for run in own if run.ended and local) + _hours_of(model, executions),
            running=sum(run.hours(now) for run in own if not run.ended and local),
        )
        known = before.models.get(model) if before else None
        hours, landed = _estimate(store, state, known, settings.n_shards)
        missing = 1 - landed / settings.n_shards
        states.append(replace(state, hours=hours * missing if missing else 0.0))
        seen[model] = ModelStanding(
            standing="waiting", hours=hours or None, landed=landed, spent_hours=state.spent + state.running
        )
    plan = next_launches(
        CampaignState(
            models=states,
            jobs=intent.jobs,
            limit=intent.most_hours(settings.runner_price),
            pinned=intent.pinned,
            approved=campaign.approval.read() is not None,
            paused=bool(pause and pause.paused),
            stopped=bool(stop),
            failures=_failures_in_a_row(runs, pause.changed_at if pause else intent.started_at),
        )
    )
    if stop and (_cancel_executions(campaign, now) or now < stop.requested_at + LATE):
        plan = replace(plan, phase="stopping")
    campaign.progress.put(
        Progress(
            phase=plan.phase,
            held=plan.held,
            models={
                model: seen[model].model_copy(update={"standing": standing, "why": why})
                for model, (standing, why) in plan.models.items()
            },
            executions=executions,
            seen_at=now,
        )
    )
    if plan.phase == "finished" or plan.phase == "stopped":
        campaign.end.create(End(conclusion=plan.phase, ended_at=now))
    return plan


def _judge(store: ObjectStore, run: CampaignRun) -> CampaignRun:
    """Return a failed run of shards as cut off if something new had landed, and any other run as it is.

    A canary on a cluster goes on when its run dies. Then its report says how it ended.
    """
    began, ended = run.began, run.ended
    if run.ending is not Ending.infrastructure or began is None or ended is None:
        return run
    if run.is_canary:
        report = find_report(store, run.model)
        if report is None or report.finished_at < began:
            return run
        why = "; ".join(f"{check.name}: {check.description}" for check in report.broken)
        return replace(run, ending=Ending.broken if why else Ending.done, why=why)
    times = (entry["last_modified"] for entry in storage.list_objects(store, f"raw/model={run.model}"))
    new = any(began <= time <= ended for time in times)
    return replace(run, ending=Ending.cut_off) if new else run


def _stage(runs: Sequence[CampaignRun], *, at_work: bool) -> Stage:
    """Return what is known of a stage by its runs, oldest first.

    A run is done when all shards have landed. It is under way until its execution is settled, which tells its hours.
    """
    if not runs:
        return Stage()
    in_a_row = takewhile(lambda run: run.ending is Ending.infrastructure, reversed(runs))
    return Stage(
        runs=len(runs),
        under_way=any(run.ending is None for run in runs) or (at_work and runs[-1].ending is Ending.done),
        ending=runs[-1].ending,
        failures=sum(1 for _ in in_a_row),
        why=runs[-1].why,
    )


def _failures_in_a_row(runs: Sequence[CampaignRun], since: datetime) -> list[str]:
    """Return the reasons of the last failures of the infrastructure that no run of another ending came after.

    Of runs that were under way together one counts: a kill of Dagster ends them all.
    """
    ended = [(run.ended, run) for run in runs if run.ended and run.ended > since]
    latest = (run for _, run in sorted(ended, key=lambda pair: pair[0], reverse=True))
    counted = (run for run in latest if run.ending is not Ending.cancelled)
    whys: list[str] = []
    before = datetime.max.replace(tzinfo=UTC)
    for run in takewhile(lambda run: run.ending is Ending.infrastructure, counted):
        if run.ended and run.ended <= before:
            before = run.began or run.ended
            whys.append(run.why)
    return whys[::-1]


def _estimate(store: ObjectStore, state: ModelState, known: ModelStanding | None, n_shards: int) -> tuple[float, int]:
    """Return the canary's estimate of the hours for all shards, and how many have landed; 0 before it has passed.

    Both are kept from the last tick unless a run has ended since. What a run under way has landed does not count yet,
    since its hours may not be known before it ends.
    """
    if not state.has_passed:
        return 0.0, 0
    if known and known.hours and (known.standing != "computing" or state.shards.under_way):
        return known.hours, known.landed
    report = find_report(store, state.model)
    if report is None or report.run is None:
        return math.inf, 0
    return report.run.runner_hours, count_landed(store, report, n_shards)


def count_landed(store: ObjectStore, report: CanaryReport, n_shards: int) -> int:
    """Return the number of shards with raw predictions of the canary's release, or of one that it reproduces."""
    reproduces = report.adoption is not None and report.adoption.equal
    names = storage.list_sizes(store, f"raw/model={report.model}")
    landed = 0
    for shard in shard_keys(n_shards):
        if manifest_name(report.model, shard) not in names:
            continue
        try:
            manifest = find_manifest(store, report.model, shard)
        except ShardError:  # the shard is computed again
            continue
        landed += manifest is not None and (reproduces or report.is_of(manifest.release, manifest.columns))
    return landed


def _execution_hours(
    store: ObjectStore, intent: CampaignIntent, known: Mapping[str, float], warn: Callable[[str], None]
) -> tuple[dict[str, float], set[str]]:
    """Return the runner-hours of the campaign's settled executions, by key, and the models of those not settled yet.

    Executions before the campaign have 0 hours.
    """
    found = dict(known)
    at_work: set[str] = set()
    for execution in list_executions(store):
        if execution.key in found or execution.model not in intent.models:
            continue
        try:
            settled, is_ours = execution.settled.read(), execution.intent.created_at >= intent.started_at
            if settled:
                found[execution.key] = settled.runner_seconds / 3600 if is_ours else 0.0
            elif is_ours:
                at_work.add(execution.model)
        except FAILURES as error:
            warn(f"the hours of {execution.key} do not count: {reason(error)}")
    return found, at_work


def _hours_of(model: str, executions: Mapping[str, float]) -> float:
    return sum(hours for key, hours in executions.items() if key.rpartition("-")[0] == model)


def _cancel_executions(campaign: Campaign, now: datetime) -> bool:
    """Record the wish to cancel the campaign's executions, and return whether any is not settled.

    The runs that follow them, or the sensor `executions`, do the rest.
    """
    left = [
        execution
        for execution in unsettled(campaign.store)
        if execution.model in campaign.intent.models and execution.intent.created_at >= campaign.intent.started_at
    ]
    for execution in left:
        execution.cancellation.create(Cancellation(requested_at=now))
    return bool(left)
