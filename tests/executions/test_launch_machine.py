"""Several processes that launch and follow at the same time, each stopped or killed at any point, or hours late."""

import sys
import threading
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timedelta

import hypothesis.strategies as st
import pytest
from fake_github import BAD_GATEWAY
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from simulation import MEANINGS, MODEL, SHARDS, CrashError, Simulation

from precalc_assets.executions.compute_backend import RefusedError
from precalc_assets.executions.following import follow
from precalc_assets.executions.records import Compute
from precalc_assets.outcomes import ShardOutcome

pytestmark = pytest.mark.slow

_UNANSWERED = ["502, done", "dropped, done"] * 4
"""The faults that make second runs, as often as all others together."""

STEPS: Counter[str] = Counter()
"""What all examples together have done."""


class _Process:
    """A process that follows some shards: a thread that stops at each point until it is told to go on."""

    def __init__(self, simulation: Simulation, shards: tuple[str, ...]) -> None:
        self.outcomes: list[ShardOutcome] = []
        self.until: datetime = simulation.time
        self.ended = False
        self.error: BaseException | None = None
        self._killed = False
        self._simulation = simulation
        self._shards = shards
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Let it go on to its next point."""
        self._go.release()
        assert self._stopped.acquire(timeout=20)

    def kill(self) -> None:
        """Kill it where it is."""
        self._killed = True
        self.go_on()
        self._thread.join(20)
        assert self.ended

    def stop(self, point: str) -> None:
        """Stop at a point, in the process's own thread."""
        self._check()
        self._stopped.release()
        self._go.acquire()
        self._check()

    def sleep(self, seconds: float) -> None:
        """Sleep until the simulation's time has come."""
        self.until = self._simulation.time + timedelta(seconds=max(1.0, seconds))
        while self._simulation.time < self.until:
            self.stop("asleep")

    def _check(self) -> None:
        if self._killed:
            raise CrashError

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.outcomes += follow(self._simulation.engine(sleep=self.sleep), MODEL, self._shards)
        except BaseException as error:  # noqa: BLE001 - it is looked at in the test's own thread
            self.error = error
        self.ended = True
        self._stopped.release()


class Launching(RuleBasedStateMachine):
    """In every order of events, each shard is computed in the end, and by one run."""

    compute: Compute = "github"

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation(self.compute)
        self.processes: list[_Process] = []
        self.turn: _Process | None = None
        self.context = ExitStack()
        self.context.enter_context(self.simulation.watched(self._point))
        STEPS["examples"] += 1

    @initialize(
        lag=st.sampled_from([0, 60, 400, 900]),
        beginning=st.sampled_from([5, 400, 900]),
        dispatches=st.lists(st.sampled_from([*MEANINGS, *_UNANSWERED]), max_size=3),
        reads=st.lists(st.sampled_from(["list_runs", "get_run", "list_jobs"]), max_size=4),
        shards=st.lists(st.sampled_from(["502, done", "dropped", "422"]), max_size=2),
        points=st.sampled_from([20, 10, 5, 0]),
    )
    def something_is_amiss(
        self, lag: int, beginning: int, dispatches: list[str], reads: list[str], shards: list[str], points: int
    ) -> None:
        """Make lists lag, machines busy and later requests fail, with one process on its way already.

        `shards` are faults of SLURM alone: of a launch whose first job was accepted.
        """
        fake = self.simulation.fake
        fake.list_lag = timedelta(seconds=lag)
        self.simulation.seconds_to_begin = beginning
        self.simulation.seconds_to_compute = 600
        fake.faults["dispatch"].extend(MEANINGS[name][0] for name in dispatches)
        fake.faults["submit_shards"].extend(MEANINGS[name][0] for name in shards)
        for endpoint in reads:
            fake.faults[endpoint].append(BAD_GATEWAY)
        STEPS["faults"] += len(dispatches) + len(reads)
        self.somebody_follows(SHARDS)
        self.one_goes_on(0, points)

    def _point(self, point: str) -> None:
        if self.turn:
            self.turn.stop(point)

    def _go_on(self, process: _Process) -> None:
        self.turn = process
        process.go_on()
        self.turn = None
        if process.ended:
            self.processes.remove(process)
            assert process.error is None or isinstance(process.error, RefusedError), process.error

    @precondition(lambda self: len(self.processes) < 3)
    @rule(shards=st.sampled_from([SHARDS, SHARDS[:2], SHARDS[1:]]))
    def somebody_follows(self, shards: tuple[str, ...]) -> None:
        STEPS["processes"] += 1
        self.processes.append(_Process(self.simulation, shards))

    @precondition(lambda self: self.processes)
    @rule(index=st.integers(0, 2), points=st.integers(1, 30))
    def one_goes_on(self, index: int, points: int) -> None:
        process = self.processes[index % len(self.processes)]
        for _ in range(points):
            if not process.ended:
                STEPS["points"] += 1
                self._go_on(process)

    @precondition(lambda self: self.processes)
    @rule(index=st.integers(0, 2))
    def one_is_killed(self, index: int) -> None:
        STEPS["kills"] += 1
        process = self.processes.pop(index % len(self.processes))
        self.turn = process
        process.kill()
        self.turn = None

    @rule(seconds=st.sampled_from([5, 20, 60, 200, 200]))
    def time_passes(self, seconds: int) -> None:
        self.simulation.sleep(seconds)

    @invariant()
    def no_shard_is_computed_twice(self) -> None:
        assert all(len(runs) <= 1 for runs in self.simulation.computed.values()), self.simulation.computed

    def teardown(self) -> None:
        """End the faults and let all processes go on: each shard is computed once."""
        self.simulation.fake.faults.clear()
        try:
            for _ in range(2_000):
                if not self.processes:
                    break
                for process in list(self.processes):
                    self._go_on(process)
                self.simulation.sleep(5)
            assert not self.processes
        finally:
            for process in self.processes:
                self.turn = process
                process.kill()
            self.context.close()
        outcomes = self.simulation.follow()
        if not all(outcome.landed for outcome in outcomes):
            outcomes = self.simulation.follow()
        assert all(outcome.landed for outcome in outcomes), outcomes
        self.simulation.end_all_runs()
        self.no_shard_is_computed_twice()
        assert set(self.simulation.computed) == set(SHARDS)
        runs = self.simulation.fake.runs.values()
        STEPS["second runs"] += len({run.inputs["key"] for run in runs}) < len(runs)


class LaunchingOnSlurm(Launching):
    """The same over the commands of SLURM."""

    compute: Compute = "slurm"


@pytest.mark.parametrize("machine", [Launching, LaunchingOnSlurm])
def test_each_shard_is_computed_once_by_many_processes(
    machine: type[Launching], capsys: pytest.CaptureFixture[str]
) -> None:
    STEPS.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    with capsys.disabled():
        sys.stdout.write("\n" + ", ".join(f"{count} {what}" for what, count in STEPS.items()) + "\n")
