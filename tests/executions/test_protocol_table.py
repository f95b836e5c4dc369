"""The protocol as a table: what is known of an execution, and what is done next. No store, no backend, no clock."""

from datetime import UTC, datetime, timedelta

import pytest

from precalc_assets.executions.compute_backend import RunStatus
from precalc_assets.executions.protocol import (
    FORCE_AFTER,
    GRACE,
    LOOK,
    MOST_DISPATCHES,
    Action,
    CancelRun,
    CheckRun,
    Close,
    Dispatched,
    GiveUp,
    Look,
    LookUp,
    Post,
    Settle,
    State,
    Waiting,
    next_action,
)
from precalc_assets.executions.records import Answer, Cancellation, Claim, Intent, Limit, Run

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG_AGO = NOW - timedelta(hours=1)
INTENT = Intent(
    key="eos9abc-0001", model="eos9abc", compute="github", library_digest="d", shards=("00",), created_at=LONG_AGO
)
OTHER_RUN = Run(run_id=8, url="")
RUN = Run(run_id=7, url="")


def claim(run: Run | None) -> Claim:
    return Claim(run=run, reason="" if run else "refused", claimed_at=LONG_AGO)


def limit(seconds: int) -> Limit:
    return Limit(not_before=NOW + timedelta(seconds=seconds), message="rate limit")


def cancelled(ago: timedelta) -> Cancellation:
    return Cancellation(requested_at=NOW - ago)


def asked(ago: timedelta, message: str | None = None) -> Dispatched:
    """Return a dispatch whose launcher has died or, with a message, one that may have started a run all the same."""
    return Dispatched(NOW - ago, Answer(message=message) if message else None)


def put_off(seconds: int) -> Dispatched:
    """Return a dispatch that started nothing, with the next one allowed in so many seconds."""
    return Dispatched(LONG_AGO, Answer(message="busy", not_before=NOW + timedelta(seconds=seconds)))


def look(run: Run, conclusion: str | None = None) -> Look:
    return Look(run, RunStatus(run=run, conclusion=conclusion, created_at=LONG_AGO))


GONE = Look(RUN, None)
SEARCHING = "looking for the run [eos9abc-0001]"


def launching(*dispatches: Dispatched, looked_up: bool = False) -> State:
    return State(INTENT, dispatches=dispatches, looked_up=looked_up)


TABLE: dict[str, tuple[State, Action]] = {
    # 1. cancelling
    "cancelled: closed first": (State(INTENT, cancelled(SECOND)), Close("it was cancelled")),
    "cancelled, with a run on record: closed first": (
        State(INTENT, cancelled(SECOND), recorded_run=RUN),
        Close("it was cancelled"),
    ),
    "cancelled and closed, with a run: cancelled there": (
        State(INTENT, cancelled(SECOND), claim(None), RUN),
        CancelRun(RUN, force=False),
    ),
    "cancelled a minute ago: by force": (
        State(INTENT, cancelled(FORCE_AFTER), claim(RUN), RUN),
        CancelRun(RUN, force=True),
    ),
    "cancelled under a rate limit: cancelled there all the same": (
        State(INTENT, cancelled(SECOND), claim(RUN), limit=limit(30)),
        CancelRun(RUN, force=False),
    ),
    "cancelled there in this step: the run is looked at": (
        State(INTENT, cancelled(SECOND), claim(RUN), cancel_sent=True),
        CheckRun(RUN),
    ),
    "cancelled and closed without a run: not launched": (
        State(INTENT, cancelled(SECOND), claim(None)),
        GiveUp("refused"),
    ),
    "no answer in this step: waited for": (
        State(INTENT, cancelled(SECOND), claim(RUN), cancel_sent=True, waiting=Waiting(NOW + LOOK, "502")),
        Waiting(NOW + LOOK, "502"),
    ),
    # 2. rate limits
    "rate limit: nothing is asked": (State(INTENT, limit=limit(30)), Waiting(limit(30).not_before, "rate limit")),
    "rate limit, with a run: nothing is asked": (
        State(INTENT, recorded_run=RUN, limit=limit(30)),
        Waiting(limit(30).not_before, "rate limit"),
    ),
    "a rate limit that is over: launched": (State(INTENT, limit=limit(0)), Post(0)),
    # 3. the run
    "run on record: looked at": (State(INTENT, recorded_run=RUN), CheckRun(RUN)),
    "run that claimed, nothing on record: looked at": (State(INTENT, claim=claim(RUN)), CheckRun(RUN)),
    "another run claimed: that one is looked at": (
        State(INTENT, claim=claim(OTHER_RUN), recorded_run=RUN),
        CheckRun(OTHER_RUN),
    ),
    "another run claimed after the look: that one is looked at": (
        State(INTENT, claim=claim(OTHER_RUN), recorded_run=RUN, look=look(RUN, "success")),
        CheckRun(OTHER_RUN),
    ),
    "run at work: under way": (State(INTENT, recorded_run=RUN, look=look(RUN)), look(RUN).status),
    "run ended without a claim: closed": (
        State(INTENT, recorded_run=RUN, look=look(RUN, "failure")),
        Close("its run ended before it began to compute"),
    ),
    "run ended and closed: settled": (
        State(INTENT, claim=claim(None), recorded_run=RUN, look=look(RUN, "failure")),
        Settle(look(RUN, "failure")),
    ),
    "run that claimed has ended: settled": (
        State(INTENT, claim=claim(OTHER_RUN), recorded_run=RUN, look=look(OTHER_RUN, "success")),
        Settle(look(OTHER_RUN, "success")),
    ),
    "run not shown within the grace period: waited for": (
        State(INTENT, recorded_run=RUN, dispatches=(asked(GRACE - SECOND),), look=GONE),
        Waiting(NOW + LOOK, "the backend does not show run 7 yet"),
    ),
    "run not shown after the grace period: closed": (
        State(INTENT, recorded_run=RUN, dispatches=(asked(GRACE),), look=GONE),
        Close("its run ended before it began to compute"),
    ),
    "claimed run that is gone: settled": (State(INTENT, claim=claim(RUN), recorded_run=RUN, look=GONE), Settle(GONE)),
    # 4. closed without a run
    "closed without a run: not launched": (State(INTENT, claim=claim(None)), GiveUp("refused")),
    "closed after a dispatch: not launched": (
        State(INTENT, claim=claim(None), dispatches=(asked(SECOND),)),
        GiveUp("refused"),
    ),
    # 5. dispatching
    "new: posted": (State(INTENT), Post(0)),
    "announced by a process that died: looked up, not posted": (launching(asked(LOOK)), LookUp()),
    # 6. told to wait
    "put off: waited for": (launching(put_off(30)), Waiting(NOW + timedelta(seconds=30), "busy")),
    "put off until now: posted": (launching(put_off(0)), Post(1)),
    "put off a hundred times: posted": (launching(*[put_off(0)] * 100), Post(100)),
    # 7. searching
    "just posted: looked up later": (
        launching(asked(SECOND, "502")),
        Waiting(NOW - SECOND + LOOK, f"502; {SEARCHING}"),
    ),
    "posted a while ago: looked up": (launching(asked(LOOK, "502")), LookUp()),
    "not found within the grace period: looked up again later": (
        launching(asked(LOOK, "502"), looked_up=True),
        Waiting(NOW + LOOK, f"502; {SEARCHING}"),
    ),
    "not found, end of the grace period near: waited for": (
        launching(asked(GRACE - SECOND), looked_up=True),
        Waiting(NOW + SECOND, f"no answer; {SEARCHING}"),
    ),
    "grace period over, not looked up in this step: looked up": (launching(asked(GRACE)), LookUp()),
    "not found after the grace period: posted again": (launching(asked(GRACE), looked_up=True), Post(1)),
    "put off after a dispatch without an answer: looked up": (launching(asked(GRACE), put_off(0)), LookUp()),
    "not found after the last dispatch: closed": (
        launching(*[asked(GRACE, "502")] * MOST_DISPATCHES, looked_up=True),
        Close("no run appeared after 4 dispatches; the last answer: 502"),
    ),
    "put off dispatches do not count: posted": (
        launching(*[put_off(0)] * 9, *[asked(GRACE)] * (MOST_DISPATCHES - 1), looked_up=True),
        Post(MOST_DISPATCHES + 8),
    ),
}


@pytest.mark.parametrize(("state", "action"), TABLE.values(), ids=TABLE)
def test_next_action(state: State, action: Action) -> None:
    assert next_action(state, NOW) == action
