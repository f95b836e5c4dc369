"""Launching an execution: from its intent to the one run that computes it, a step at a time, over its records.

A dispatch must never run twice, and never be lost. A step may be taken by anybody, at any time, after any crash, by
several at once; what it finds in the records tells it what to do:

1. A claimed execution has its run. So has one with a run on record; the claim is right where they differ.
2. Before each POST its dispatch is announced, create-only: who cannot announce it does not post. So an execution
   without a dispatch has no run, and with one it may have, whatever became of whoever announced it.
3. After a POST without an answer the runs are looked through for the key, in their run-names, and nothing is posted
   until a grace is over; after one that GitHub refused for now, not before the time that GitHub named.
4. A run that turns up after that grace is a second one, and finds the claim taken.
5. To give up is to claim for nobody: a run that turns up afterwards computes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from obstore.store import ObjectStore

from precalc_assets.executions import records
from precalc_assets.executions.github import (
    GitHub,
    GitHubError,
    LimitError,
    NotNowError,
    RefusedError,
    WorkflowRun,
)
from precalc_assets.executions.records import Answer, Dispatch, Intent, Limit, Run
from precalc_assets.settings import Settings
from precalc_assets.sharding import contiguous_ranges

GRACE = timedelta(seconds=180)
"""How long a run that nobody answered for is looked for. GitHub's lists were seen to lag by less."""

LOOK = timedelta(seconds=15)
"""Between two looks at GitHub: 240 requests an hour for an execution, of an App's 5,000."""

MOST_DISPATCHES = 4
"""POSTs without an answer before an execution is given up: twelve minutes of an API that answers none."""

CLOCKS = timedelta(minutes=10)
"""By how much GitHub's clock and ours may differ: a run older than its intent has the key of another store's."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The execution has a run, which is the one that claimed it if one has."""

    run_id: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing can be done before `until`."""

    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The execution has no run and will have none."""

    reason: str


LaunchState = Launched | Waiting | Failed


def workflow_inputs(intent: Intent, settings: Settings) -> dict[str, str]:
    """Return the inputs of the workflow's dispatch; those that say nothing are left out."""
    inputs = {
        "model-id": intent.model,
        "sample-only": str(intent.sample or ""),
        "n-workers": str(settings.machines),
        "shards": format_shards(intent.shards),
        "key": intent.key,
    }
    return {name: value for name, value in inputs.items() if value}


def format_shards(shards: tuple[str, ...]) -> str:
    """Return shards as a person writes them, `00-03,07`; `sharding.parse_shards` reads them."""
    ranges = contiguous_ranges(sorted(shards))
    return ",".join(part[0] if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in ranges)


def advance(
    store: ObjectStore, github: GitHub, intent: Intent, inputs: Mapping[str, str], now: datetime
) -> LaunchState:
    """Take the next step in launching an execution, if there is one to take, and return where that leaves it.

    At most one POST. Call it again when the time is come that `Waiting` names; sooner does no harm.
    """
    key = intent.key
    run_id = records.find_run_id(store, key)
    if run_id:
        return Launched(run_id)
    claim = records.find_claim(store, key)
    if claim:
        return Failed(claim.reason)
    dispatches = records.list_dispatches(store, key)
    if not dispatches:
        return _post(store, github, key, inputs, 0, now)
    last = dispatches[-1]
    limit = records.find_limit(store, key, last.number)
    if limit and now < limit.not_before:
        return Waiting(limit.not_before, limit.message)
    unanswered = [dispatch for dispatch in dispatches if not records.find_limit(store, key, dispatch.number)]
    if unanswered:
        try:
            found = look_up(github, intent)
        except GitHubError as error:
            # Not knowing is not knowing that there is none: no POST, however long this lasts.
            return Waiting(not_before(store, error, now), f"the runs cannot be looked through: {error}")
        if found:
            records.put_run(store, key, Run(run_id=found.id, url=found.html_url))
            return Launched(found.id)
        grace = unanswered[-1].posted_at + GRACE
        if now < grace:
            return Waiting(min(now + LOOK, grace), f"GitHub did not say whether there is a run; looking for [{key}]")
        if len(unanswered) >= MOST_DISPATCHES:
            answer = records.find_answer(store, key, unanswered[-1].number)
            said = f"; the last time: {answer.message}" if answer else ""
            return _give_up(store, key, f"GitHub was asked for a run {len(unanswered)} times, and none appeared{said}")
    return _post(store, github, key, inputs, last.number + 1, now)


def not_before(store: ObjectStore, error: GitHubError, now: datetime) -> datetime:
    """Return when to ask GitHub again after an error; a rate limit is kept for all who ask, with GitHub's words."""
    if not isinstance(error, NotNowError):
        return now + LOOK
    if isinstance(error, LimitError):
        records.put_limit_on_all(store, Limit(not_before=now + error.wait, message=str(error)))
    return now + error.wait


def look_up(github: GitHub, intent: Intent) -> WorkflowRun | None:
    """Return the first run whose run-name holds the execution's key, in brackets. Raises GitHubError."""
    runs = github.list_runs(intent.created_at - CLOCKS)
    mine = [run for run in runs if f"[{intent.key}]" in run.display_title]
    return min(mine, key=lambda run: run.id, default=None)


def _post(
    store: ObjectStore, github: GitHub, key: str, inputs: Mapping[str, str], number: int, now: datetime
) -> LaunchState:
    """Ask GitHub for a run, unless somebody else is about to."""
    if not records.put_dispatch(store, key, Dispatch(number=number, posted_at=now)):
        return Waiting(now + LOOK, "somebody else is launching it")
    try:
        run = github.dispatch(inputs)
    except RefusedError as error:
        return _give_up(store, key, str(error))
    except NotNowError as error:
        # First of all that there is no run: who dies before that has it looked for in vain.
        records.put_limit(store, key, number, Limit(not_before=now + error.wait, message=str(error)))
        return Waiting(not_before(store, error, now), str(error))
    except GitHubError as error:
        records.put_answer(store, key, number, Answer(message=str(error)))
        return Waiting(now + LOOK, str(error))
    if run is None:
        return Waiting(now + LOOK, f"GitHub does not say which run it has started; looking for [{key}]")
    records.put_run(store, key, run)
    return Launched(run.run_id)


def _give_up(store: ObjectStore, key: str, reason: str) -> LaunchState:
    """Close an execution without a run to any that may still appear; one that has claimed it by now is its run."""
    claim = records.close(store, key, reason)
    return Failed(claim.reason) if claim.run_id == records.NOBODY else Launched(claim.run_id)
