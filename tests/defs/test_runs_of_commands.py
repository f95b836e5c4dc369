"""Runs of `precalc run` in Dagster's UI: they are in its timeline, can be repeated, and share the pools of its own."""

import os
import shutil
import signal

import dagster as dg
import pytest
from dagster_dev import PROJECT, dagster_dev, wait_until

from precalc_assets.defs.dead_runs import PROCESS_TAG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

MODEL = "eos9abc"


def test_run_of_a_command_is_repeated_and_a_killed_one_frees_its_slot(world):
    world.write_model()
    world.build_library()
    home = world.root / "dagster_home"
    home.mkdir()
    shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", home)
    assert world.precalc("run", MODEL).returncode == 0

    with dagster_dev(world, n_shards="4") as dev:
        [computed] = dev.runs_of("raw_predictions")
        assert dev.is_in_timeline(computed)
        repeated = dev.repeat(computed)
        wait_until(lambda: dev.runs_of("raw_predictions")[repeated] == "SUCCESS")

        world.write_model(release="v1.0.1", answer="time.sleep(600)")
        killed = dev.repeat(computed)
        calls = len(world.calls())
        wait_until(lambda: len(world.calls()) > calls)
        waiting = dev.repeat(computed)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert instance.event_log_storage.get_concurrency_info("inference").active_run_ids == {killed}
            _, pid, *_ = instance.get_run_by_id(killed).tags[PROCESS_TAG].split(" ")
        world.write_model(release="v1.0.1")
        os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: dev.runs_of("raw_predictions")[waiting] == "SUCCESS")
        assert dev.runs_of("raw_predictions")[killed] == "FAILURE"
