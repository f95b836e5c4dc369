"""Step by step: how each answer of GitHub changes an execution that is being launched."""

from datetime import timedelta

import pytest
from fake_github import BAD_GATEWAY, BAD_GATEWAY_DONE, FORBIDDEN, TOO_MANY, FakeRun
from simulation import MODEL, SHARDS, Simulation

from precalc_assets.executions.compute_backend import RunStatus
from precalc_assets.executions.protocol import GRACE, MOST_DISPATCHES, Waiting
from precalc_assets.executions.records import Run, Settled, open_execution
from precalc_assets.executions.stepping import step

SLOW = timedelta(hours=1)
ASKED_UNDERWAY = ["get_run", "list_jobs"]


class _Launch:
    """An execution to launch. Its runs wait for a runner until a test lets them begin."""

    def __init__(self) -> None:
        self.simulation = Simulation()
        self.simulation.seconds_to_begin = 1e9
        self.fake = self.simulation.fake
        execution = open_execution(self.simulation.store, MODEL, "library", SHARDS, compute="github")
        assert execution is not None
        self.execution = execution

    def step(self, after: float | timedelta = 0) -> Settled | RunStatus | Waiting:
        self.simulation.time += after if isinstance(after, timedelta) else timedelta(seconds=after)
        return step(self.simulation.engine(), self.execution)

    def run(self, after: float | timedelta = 0) -> int:
        """Take a step after which the run is under way, and return its id."""
        state = self.step(after)
        assert isinstance(state, RunStatus)
        return state.run.run_id

    def not_launched(self, after: float | timedelta = 0) -> str:
        """Take a step that gives up, and return the reason."""
        state = self.step(after)
        assert isinstance(state, Settled)
        assert (state.conclusion, set(state.failures)) == ("not launched", set(SHARDS))
        return state.failures["00"]

    @property
    def posts(self) -> int:
        return self.fake.asked.count("dispatch")

    def may_compute(self, run: FakeRun) -> bool:
        return self.execution.take(Run(run_id=run.id, url=""))


@pytest.fixture
def launch() -> _Launch:
    return _Launch()


def test_run_on_record_is_not_launched_again(launch: _Launch) -> None:
    assert launch.run() == launch.run() == 1001
    assert launch.fake.asked == ["dispatch", *ASKED_UNDERWAY, *ASKED_UNDERWAY]


def test_next_dispatch_comes_after_the_grace_period(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY)
    assert isinstance(launch.step(), Waiting)
    for _ in range(11):
        assert isinstance(launch.step(15), Waiting)
    assert launch.posts == 1
    assert launch.run(16) == 1001
    assert launch.posts == 2


def test_run_without_an_answer_is_found_in_the_list(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.fake.list_lag = timedelta(seconds=100)
    launch.step()
    assert isinstance(launch.step(90), Waiting)
    assert launch.run(15) == 1001
    assert launch.posts == 1


def test_nothing_is_posted_while_the_list_cannot_be_read(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.step()
    launch.fake.faults["list_runs"].extend([BAD_GATEWAY, FORBIDDEN, TOO_MANY])
    for _ in range(3):
        state = launch.step(SLOW)
        assert isinstance(state, Waiting)
        assert "cannot be looked through" in state.why
    assert launch.run(SLOW) == 1001
    assert launch.posts == 1


def test_rate_limit_binds_the_next_launcher(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(TOO_MANY)
    began = launch.simulation.time
    assert launch.step() == Waiting(began + timedelta(seconds=30), TOO_MANY.message)
    assert launch.step(29) == Waiting(began + timedelta(seconds=30), TOO_MANY.message)
    assert launch.run(1) == 1001
    assert launch.fake.asked == ["dispatch", "dispatch", *ASKED_UNDERWAY]


def test_rate_limits_are_no_reason_to_give_up(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([TOO_MANY] * 120)
    for _ in range(120):
        assert isinstance(launch.step(30), Waiting)
    assert launch.run(30) == 1001


def test_only_one_of_two_launchers_posts(launch: _Launch) -> None:
    inner: list[int] = []

    def second(point: str) -> None:
        if point == "before executions/eos9abc-0001/dispatch-00.json" and not inner:
            inner.append(0)
            inner.append(launch.run())

    with launch.simulation.watched(second):
        state = launch.step()
    assert inner[-1] == 1001
    assert isinstance(state, Waiting)
    assert launch.posts == 1
    assert launch.run() == 1001


def test_refusal_settles_and_closes_to_late_runs(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([BAD_GATEWAY_DONE, FORBIDDEN])
    launch.fake.list_lag = SLOW
    launch.step()
    assert launch.not_launched(GRACE) == FORBIDDEN.message
    assert launch.not_launched(GRACE) == FORBIDDEN.message
    assert not launch.may_compute(launch.fake.runs[1001])


def test_launching_is_given_up_after_some_dispatches(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([BAD_GATEWAY_DONE] * 9)
    launch.fake.list_lag = SLOW * 24
    for _ in range(MOST_DISPATCHES):
        assert isinstance(launch.step(GRACE), Waiting)
    assert launch.not_launched(GRACE) == "no run appeared after 4 dispatches; the last answer: Server Error"
    assert launch.posts == MOST_DISPATCHES
    assert not any(launch.may_compute(run) for run in launch.fake.runs.values())


def test_run_that_claims_at_the_last_moment_is_the_run(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].extend([BAD_GATEWAY_DONE, FORBIDDEN])
    launch.fake.list_lag = SLOW

    def claim(point: str) -> None:
        if point.startswith("before") and point.endswith("claim.json"):
            launch.simulation.point = None
            assert launch.may_compute(launch.fake.runs[1001])

    launch.step()
    with launch.simulation.watched(claim):
        assert launch.run(GRACE) == 1001


def test_claim_outweighs_the_run_on_record(launch: _Launch) -> None:
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.fake.list_lag = SLOW
    launch.step()
    assert launch.run(GRACE) == 1002
    assert launch.may_compute(launch.fake.runs[1001])
    assert launch.run() == 1001


def test_run_of_another_store_with_the_same_key_is_too_old(launch: _Launch) -> None:
    stranger = launch.fake.dispatch("main", {"key": launch.execution.key})
    launch.fake.runs[stranger].created_at -= timedelta(hours=1)
    launch.fake.faults["dispatch"].append(BAD_GATEWAY_DONE)
    launch.step()
    assert launch.run(15) == stranger + 1


def test_run_that_ends_without_a_claim_closes_the_execution(launch: _Launch) -> None:
    launch.step()
    launch.fake.end_run(1001, "failure")
    settled = launch.step()
    assert isinstance(settled, Settled)
    assert "its run ended (failure) without a job for it" in settled.failures["00"]
    claim = launch.execution.claim.read()
    assert claim is not None
    assert claim.run is None
