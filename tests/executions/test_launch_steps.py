"""One step at a time: what each answer of GitHub makes of an execution that is being launched."""

from datetime import timedelta

import pytest
from fake_github import BAD_GATEWAY, BAD_GATEWAY_DONE, FORBIDDEN, TOO_MANY, FakeRun
from simulation import MODEL, SHARDS, DirectGitHub, Simulation

from precalc_assets.executions import records
from precalc_assets.executions.launch import (
    GRACE,
    MOST_DISPATCHES,
    Failed,
    Launched,
    LaunchState,
    Waiting,
    advance,
    format_shards,
)
from precalc_assets.executions.settling import step
from precalc_assets.sharding import parse_shards

SLOW = timedelta(hours=1)


class _Launch:
    """An execution to be launched, by steps; runs wait for runners until they are told to begin."""

    def __init__(self) -> None:
        self.simulation = Simulation()
        self.simulation.seconds_to_begin = 1e9
        self.fake = self.simulation.fake
        intent = records.open_execution(self.simulation.store, MODEL, "library", SHARDS)
        assert intent is not None
        self.intent = intent

    def step(self, after: float | timedelta = 0) -> LaunchState:
        self.simulation.time += after if isinstance(after, timedelta) else timedelta(seconds=after)
        return advance(
            self.simulation.store,
            DirectGitHub(self.simulation),
            self.intent,
            {"key": self.intent.key, "shards": "00-03"},
            self.simulation.time,
        )

    @property
    def posts(self) -> int:
        return self.fake.asked.count("dispatch")

    def may_compute(self, run: FakeRun) -> bool:
        return records.claim(self.simulation.store, self.intent.key, run.id)


@pytest.fixture
def launch() -> _Launch:
    return _Launch()


def test_a_run_on_record_is_not_asked_for_again(launch: _Launch) -> None:
    assert launch.step() == launch.step() == Launched(1001)
    assert launch.fake.asked == ["dispatch"]


def test_nothing_is_posted_within_the_grace_and_once_after_it(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY)
    assert isinstance(launch.step(), Waiting)
    for _ in range(11):
        assert isinstance(launch.step(15), Waiting)
    assert launch.posts == 1
    assert launch.step(16) == Launched(1001)
    assert launch.posts == 2


def test_a_run_that_was_started_without_an_answer_is_found_in_the_list(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.fake.list_lag = timedelta(seconds=100)
    launch.step()
    assert isinstance(launch.step(90), Waiting)
    assert launch.step(15) == Launched(1001)
    assert launch.posts == 1


def test_nothing_is_posted_while_the_runs_cannot_be_looked_through(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.step()
    launch.fake.faults["list_runs"].extend([BAD_GATEWAY, FORBIDDEN, TOO_MANY])
    for _ in range(3):
        state = launch.step(SLOW)
        assert isinstance(state, Waiting)
        assert "cannot be looked through" in state.why
    assert launch.step() == Launched(1001)
    assert launch.posts == 1


def test_a_limit_is_waited_for_also_by_who_comes_later(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(TOO_MANY)
    began = launch.simulation.time
    assert launch.step() == Waiting(began + timedelta(seconds=30), TOO_MANY.message)
    assert launch.step(29) == Waiting(began + timedelta(seconds=30), TOO_MANY.message)
    assert launch.step(1) == Launched(1001)
    assert launch.fake.asked == ["dispatch", "dispatch"]


def test_limits_are_no_reason_to_give_up(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([TOO_MANY] * 120)
    for _ in range(120):
        assert isinstance(launch.step(30), Waiting)
    assert launch.step(30) == Launched(1001)


def test_of_two_who_launch_at_the_same_time_one_posts(launch: _Launch) -> None:
    inner: list[LaunchState] = []

    def second(point: str) -> None:
        if point == "before executions/eos9abc-0001/dispatch-00.json" and not inner:
            inner.append(Waiting(launch.simulation.time, ""))
            inner.append(launch.step())

    with launch.simulation.watched(second):
        state = launch.step()
    assert inner[-1] == Launched(1001)
    assert isinstance(state, Waiting)
    assert launch.posts == 1
    assert launch.step() == Launched(1001)


def test_a_refusal_is_for_good_in_githubs_words_and_closes_the_execution_to_late_runs(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([BAD_GATEWAY_DONE, FORBIDDEN])
    launch.fake.list_lag = SLOW
    launch.step()
    assert launch.step(GRACE) == Failed(FORBIDDEN.message)
    assert launch.step(GRACE) == Failed(FORBIDDEN.message)
    assert not launch.may_compute(launch.fake.runs[1001])


def test_it_is_given_up_after_some_posts_without_an_answer_and_closed(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([BAD_GATEWAY_DONE] * 9)
    launch.fake.list_lag = SLOW * 24
    states = [launch.step(GRACE) for _ in range(9)]
    assert launch.posts == MOST_DISPATCHES
    assert states[-1] == Failed("GitHub was asked for a run 4 times, and none appeared; the last time: Server Error")
    assert not any(launch.may_compute(run) for run in launch.fake.runs.values())


def test_a_run_that_claims_at_the_last_moment_is_the_run(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([BAD_GATEWAY_DONE, FORBIDDEN])
    launch.fake.list_lag = SLOW

    def claim(point: str) -> None:
        if point.startswith("before") and point.endswith("claim.json"):
            launch.simulation.point = None
            assert launch.may_compute(launch.fake.runs[1001])

    launch.step()
    with launch.simulation.watched(claim):
        assert launch.step(GRACE) == Launched(1001)


def test_the_run_that_claimed_is_the_run_whatever_is_on_record(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.fake.list_lag = SLOW
    launch.step()
    assert launch.step(GRACE) == Launched(1002)
    assert launch.may_compute(launch.fake.runs[1001])
    assert launch.step() == Launched(1001)


def test_a_run_of_another_store_with_the_same_key_is_too_old(launch: _Launch) -> None:
    stranger = launch.fake.dispatch("main", {"key": launch.intent.key})
    launch.fake.runs[stranger].created_at -= timedelta(hours=1)
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.step()
    assert launch.step(15) == Launched(stranger + 1)


def test_a_run_that_ends_without_a_claim_leaves_the_execution_closed(launch: _Launch) -> None:
    simulation = launch.simulation
    launch.step()
    launch.fake.end_run(1001, "failure")
    settled = step(simulation.runners(), simulation.library, launch.intent)
    assert isinstance(settled, records.Settled)
    assert "its run ended (failure) without a job for it" in settled.failures["00"]
    claim = records.find_claim(simulation.store, launch.intent.key)
    assert claim is not None
    assert claim.run_id == records.NOBODY


@pytest.mark.parametrize("text", ["07", "00-49", "00-03,07,20-29"])
def test_shards_are_written_as_they_are_read(text: str) -> None:
    assert format_shards(tuple(parse_shards(text, 50))) == text
