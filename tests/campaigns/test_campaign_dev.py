"""A campaign through `dagster dev`, its daemon and its code server: to its end, and stopped."""

import os
import signal

import pytest
from dagster_dev import dagster_dev, wait_until

from precalc_assets.campaigns.campaign_records import Campaign, find_latest
from precalc_assets.defs.campaign_sensor import CAMPAIGN_TAG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOOD, BROKEN, ONLINE, SLOW = "eos1aaa", "eos2aaa", "eos3aaa", "eos4aaa"


def start(world, *models: str) -> Campaign:
    done = world.precalc("campaign", "start", *models, "--budget-hours", "1", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return find_latest(world.store)


def standing(campaign: Campaign, model: str) -> str:
    progress = campaign.progress.read()
    return progress.models[model].standing if progress else ""


def test_campaign_survives_a_kill_of_dagster_and_can_be_stopped(world) -> None:
    world.build_library()
    world.write_model(model=GOOD)
    world.write_model(model=BROKEN, answer="raise ValueError(smiles)")
    world.write_model(model=SLOW, answer="time.sleep(1)\nreturn '1.0,1,x'")
    metadata = world.write_model(model=ONLINE) / "metadata.yml"
    metadata.write_text(metadata.read_text() + "Source: Online\n")
    campaign = start(world, GOOD, BROKEN, ONLINE)
    with dagster_dev(world, n_shards="4") as dev:
        wait_until(world.calls)
        os.killpg(dev.process.pid, signal.SIGKILL)
        dev.process.wait(60)
    with dagster_dev(world, n_shards="4") as dev:
        wait_until(lambda: campaign.progress.read().phase == "approval")
        shown = world.precalc("campaign", "status").stdout
        assert f"{BROKEN} broken: " in shown
        assert f"{ONLINE} broken: " in shown
        assert world.precalc("campaign", "approve").returncode == 0
        wait_until(campaign.end.read)
        assert "finished" in world.precalc("campaign", "status").stdout
        assert standing(campaign, GOOD) == "done"

        calls = len(world.calls())
        stopped = start(world, SLOW)
        wait_until(lambda: len(world.calls()) > calls)
        assert world.precalc("campaign", "stop").returncode == 0
        wait_until(stopped.end.read)
        assert stopped.end.read().conclusion == "stopped"
        assert standing(stopped, SLOW) == "cancelled"
        assert len(dev.runs_tagged(CAMPAIGN_TAG, stopped.id)) == 1
