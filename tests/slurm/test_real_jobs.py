"""Shards are computed by real SLURM jobs, through every kind of end that a job can have."""

import signal
from pathlib import Path

import obstore
import pytest
from slurm_site import MODEL, SHARDS, Site

from precalc_assets.executions.following import cancel, follow_sample
from precalc_assets.executions.records import CANCELLED, OUT_OF_MEMORY, unsettled
from precalc_assets.platform_errors import ExecutionError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.shard_manifest import manifest_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HUNGRY = """\
if not hasattr(answer, "taken"):
    answer.taken = b"x" * (600 << 20)
    time.sleep(1.5)
return f'{len(smiles) / 3!r},{len(smiles)},x'
"""
"""The answer of a model that takes 600 MB for longer than SLURM's interval of looking."""


def test_shards_are_computed_loaded_and_reported(site: Site) -> None:
    outcomes = site.follow()
    assert all(outcomes[shard].landed for shard in SHARDS), site.said
    assert outcomes["02"].facts["run"].startswith("slurm://precalctest/")
    site.wait_for(lambda: not site.squeue("%i"))
    assert site.world.tables.has_table(MODEL)
    [load] = (site.folder / "slurm-logs").glob("*.load-*.log")
    assert f"**{MODEL}-0001**: 4 of 4 shards" in load.read_text()


def test_task_killed_by_sigkill_is_tried_again(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "2"))
    for process in tried_site.processes("--shards", "2"):
        process.send_signal(signal.SIGKILL)
    go_on.touch()
    outcomes = follower.end()
    assert [outcomes[shard].facts["attempt"] for shard in SHARDS] == [1, 1, 2, 1]
    second = tried_site.executions()[1].intent
    assert second.shards == ("02",)
    assert "its job ended (failed) without raw predictions" in second.reasons["02"][0]


def test_task_out_of_memory_gets_twice_as_much(tried_site: Site) -> None:
    tried_site.world.write_model(answer=HUNGRY)
    follower = tried_site.follower()
    asked: set[str] = set()
    while follower.is_alive():
        asked.update(tried_site.squeue("%j %m", "--states=all"))
        follower.join(1)
    outcomes = follower.end()
    assert all(outcome.facts["attempt"] == 2 for outcome in outcomes.values())
    runs = [execution.run.read() for execution in tried_site.executions()]
    first, second = (f"{MODEL}-{n:04d}.{run.run_id}.predict" for n, run in enumerate(runs, 1))
    memory = {name: int(megabytes[:-1]) for name, megabytes in (line.split() for line in asked)}
    assert memory[second] == pytest.approx(2 * memory[first], abs=1)
    why = tried_site.executions()[1].intent.reasons
    assert all(each.startswith(OUT_OF_MEMORY) for reasons in why.values() for each in reasons)
    assert any("exceeded memory limit" in line for line in tried_site.said)


def test_canary_out_of_memory_gets_twice_as_much(site: Site) -> None:
    site.world.write_model(answer=HUNGRY)
    with pytest.raises(ExecutionError, match=OUT_OF_MEMORY):
        follow_sample(site.engine(slurm_memory=500), MODEL, 2)
    follow_sample(site.engine(slurm_memory=500), MODEL, 2)
    [_, second] = site.executions()
    assert site.squeue("%m", "--states=all", f"--jobs={second.run.read().run_id}") == ["1000M"]
    report = find_report(site.world.store, MODEL)
    assert report.peak_memory > 600 << 20
    # What the canary has measured counts from now on.
    run = site.backend().launch(second.intent.model_copy(update={"reasons": {}}))
    [asked] = site.squeue("%m", "--states=all", f"--jobs={run.run_id}")
    assert int(asked.removesuffix("M")) == pytest.approx(report.peak_memory * 1.25 / (1 << 20) + 512, abs=1)


def test_requeued_task_goes_on_in_the_same_execution(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "1"))
    [task] = [line.split()[0] for line in tried_site.squeue("%A %K", "--states=RUNNING") if line.endswith(" 1")]
    tried_site.cluster.run("scontrol", "requeue", task)
    go_on.touch()
    # SLURM itself would wait for two minutes.
    tried_site.wait_for(lambda: "PENDING" in tried_site.squeue("%T", f"--jobs={task}"))
    tried_site.cluster.run("scontrol", "update", f"JobId={task}", "StartTime=now")
    outcomes = follower.end()
    assert [outcomes[shard].facts["attempt"] for shard in SHARDS] == [1, 1, 1, 1]


def test_cancelled_task_is_tried_again(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "3"))
    [task] = [line.split()[0] for line in tried_site.squeue("%i %K", "--states=RUNNING") if line.endswith(" 3")]
    tried_site.cluster.run("scancel", task)
    go_on.touch()
    assert [each.facts["attempt"] for _, each in sorted(follower.end().items())] == [1, 1, 1, 2]


def test_node_that_dies_has_its_tasks_computed_elsewhere(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "0"))
    tried_site.cluster.kill_node()
    tried_site.wait_for(lambda: not tried_site.squeue("%T", "--states=RUNNING"))
    assert not tried_site.processes("--shards", "0")
    go_on.touch()
    tried_site.cluster.start_node()
    for task in tried_site.squeue("%A", "--states=PENDING"):
        tried_site.cluster.run("scontrol", "update", f"JobId={task}", "StartTime=now")
    assert all(outcome.landed for outcome in follower.end().values())


def test_reset_controller_loses_nothing(tried_site: Site, go_on: Path) -> None:
    """Jobs go on to be computed by processes that SLURM has forgotten, or by another execution under the same ids."""
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "0"))
    tried_site.cluster.reset()
    go_on.touch()
    outcomes = follower.end()
    assert all(outcome.landed for outcome in outcomes.values()), outcomes
    assert all(execution.settled.read() for execution in tried_site.executions()[:-1])


def test_manifest_without_its_job_counts(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "0"))
    tried_site.world.write_model()
    tried_site.world.predict(["03"])
    tried_site.cluster.run("scancel", *tried_site.squeue("%i", "--states=RUNNING"))
    go_on.touch()
    outcomes = follower.end()
    assert outcomes["03"].landed
    assert obstore.head(tried_site.world.store, manifest_name(MODEL, "03"))


def test_cancelling_ends_all_jobs(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "3"))
    cancel(tried_site.engine(), unsettled(tried_site.world.store))
    outcomes = follower.end(may_fail=True)
    assert not any(outcome.landed for outcome in outcomes.values())
    assert not tried_site.squeue("%i")
    assert not tried_site.processes("--shards", "3")
    [execution] = tried_site.executions()
    assert execution.settled.read().conclusion == CANCELLED


def test_follower_that_stops_leaves_its_jobs_to_the_next(tried_site: Site, go_on: Path) -> None:
    first = tried_site.following()
    following = tried_site.follower(first)
    tried_site.wait_for(lambda: tried_site.processes("--shards", "1"))
    second = tried_site.follower()
    go_on.touch()
    following.end()
    assert {outcome.facts["attempt"] for outcome in second.end().values()} == {1}
    assert len(tried_site.executions()) == 1
