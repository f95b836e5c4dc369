"""Bringing one execution a step further, to the record that says what came of it.

Manifests are the truth: a shard has landed when its manifest is there, whatever became of its job, and a green job
without one has failed. Following many executions, and trying again, is in `following`.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import obstore
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.errors import ShardError
from precalc_assets.executions import records
from precalc_assets.executions.github import (
    GitHub,
    GitHubError,
    Job,
    NotNowError,
    RefusedError,
    UnansweredError,
    WorkflowRun,
)
from precalc_assets.executions.jobs import computed_shards, queue_seconds, runner_seconds, summarise
from precalc_assets.executions.launch import CLOCKS, GRACE, LOOK, Failed, Waiting, advance, not_before, workflow_inputs
from precalc_assets.executions.records import CANCELLED, NOT_LAUNCHED, SAMPLE, VANISHED, Intent, JobSummary, Settled
from precalc_assets.inference import find_report
from precalc_assets.inference.parts import has_parts, outcome
from precalc_assets.library import LibraryManifest
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions import find_manifest
from precalc_assets.settings import Settings

_NOT_FOUND, _CONFLICT = 404, 409

_FORCE_AFTER = timedelta(seconds=60)
"""How long a run is given to end by itself after it was cancelled; then it is forced."""


@dataclass(frozen=True)
class Runners:
    """GitHub's runners as one installation uses them; `say` is told what a person who waits wants to know."""

    store: ObjectStore
    github: GitHub
    settings: Settings
    say: Callable[[str], None] = lambda _: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Underway:
    """An execution whose run has not ended, and its jobs so far."""

    run: WorkflowRun
    jobs: tuple[JobSummary, ...]
    counts: Counter[str]


def step(runners: Runners, library: LibraryManifest, intent: Intent) -> Settled | Underway | Waiting:
    """Bring an execution one step further: launch it, look at its run, or settle it when the run has ended.

    If it is to be cancelled, GitHub is asked for that first, at each step until the run has ended. Any number may do
    this at the same time, and each does no more than one POST. Before a rate limit is over, whoever met it, GitHub is
    asked for nothing but a cancellation. Raises RefusedError if GitHub does not show the run, as after a token has
    expired.
    """
    store, github, now = runners.store, runners.github, runners.now()
    settled = records.find_settled(store, intent.key)
    if settled:
        return settled
    cancel = records.find_cancel(store, intent.key)
    if cancel:
        _cancel_run(runners, intent, force=now >= cancel.asked_at + _FORCE_AFTER)
    limit = records.find_limit_on_all(store)
    if limit and now < limit.not_before:
        return Waiting(limit.not_before, limit.message)
    state = advance(store, github, intent, workflow_inputs(intent, runners.settings), now)
    if isinstance(state, Waiting):
        return state
    if isinstance(state, Failed):
        failures = dict.fromkeys(records.items(intent), state.reason)
        return records.put_settled(
            store, intent.key, Settled(conclusion=NOT_LAUNCHED, failures=failures, settled_at=now)
        )
    try:
        run = _find_run(runners, intent, state.run_id)
        if run is None and now < _launched_at(store, intent) + GRACE:
            return Waiting(now + LOOK, f"GitHub does not show run {state.run_id} yet")
        jobs = tuple(github.list_jobs(run.id)) if run else ()
    except (NotNowError, UnansweredError) as error:
        return Waiting(not_before(store, error, now), str(error))
    if run and not run.completed:
        counts = Counter(job.status for job in jobs)
        return Underway(run, summarise(runners.settings.n_shards, jobs), counts)
    claim = records.close(store, intent.key, "its run ended before it began to compute")
    if claim.run_id not in (state.run_id, records.NOBODY):
        return Waiting(now + LOOK, f"run {state.run_id} came second; run {claim.run_id} computes this")
    return records.put_settled(store, intent.key, _conclude(runners, library, intent, run, jobs))


def _cancel_run(runners: Runners, intent: Intent, *, force: bool) -> None:
    """Keep runs that have not begun from computing, and ask GitHub to cancel the run that there is."""
    records.close(runners.store, intent.key, "it was cancelled")
    run_id = records.find_run_id(runners.store, intent.key)
    if run_id is None:
        return
    try:
        runners.github.cancel(run_id, force=force)
    except GitHubError as error:
        # GitHub says 409 of a run that has ended. If another run goes on, the next step asks again.
        if not isinstance(error, RefusedError) or error.status != _CONFLICT:
            not_before(runners.store, error, runners.now())
            runners.say(str(error))


def find_landed(runners: Runners, library: LibraryManifest, model: str, shard: str) -> ShardOutcome | None:
    """Return the outcome of a shard whose raw predictions are there, of this library and of the canary's release.

    The outcome can be a failure, if too many molecules are quarantined. Raises ShardError if the manifest is damaged.
    """
    manifest = find_manifest(runners.store, model, shard)
    if manifest is None or manifest.shard_digest != library.shards[shard].digest:
        return None
    canary = find_report(runners.store, model)
    if canary and not canary.is_of(manifest.release, manifest.columns):
        return None
    return outcome(manifest, runners.settings.max_failure_rate) if has_parts(runners.store, manifest) else None


def _conclude(
    runners: Runners, library: LibraryManifest, intent: Intent, run: WorkflowRun | None, jobs: Sequence[Job]
) -> Settled:
    """Say what came of an execution whose run has ended, or has vanished."""
    store = runners.store
    ended = (run.conclusion or "unknown") if run else VANISHED
    cancelled = records.find_cancel(store, intent.key) is not None
    landed: list[str] = []
    unfinished: list[str] = []
    failures: dict[str, str] = {}
    for item in records.items(intent):
        report = records.find_report(store, intent.key, item)
        found = _find_item(runners, library, intent, item, landed_if=ended == "success" and report is None)
        if found and found.landed:
            landed.append(item)
        elif found:
            failures[item] = found.failure
        elif report and report.unfinished:
            unfinished.append(item)
        else:
            failures[item] = report.failure if report else _why_not(runners, item, run, jobs)
    if unfinished and (cancelled or not (landed or _has_progressed(store, intent))):
        why = "there was no time to finish a batch, nor was there the time before"
        failures |= dict.fromkeys(unfinished, "it was cancelled" if cancelled else why)
        unfinished = []
    return Settled(
        conclusion=CANCELLED if cancelled else ended,
        url=run.html_url if run else "",
        jobs=summarise(runners.settings.n_shards, jobs),
        landed=tuple(landed),
        unfinished=tuple(unfinished),
        failures=failures,
        queue_seconds=queue_seconds(run, jobs) if run else 0.0,
        runner_seconds=sum(map(runner_seconds, jobs)),
        settled_at=runners.now(),
    )


def _find_item(
    runners: Runners, library: LibraryManifest, intent: Intent, item: str, *, landed_if: bool
) -> ShardOutcome | None:
    """Return what there is of a shard; of a sample there is what its job says."""
    if item == SAMPLE:
        return ShardOutcome(SAMPLE) if landed_if and find_report(runners.store, intent.model) else None
    try:
        return find_landed(runners, library, intent.model, item)
    except ShardError as error:
        return ShardOutcome(item, failure=str(error))


def _why_not(runners: Runners, item: str, run: WorkflowRun | None, jobs: Sequence[Job]) -> str:
    if run is None:
        return "its run is gone from GitHub, and there are no raw predictions"
    job = next((job for job in jobs if item in computed_shards(runners.settings.n_shards, job)), None)
    if job is None:
        return f"its run ended ({run.conclusion}) without a job for it: {run.html_url}"
    return f"its job ended ({job.conclusion}) without raw predictions: {job.html_url or run.html_url}"


def _has_progressed(store: ObjectStore, intent: Intent) -> bool:
    """Return whether anything was computed for an execution's shards since it was opened."""
    return any(
        entry["last_modified"] >= intent.created_at
        for shard in intent.shards
        for chunk in obstore.list(store, storage.raw_prefix(intent.model, shard))
        for entry in chunk
    )


def _find_run(runners: Runners, intent: Intent, run_id: int) -> WorkflowRun | None:
    """Return an execution's run; None if it is gone. Raises GitHubError, also where GitHub shows no runs at all."""
    try:
        return runners.github.get_run(run_id)
    except RefusedError as error:
        if error.status != _NOT_FOUND:
            raise
    # It says so, too, of everything that a token may not see.
    listed = runners.github.list_runs(intent.created_at - CLOCKS)
    return next((run for run in listed if run.id == run_id), None)


def _launched_at(store: ObjectStore, intent: Intent) -> datetime:
    return max([intent.created_at, *(dispatch.posted_at for dispatch in records.list_dispatches(store, intent.key))])
