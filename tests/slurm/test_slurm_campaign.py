"""A campaign on real SLURM jobs, whose daemon is killed twice, to its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from slurm_cluster import slurm_settings
from slurm_site import Site

from precalc_assets.campaigns.campaign_records import Campaign, find_latest
from precalc_assets.definitions import build_defs
from precalc_assets.defs.campaign_sensor import CAMPAIGN_TAG
from precalc_assets.executions.records import Execution
from precalc_assets.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LONG, UNSTEADY, FAST, PINNED, BROKEN, ONLINE = MODELS = tuple(f"eos{n}aaa" for n in range(1, 7))
BUDGET = 0.34
"""Hours: enough for three models and all canaries on a busy machine, and not for 5,000 molecules of 0.25 s."""


@contextmanager
def daemon(site: Site) -> Iterator[None]:
    """Run a process that ticks and launches, and kill it with its runs at the end."""
    with (site.world.root / "daemon.log").open("a") as log:
        command = [sys.executable, str(Path(__file__).with_name("campaign_daemon.py"))]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.Popen(
            command, cwd=site.world.root, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start(site: Site) -> Campaign:
    world = site.world
    world.write_model(model=FAST)
    for model, seconds in ((UNSTEADY, 0.001), (PINNED, 0.002), (LONG, 0.25)):
        score = "random.random()" if model == UNSTEADY else "len(smiles)"
        world.write_model(model=model, answer=f"import random\ntime.sleep({seconds})\nreturn f'{{{score}}},1,x'")
    world.write_model(model=BROKEN, answer="raise ValueError(smiles)")
    metadata = world.write_model(model=ONLINE) / "metadata.yml"
    metadata.write_text(metadata.read_text() + "Source: Online\n")
    chains = ["C" * n + "CC(C)" * m for n in range(1, 41) for m in range(1, 26)]
    world.build_library([chain + end for chain in chains for end in ("", "O", "N", "Cl", "F")])
    options = ("--budget-hours", str(BUDGET), "--jobs", "2", "--pin", PINNED)
    done = world.precalc("campaign", "start", *MODELS, *options)
    assert done.returncode == 0, done.stderr
    return find_latest(world.store)


def of_shards(site: Site) -> list[Execution]:
    return [execution for execution in site.executions() if execution.intent.shards]


def test_campaign_ends_with_the_truth_whatever_is_killed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    world, home = site.world, site.world.root / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    for name, value in slurm_settings(site.folder, compute="slurm").items():
        monkeypatch.setenv(f"PRECALC_{name.upper()}", str(value))
    campaign = start(site)
    with daemon(site):
        site.wait_for(lambda: len(site.squeue("%i", "--states=RUNNING")) == 2)
    with daemon(site):
        site.wait_for(lambda: campaign.progress.read().phase == "approval", 600)
        shown = world.precalc("campaign", "status").stdout
        assert world.precalc("campaign", "approve").returncode == 0
        site.wait_for(lambda: site.processes("--shards", "0"))
    with daemon(site):
        site.wait_for(campaign.end.read, 600)

    progress = campaign.progress.read()
    standings = {model: each.standing for model, each in progress.models.items()}
    assert standings == {
        **dict.fromkeys((PINNED, FAST, UNSTEADY), "done"),
        **dict.fromkeys((BROKEN, ONLINE), "broken"),
        LONG: "left out",
    }
    assert f"{UNSTEADY} ready: deterministic: 1 of 3 columns vary" in shown
    assert f"{BROKEN} broken: {BROKEN} not_all_null: {BROKEN} answers no molecule" in shown
    assert "third party's server" in progress.models[ONLINE].why
    with dg.DagsterInstance.get() as instance:
        runs = reversed(instance.get_runs(dg.RunsFilter(job_name="compute_shards", tags={CAMPAIGN_TAG: campaign.id})))
        shortest_first = sorted((FAST, UNSTEADY), key=lambda model: progress.models[model].hours)
        assert [*dict.fromkeys(run.tags["model"] for run in runs)] == [PINNED, *shortest_first]
        refresh = build_defs(Platform(site.settings())).resolve_job_def("refresh_status")
        [hub, page] = refresh.execute_in_process(instance=instance).asset_materializations_for_node("status")
    executions = site.executions()
    assert [execution.model for execution in executions if execution.intent.sample] == sorted(MODELS)
    assert sorted(execution.model for execution in of_shards(site)) == sorted((PINNED, FAST, UNSTEADY))
    seconds = sum(execution.settled.read().runner_seconds for execution in executions)
    assert progress.spent_hours == pytest.approx(seconds / 3600)
    line = f"finished; {progress.spent_hours:.2f} of {BUDGET} hours spent; 3 done, 2 broken, 1 left out"
    assert f"campaign {campaign.id}: {line}\n" in world.precalc("campaign", "status").stdout
    assert page.metadata["campaign"].value == f"campaign {campaign.id}: {line}"
    assert hub.metadata["complete"].value == "3 of 6 models"
