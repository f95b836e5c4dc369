"""Runs of Dagster that are killed or terminated while GitHub's runners compute for them."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from dagster_dev import DagsterDev, dagster_dev, wait_until
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from fake_runners import FakeRunners

from precalc_assets.executions.records import CANCELLED, Execution, list_executions, unsettled
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

SHARDS = shard_keys(4)
POSTED, WAITING, SETTLING = "after its POST, before its run is on record", "while it waits", "while it settles"
AGAIN = {"eos9ab0": POSTED, "eos9ab1": WAITING, "eos9ab2": SETTLING}
LEFT = {"eos9ab3": POSTED, "eos9ab4": WAITING, "eos9ab5": SETTLING}
TERMINATED = "eos9ab6"


class Killer:
    """Kills the process that sends a request to GitHub, once for each model, while it waits for the answer."""

    def __init__(self, fake: FakeGitHub, dev: DagsterDev) -> None:
        self.killed: dict[str, int] = {}
        self._at = {**AGAIN, **LEFT}
        self._fake = fake
        self._dev = dev
        self._lock = threading.Lock()
        fake.before_answer = self.look

    def look(self, path: str, answer: dict | None, port: int) -> None:
        """Kill the process that asks if it is at the point that is set for its model."""
        number = (answer or {}).get("workflow_run_id") or path.partition("/actions/runs/")[2].partition("/")[0]
        run = self._fake.runs.get(int(number or 0))
        if run is None:
            return
        model = run.inputs["model-id"]
        there = {
            POSTED: lambda: path.endswith("/dispatches"),
            WAITING: lambda: path.endswith(f"/runs/{run.id}") and len(recorded(self._dev, model)) == 2,
            SETTLING: lambda: path.endswith("/jobs") and run.status == "completed",
        }
        with self._lock:
            if model in self._at and model not in self.killed and there[self._at[model]]():
                self.killed[model] = kill(port)


def kill(port: int) -> int:
    """Kill the process behind a port of this machine, as the system would, and return its id."""
    [pid] = {each.pid for each in psutil.net_connections("tcp4") if each.laddr.port == port and each.pid}
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    return pid


def recorded(dev: DagsterDev, model: str) -> list[tuple[str, str]]:
    """Return the recorded shards of a model in order, each with the run that recorded it."""
    events = dev.materializations("raw_predictions")
    return sorted((e["partition"].split("|")[1], e["runId"]) for e in events if e["partition"].startswith(f"{model}|"))


@contextmanager
def platform(world) -> Iterator[tuple[DagsterDev, Killer, FakeRunners]]:
    """Dagster with runners for seven models, and the killer of its runs; the sensors are off."""
    world.build_library()
    for model in (*AGAIN, *LEFT, TERMINATED):
        world.write_model(model=model)

    settings = {"compute": "github", "github_repository": REPOSITORY, "github_token": TOKEN}
    with (fake := FakeGitHub()).serving() as url:
        runners = FakeRunners(fake, world.store, Settings(_env_file=None, n_shards=4), world.backend)
        runners.canary = False
        with dagster_dev(world, n_shards="4", github_api_url=url, **settings) as dev:
            for sensor in ("automation", "executions"):
                dev.switch_off(sensor)
            yield dev, Killer(fake, dev), runners


def launch(dev: DagsterDev, model: str) -> str:
    return dev.launch("raw_predictions", f"{model}|{SHARDS[0]}", f"{model}|{SHARDS[-1]}")


def test_killed_runs_are_taken_over_and_a_terminated_one_cancels(world):
    with platform(world) as (dev, killer, runners):
        store = world.store
        dev.add_model(TERMINATED)
        runners.half[TERMINATED] = threading.Event()
        terminated = launch(dev, TERMINATED)
        for model, at in {**AGAIN, **LEFT}.items():
            dev.add_model(model)
            if at is not SETTLING:
                runners.half[model] = threading.Event()
        killed = {model: launch(dev, model) for model in (*AGAIN, *LEFT)}
        wait_until(lambda: killer.killed.keys() == killed.keys())
        wait_until(lambda: dead(dev, killed.values()))
        wait_until(lambda: len(recorded(dev, TERMINATED)) == 2)
        dev.terminate(terminated)
        for model, at in {**AGAIN, **LEFT}.items():
            assert len(recorded(dev, model)) == (2 if at is WAITING else 0)
            assert (Execution(store, f"{model}-0001").run.read() is None) is (at is POSTED)
            assert Execution(store, f"{model}-0001").settled.read() is None

        again = {model: launch(dev, model) for model in AGAIN}
        for model in AGAIN:
            wait_until(
                lambda model=model: Execution(store, f"{model}-0001").follower.read().dagster_run == again[model]
            )
        for held in runners.half.values():
            held.set()
        dev.switch_on("executions")
        wait_until(lambda: [dev.runs_of("raw_predictions")[run] for run in again.values()] == ["SUCCESS"] * 3)
        wait_until(lambda: all({shard for shard, _ in recorded(dev, model)} == set(SHARDS) for model in LEFT))
        wait_until(lambda: dev.runs_of("raw_predictions")[terminated] == "CANCELED")
        wait_until(lambda: not unsettled(store))

        assert [each.key for each in list_executions(store)] == [f"{model}-0001" for model in (*killed, TERMINATED)]
        cancelled = Execution(store, f"{TERMINATED}-0001").settled.read()
        assert (cancelled.conclusion, len(cancelled.landed)) == (CANCELLED, 2)
        assert len(runners.computed) == 26
        assert all(len(runs) == 1 for runs in runners.computed.values())
        for model in AGAIN:
            assert [shard for shard, run in recorded(dev, model) if run == again[model]] == SHARDS
            assert {run for _, run in recorded(dev, model)} <= {killed[model], again[model]}
        for model in LEFT:
            runs = {run for _, run in recorded(dev, model)}
            assert runs - {killed[model]} == {taken_over(dev, model)}


def taken_over(dev: DagsterDev, model: str) -> str:
    """Return the run that the sensor requested for the execution of a killed one."""
    [run] = dev.runs_tagged("precalc/execution", f"{model}-0001")
    return run


def dead(dev: DagsterDev, runs) -> bool:
    """Return whether Dagster knows that these runs are dead."""
    states = dev.runs_of("raw_predictions")
    return all(states[run] == "FAILURE" for run in runs)
