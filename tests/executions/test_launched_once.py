"""Each shard is computed in the end, and by one run, whatever fails and whenever the launcher dies."""

import sys

import pytest
from fake_github import Fault
from simulation import MEANINGS, SHARDS, CrashError, Simulation

from precalc_assets.executions.protocol import GRACE
from precalc_assets.executions.records import Compute

pytestmark = pytest.mark.slow

FAULTS: dict[str, Fault | None] = {"nothing": None} | {name: fault for name, (fault, _) in MEANINGS.items()}
LAGS = (0.0, 60.0, 200.0)
"""Seconds until a run is in the lists: at once, within the grace period, and after it."""

BEGINNINGS = (5.0, 400.0)
"""Seconds until a run claims: before it is looked up, and after the grace period, when a second one is dispatched."""


class _Killer:
    """Kills the process at one point, counted from 0."""

    def __init__(self, at: int | None) -> None:
        self.left = at

    def __call__(self, point: str) -> None:
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            raise CrashError(point)
        self.left -= 1


def _simulate(compute: Compute, fault: Fault | None, lag: float, beginning: float) -> Simulation:
    simulation = Simulation(compute, list_lag=lag)
    simulation.seconds_to_begin = beginning
    # Longer than the grace period, so that a second run would find the first one at work.
    simulation.seconds_to_compute = 600
    if fault:
        simulation.fake.faults["dispatch"].append(fault)
    return simulation


def _follow_until_computed(simulation: Simulation, killer: _Killer) -> None:
    """Follow, again after each crash, and again after a refusal, as a person does after repairing its cause."""
    for _ in range(4):
        try:
            with simulation.watched(killer):
                outcomes = simulation.follow()
        except CrashError:
            continue
        if all(outcome.landed for outcome in outcomes):
            assert {outcome.shard for outcome in outcomes} == set(SHARDS)
            assert {outcome.facts.get("attempt", 1) for outcome in outcomes} == {1}, "a dead launcher is no attempt"
            return
    raise AssertionError(simulation.said)


@pytest.mark.parametrize("compute", ["github", "slurm"])
@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("lag", LAGS)
def test_each_crash_and_fault_leaves_one_run_that_computes(
    compute: Compute, lag: float, beginning: float, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = second_runs = 0
    for fault in FAULTS.values():
        point = 0
        while True:
            simulation = _simulate(compute, fault, lag, beginning)
            killer = _Killer(point)
            _follow_until_computed(simulation, killer)
            simulation.end_all_runs()
            assert {shard: len(runs) for shard, runs in simulation.computed.items()} == dict.fromkeys(SHARDS, 1)
            cases += 1
            second_runs += len(simulation.fake.runs) > 1
            if killer.left is not None:
                break
            point += 1
    with capsys.disabled():
        sys.stdout.write(
            f"\n{cases} cases of fault and crash, lists {lag:g} s late, runs beginning after {beginning:g} s; "
            f"{second_runs} had a second run, which computed nothing\n"
        )
    # A second run exists only if the first is neither claimed nor listed within the grace period. On SLURM, where a
    # launch is three requests, there are also those after a first one without its shards.
    unseen = beginning > GRACE.total_seconds() and lag > GRACE.total_seconds()
    assert bool(second_runs) == (unseen or compute == "slurm")
