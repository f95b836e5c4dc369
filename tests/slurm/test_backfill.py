"""A model's fifty shards, from Dagster through real SLURM jobs to its table, whatever is killed on the way."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dagster_dev import SHARDS, DagsterDev, build_fifty_shards, dagster_dev, wait_until
from slurm_cluster import slurm_settings
from slurm_site import MODEL, Site

from precalc_assets.executions.records import CANCELLED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def settings(site: Site) -> dict[str, str]:
    return {"compute": "slurm", **{name: str(value) for name, value in slurm_settings(site.folder).items()}}


def test_fifty_shards_reach_the_table_whatever_is_killed(site: Site) -> None:
    build_fifty_shards(site.world)
    with dagster_dev(site.world, **settings(site)) as dev:
        dev.add_model(MODEL)
        dev.backfill("raw_predictions", [f"{MODEL}|{shard}" for shard in SHARDS])
        wait_until(lambda: site.processes("predict", f"{MODEL}-0001"))
        for task in site.processes("--shards", "7"):
            task.kill()
        wait_until(lambda: dev.materialized("raw_predictions") > 0)
        [dead] = dev.runs_of("raw_predictions")
        os.kill(process_of(dev, dead), signal.SIGKILL)
        wait_until(lambda: dev.runs_of("raw_predictions")[dead] == "FAILURE")
        dev.wait_for("prediction_table", len(SHARDS), may_fail=True)
        [_, *_] = dev.runs_tagged("precalc/execution", f"{MODEL}-0001")
        attempts = {
            event["partition"]: entry["intValue"]
            for event in dev.materializations("raw_predictions")
            for entry in event["metadataEntries"]
            if entry["label"] == "attempt"
        }
    assert attempts.pop(f"{MODEL}|07") == 2
    assert set(attempts.values()) == {1}, "the run that died was followed by another one"
    assert all(execution.settled.read() for execution in site.executions())


def process_of(dev: DagsterDev, run: str) -> int:
    """Return the id of the process that executes a run."""
    events = dev.ask(_MESSAGES, run=run)["logsForRun"]["events"]
    [found] = {int(found[1]) for event in events if (found := re.search(r"\(pid: (\d+)\)", event.get("message", "")))}
    return found


_MESSAGES = """
query($run: ID!) {
  logsForRun(runId: $run) { ... on EventConnection { events { ... on MessageEvent { message } } } }
}"""


def test_ctrl_c_cancels_the_array(site: Site, go_on: Path) -> None:
    home = site.world.root / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    named = {f"PRECALC_{name.upper()}": value for name, value in settings(site).items()}
    environment = {**os.environ, **named, "DAGSTER_HOME": str(home)}
    command = [str(Path(sys.executable).parent / "precalc"), "run", MODEL]
    process = subprocess.Popen(command, env=environment, cwd=site.world.root, stderr=subprocess.PIPE, text=True)
    try:
        site.wait_for(lambda: site.processes("--shards", "2"), 120)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode not in (0, None), said
    site.wait_for(lambda: not site.squeue("%i"), 5)
    [execution] = site.executions()
    assert execution.settled.read().conclusion == CANCELLED
