"""Runs whose process was killed are settled by the next command or tick on the same machine."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status
from dagster._core.test_utils import create_run_for_test
from graphs import MOLECULES, Graph

from precalc_assets.defs.dead_runs import PROCESS_TAG, process_tags, settle_dead_runs


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tag_of_a_dead_process(run_id: str = "{run_id}") -> str:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return f"{run_id} {process.pid} 1000.00 {socket.gethostname()}"


def settled(instance: dg.DagsterInstance, tag: str | None, status: Status, location: str = "precalc") -> Status:
    """Settle a run with a tag, in which its id replaces `{run_id}`; return its status."""
    run_id = str(uuid4())
    tags = {PROCESS_TAG: tag.replace("{run_id}", run_id)} if tag else {}
    tags["dagster/code_location"] = location
    run = create_run_for_test(instance, "job", run_id=run_id, status=status, tags=tags)
    settle_dead_runs(instance)
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found.status


@pytest.mark.parametrize("status", [Status.NOT_STARTED, Status.STARTING, Status.STARTED])
def test_run_of_a_dead_process_has_failed(instance: dg.DagsterInstance, status: Status) -> None:
    assert settled(instance, tag_of_a_dead_process(), status) is Status.FAILURE
    [event] = instance.all_logs(instance.get_runs()[0].run_id)
    assert f"on {socket.gethostname()}, which executed this run, no longer exists" in str(event.dagster_event)


def test_run_that_was_being_cancelled_is_cancelled(instance: dg.DagsterInstance) -> None:
    assert settled(instance, tag_of_a_dead_process(), Status.CANCELING) is Status.CANCELED


def test_process_with_the_id_of_a_dead_one_is_another(instance: dg.DagsterInstance) -> None:
    _, pid, started, host = process_tags("")[PROCESS_TAG].split(" ")
    tag = f"{{run_id}} {pid} {float(started) - 60:.2f} {host}"
    assert settled(instance, tag, Status.STARTED) is Status.FAILURE


def test_run_that_nobody_has_begun_has_failed_after_a_while(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status in (Status.STARTING, Status.STARTED):
        assert settled(instance, None, status) is status
    monkeypatch.setattr("precalc_assets.defs.dead_runs._LONGEST_START", timedelta(0))
    for status in (Status.STARTING, Status.STARTED):
        assert settled(instance, None, status) is Status.FAILURE
        assert settled(instance, process_tags("{run_id}")[PROCESS_TAG], status) is status
        assert settled(instance, None, status, location="another") is status
    assert settled(instance, None, Status.NOT_STARTED) is Status.NOT_STARTED


def test_every_step_tags_its_run_before_it_waits_for_a_slot(world, instance: dg.DagsterInstance) -> None:
    """The resource writes the tag, so each step has to take it."""
    definitions = Graph(world, instance).defs
    jobs = definitions.resolve_all_job_defs()
    steps = {node.name: node.definition for job in jobs for node in job.graph.nodes}
    assert {name for name, op in steps.items() if "platform" not in op.required_resource_keys} == set()


def test_slots_of_ended_runs_are_free_again(tmp_path) -> None:
    pools = {"pools": {"default_limit": 1, "granularity": "op"}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"concurrency": pools}) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("inference", 3)
        for tag, status in (
            (tag_of_a_dead_process(), Status.STARTED),
            (None, Status.FAILURE),
            (process_tags("{run_id}")[PROCESS_TAG], Status.STARTED),
        ):
            run_id = str(uuid4())
            tags = {PROCESS_TAG: tag.replace("{run_id}", run_id)} if tag else {}
            create_run_for_test(instance, "job", run_id=run_id, status=status, tags=tags)
            assert storage.claim_concurrency_slot("inference", run_id, "step").is_claimed

        settle_dead_runs(instance)

        assert storage.get_concurrency_info("inference").active_run_ids == {run_id}


def test_run_that_repeats_a_dead_one_is_another(instance: dg.DagsterInstance) -> None:
    """Dagster copies the tags of a run to its retry, which begins in a process of its own."""
    for status in (Status.NOT_STARTED, Status.STARTING, Status.STARTED):
        assert settled(instance, tag_of_a_dead_process("1" * 36), status) is status


@pytest.mark.parametrize("host", [None, "another-machine", ""])
def test_runs_of_living_processes_and_other_machines_stay(instance: dg.DagsterInstance, host: str | None) -> None:
    own = process_tags("{run_id}")[PROCESS_TAG]
    tag = own if host is None else f"{tag_of_a_dead_process().rpartition(' ')[0]} {host}"
    assert settled(instance, tag, Status.STARTED) is Status.STARTED
    assert settled(instance, None, Status.STARTED) is Status.STARTED


def test_finished_runs_stay_as_they_are(instance: dg.DagsterInstance) -> None:
    assert settled(instance, tag_of_a_dead_process(), Status.SUCCESS) is Status.SUCCESS
    assert settled(instance, tag_of_a_dead_process(), Status.CANCELED) is Status.CANCELED


def test_a_run_names_its_process_and_a_tick_settles_dead_ones(world, instance: dg.DagsterInstance) -> None:
    graph = Graph(world, instance)
    graph.change_library(MOLECULES)
    assert graph.materialize("reference_library").success
    [run] = instance.get_runs()
    assert run.tags[PROCESS_TAG] == process_tags(run.run_id)[PROCESS_TAG]

    run_id = str(uuid4())
    tags = {PROCESS_TAG: tag_of_a_dead_process(run_id)}
    dead = create_run_for_test(instance, "job", run_id=run_id, status=Status.STARTED, tags=tags)
    repository = graph.defs.get_repository_def()
    context = dg.build_sensor_context(
        instance=instance, repository_def=repository, resources={"platform": graph.platform}
    )
    repository.get_sensor_def("precalculation_requests").evaluate_tick(context)
    found = instance.get_run_by_id(dead.run_id)
    assert found
    assert found.status is Status.FAILURE
