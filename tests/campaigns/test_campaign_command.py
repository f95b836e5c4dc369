"""`precalc campaign …`: what it accepts and refuses, and what it shows."""

from datetime import UTC, datetime, timedelta

import pytest
from fake_hub import hub_entry, write_registry

from precalc_assets.campaigns.campaign_records import (
    Campaign,
    End,
    ModelStanding,
    Progress,
    find_latest,
    find_unfinished,
)

BUDGET = ("--budget-hours", "5")


def progress(campaign: Campaign, phase: str, age: timedelta = timedelta(0), **more) -> None:
    """Record what a tick has seen."""
    models = {
        "eos1aaa": ModelStanding(standing="ready", hours=1.5, landed=2, spent_hours=0.25),
        "eos2aaa": ModelStanding(standing="broken", why="not_all_null: it answers nothing", spent_hours=0.25),
    }
    seen_at = datetime.now(UTC) - age
    campaign.progress.put(Progress(**{"phase": phase, "models": models, "seen_at": seen_at, **more}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eos1aaa"], "the campaign has no budget; give --budget-hours or --budget-dollars"),
        (["eos1aaa", "--budget-hours", "0"], "--budget-hours 0 is no budget; give a number above 0"),
        (["eos1aaa", "--budget-hours", "-3"], "--budget-hours -3 is no budget"),
        (["eos1aaa", "--budget-hours", "nan"], "--budget-hours nan is no budget"),
        (["eos1aaa", "--budget-dollars", "inf"], "--budget-dollars inf is no budget"),
        (["eos1aaa", "--budget-dollars", "5"], "PRECALC_RUNNER_PRICE is 0"),
        ([*BUDGET], "the campaign has no models; name them, or give --file or --ready"),
        (["aspirin", *BUDGET], "'aspirin' is not a model id"),
        (["eos1aaa", *BUDGET, "--pin", "eos2aaa"], "--pin eos2aaa: it is not one of the campaign's models"),
        (["eos1aaa", *BUDGET, "--jobs", "0"], "--jobs"),
        ([*BUDGET, "--file", "missing.txt"], "missing.txt cannot be read: No such file or directory"),
        ([*BUDGET, "--file", "empty.txt"], "empty.txt names no model"),
        ([*BUDGET, "--file", "bad.txt"], "bad.txt, line 3: 'eos' is not a model id"),
        ([*BUDGET, "--file", "binary.txt"], "binary.txt cannot be read: it is not UTF-8"),
    ],
)
def test_start_refuses_and_says_what_helps(world, arguments: list[str], words: str) -> None:
    (world.root / "empty.txt").write_text("# nothing yet\n\n")
    (world.root / "bad.txt").write_text("eos1aaa\n\neos\n")
    (world.root / "binary.txt").write_bytes(b"\xff\xfe\x00")
    done = world.precalc("campaign", "start", *arguments)
    assert done.returncode in (1, 2)
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert find_unfinished(world.store) is None


def test_file_may_have_comments_blank_lines_and_duplicates(world) -> None:
    (world.root / "models.txt").write_text("\ufeff# the first ones\r\neos1aaa  # fast\r\n\r\n  eos2aaa\neos1aaa\n")
    done = world.precalc("campaign", "start", "eos2aaa", "eos3aaa", "--file", "models.txt", *BUDGET, "--pin", "eos1aaa")
    assert done.returncode == 0, done.stderr
    intent = find_latest(world.store).intent
    assert done.stdout.strip() == find_latest(world.store).id
    assert intent.models == ("eos2aaa", "eos3aaa", "eos1aaa")
    assert (intent.pinned, intent.budget_hours, intent.budget_dollars, intent.jobs) == (("eos1aaa",), 5, None, 2)


def test_ready_models_are_those_of_the_hub_that_may_be_computed(world) -> None:
    entries = [hub_entry("eos1aaa"), hub_entry("eos2aaa", Source="Online"), hub_entry("eos3aaa", Status="Archived")]
    registry = write_registry(world.root / "models.json", *entries)
    done = world.precalc("campaign", "start", "eos4aaa", "--ready", *BUDGET, hub_registry=registry)
    assert done.returncode == 0, done.stderr
    assert find_latest(world.store).intent.models == ("eos4aaa", "eos1aaa")


def test_one_campaign_at_a_time(world) -> None:
    assert world.precalc("campaign", "start", "eos1aaa", *BUDGET).returncode == 0
    campaign = find_unfinished(world.store)
    assert campaign
    done = world.precalc("campaign", "start", "eos2aaa", *BUDGET)
    assert (done.returncode, campaign.id in done.stderr) == (1, True)
    assert "precalc campaign stop" in done.stderr
    campaign.end.create(End(conclusion="finished", ended_at=datetime.now(UTC)))
    assert find_unfinished(world.store) is None


@pytest.mark.parametrize("command", ["approve", "pause", "resume", "stop", "status"])
def test_commands_say_that_there_is_no_campaign(world, command: str) -> None:
    done = world.precalc("campaign", command)
    assert done.returncode == 1
    assert "start one: `precalc campaign start`" in done.stderr


def test_approval_waits_for_all_canaries(world) -> None:
    world.precalc("campaign", "start", "eos1aaa", "eos2aaa", *BUDGET)
    campaign = find_latest(world.store)
    for phase in (None, "canaries"):
        if phase:
            progress(campaign, phase)
        done = world.precalc("campaign", "approve")
        assert (done.returncode, "its canaries have not all ended" in done.stderr) == (1, True)
    assert campaign.approval.read() is None
    progress(campaign, "approval")
    done = world.precalc("campaign", "approve")
    assert (done.returncode, "approved; 1 models, 1.50 hours" in done.stdout) == (0, True)
    assert campaign.approval.read()
    assert "approved already" in world.precalc("campaign", "approve").stderr


def test_pause_resume_and_stop_leave_their_records(world) -> None:
    world.precalc("campaign", "start", "eos1aaa", *BUDGET)
    campaign = find_latest(world.store)
    assert world.precalc("campaign", "pause").returncode == 0
    assert campaign.pause.read().paused
    assert world.precalc("campaign", "resume").returncode == 0
    assert not campaign.pause.read().paused
    assert world.precalc("campaign", "stop").returncode == 0
    assert campaign.stop.read()


def test_status_shows_the_report_and_what_to_do(world) -> None:
    world.precalc("campaign", "start", "eos1aaa", "eos2aaa", *BUDGET, "--budget-dollars", "9", runner_price="2")
    assert "not begun" in world.precalc("campaign", "status").stdout
    campaign = find_latest(world.store)
    progress(campaign, "approval")
    shown = world.precalc("campaign", "status", runner_price="2")
    assert shown.returncode == 0, shown.stderr
    assert "approval; 0.50 of 5.00 hours and $1.00 of $9.00 spent" in shown.stdout
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.startswith("eos")}
    assert lines["eos1aaa"].split()[1:4] == ["ready", "1.50", "$3.00"]
    assert "2/4" in lines["eos1aaa"]
    assert "broken" in lines["eos2aaa"]
    assert "precalc campaign approve" in shown.stdout


def test_status_says_why_nothing_is_launched(world) -> None:
    world.precalc("campaign", "start", "eos1aaa", *BUDGET)
    campaign = find_latest(world.store)
    progress(campaign, "models", timedelta(hours=1), held="3 failures of the infrastructure in a row")
    shown = world.precalc("campaign", "status")
    assert "nothing is launched: 3 failures of the infrastructure in a row" in shown.stdout
    assert "`precalc campaign resume` goes on" in shown.stdout
    assert "is Dagster up?" in shown.stderr
