"""The protocol of executions, as a pure function from what is known of an execution to what is done next.

Two runs must never compute the same shard, and an execution must never be lost. Any process may take a step of an
execution, at any time, after any crash, several at once; the records tell each of them what to do:

1. A cancelled execution is closed, and its run is cancelled at every step until it has ended.
2. Nothing else is asked for before a rate limit is over, whoever met it.
3. An execution that a run has claimed has that run; otherwise it has the run on record. The run is looked at until it
   has ended. Then the execution is closed, so that a late run computes nothing, and settled.
4. A closed execution without a run is settled as not launched.
5. Each dispatch is announced by a create-only record, and then posted once by the process that announced it. So an
   execution without an announcement has no run, and with one it may have a run, whichever process has died meanwhile.
6. After a dispatch that started nothing for now, the next one waits for the time that the backend named.
7. After a dispatch that may have started a run, runs are looked up by the execution's key, and nothing is posted until
   a grace period is over. A run that appears later finds the claim taken. After some dispatches, launching is given up:
   the execution is closed.

`stepping` reads the State, carries the actions out, and asks again until an action ends the step.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from precalc_assets.executions.compute_backend import RunStatus
from precalc_assets.executions.records import Answer, Cancellation, Claim, Intent, Limit, Run

GRACE = timedelta(seconds=180)
"""How long a run is looked up after a dispatch without an answer. GitHub's lists were seen to lag by less."""

LOOK = timedelta(seconds=15)
"""Between two looks at the backend: 240 requests an hour for an execution, of a GitHub App's 5,000."""

MOST_DISPATCHES = 4
"""Dispatches without an answer before launching is given up: twelve minutes of a backend that gives none."""

FORCE_AFTER = timedelta(seconds=60)
"""How long a cancelled run may take to end by itself; then it is cancelled by force."""


@dataclass(frozen=True)
class Dispatched:
    """A dispatch that was announced, and its answer if it is on record."""

    posted_at: datetime
    answer: Answer | None = None

    @property
    def may_have_run(self) -> bool:
        """Whether the dispatch may have started a run."""
        return self.answer is None or self.answer.not_before is None


@dataclass(frozen=True)
class Look:
    """A look at a run: how it is, None if it is gone."""

    run: Run
    status: RunStatus | None


@dataclass(frozen=True)
class Waiting:
    """End the step: there is nothing to do before `until`."""

    until: datetime
    why: str


@dataclass(frozen=True)
class State:
    """What is known of an execution that is not settled: its records, and what this step has done so far.

    This step has sent the cancellation (`cancel_sent`), found no run by the key (`looked_up`), had this `look` at the
    run, or has to end `waiting`, since the backend gave no answer.
    """

    intent: Intent
    cancellation: Cancellation | None = None
    claim: Claim | None = None
    recorded_run: Run | None = None
    dispatches: tuple[Dispatched, ...] = ()
    limit: Limit | None = None
    cancel_sent: bool = False
    looked_up: bool = False
    look: Look | None = None
    waiting: Waiting | None = None

    @property
    def run(self) -> Run | None:
        """The execution's run: the one that claimed it or, while none has, the one on record."""
        return (self.claim and self.claim.run) or self.recorded_run

    @property
    def launched_at(self) -> datetime:
        """The latest time at which a run can have been launched."""
        return max([self.intent.created_at, *(dispatch.posted_at for dispatch in self.dispatches)])


@dataclass(frozen=True)
class Close:
    """Claim the execution for nobody."""

    reason: str


@dataclass(frozen=True)
class CancelRun:
    """Ask the backend to cancel a run."""

    run: Run
    force: bool


@dataclass(frozen=True)
class Post:
    """Announce a dispatch, ask the backend for a run, and record its answer; wait if another process announced it."""

    number: int


@dataclass(frozen=True)
class LookUp:
    """Look up a run by the execution's key, and record it."""


@dataclass(frozen=True)
class CheckRun:
    """Look at a run: ask the backend for its status."""

    run: Run


@dataclass(frozen=True)
class GiveUp:
    """Settle the execution as not launched: it has no run and will have none."""

    reason: str


@dataclass(frozen=True)
class Settle:
    """Settle the execution by its manifests and the last look at its run."""

    look: Look


Action = Close | CancelRun | Post | LookUp | CheckRun | Waiting | RunStatus | GiveUp | Settle
"""A RunStatus ends the step: the run has not ended."""


def next_action(state: State, now: datetime) -> Action:
    """Return what to do next for an execution that is not settled; the numbers are those of the protocol above."""
    cancellation, run = state.cancellation, state.run
    if state.waiting:
        return state.waiting
    if cancellation and state.claim is None:
        return Close("it was cancelled")  # 1
    if cancellation and run and not state.cancel_sent:
        return CancelRun(run, force=now >= cancellation.requested_at + FORCE_AFTER)  # 1
    if state.limit and now < state.limit.not_before:
        return Waiting(state.limit.not_before, state.limit.message)  # 2
    if run:
        return _follow(state, run, now)  # 3
    if state.claim:
        return GiveUp(state.claim.reason)  # 4
    return _launch(state, now)


def _follow(state: State, run: Run, now: datetime) -> Action:
    look = state.look
    if look is None or look.run != run:
        return CheckRun(run)
    if look.status is None and now < state.launched_at + GRACE:
        return Waiting(now + LOOK, f"the backend does not show run {run.run_id} yet")
    if look.status and look.status.conclusion is None:
        return look.status
    return Settle(look) if state.claim else Close("its run ended before it began to compute")


def _launch(state: State, now: datetime) -> Action:
    answer = state.dispatches[-1].answer if state.dispatches else None
    if answer and answer.not_before and now < answer.not_before:
        return Waiting(answer.not_before, answer.message)  # 6
    unanswered = [dispatch for dispatch in state.dispatches if dispatch.may_have_run]
    return _search(state, unanswered, now) if unanswered else Post(len(state.dispatches))  # 7, 5


def _search(state: State, unanswered: list[Dispatched], now: datetime) -> Action:
    latest = unanswered[-1]
    said = latest.answer.message if latest.answer else "no answer"
    searching = f"{said}; looking for the run [{state.intent.key}]"
    if now < latest.posted_at + LOOK:
        return Waiting(latest.posted_at + LOOK, searching)
    if not state.looked_up:
        return LookUp()
    if now < latest.posted_at + GRACE:
        return Waiting(min(now + LOOK, latest.posted_at + GRACE), searching)
    if len(unanswered) >= MOST_DISPATCHES:
        return Close(f"no run appeared after {len(unanswered)} dispatches; the last answer: {said}")
    return Post(len(state.dispatches))
