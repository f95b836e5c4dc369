"""Runs whose process was killed. Dagster shows them as started until somebody says that they have ended.

Dagster's code server reports a process that dies while the server lives. Nobody reports a `precalc run` that was
killed, nor a run that died with the whole of Dagster. So each run has a tag that names its process, and the next
command or tick of a sensor on the same machine settles those whose process is gone, and frees their slots of pools. A
run whose process died before it could write the tag is settled after some minutes.
"""

import os
import socket
from datetime import UTC, datetime, timedelta

import dagster as dg
import psutil

from precalc_assets.defs.dagster_internals import CODE_LOCATION_TAG

CODE_LOCATION = "precalc"
"""The name of this code location in workspace.yaml and pyproject.toml."""

PROCESS_TAG = ".dagster/precalc/process"
"""The UI shows no tags with this prefix."""

STAGE_TAGS = {".dagster/precalc/stage": "true"}
"""The tag of a model's run whose process goes on with the next stage by itself."""

_LATEST = 50
"""The newest runs with that tag to look at. A process starts them one after another."""

_CLOCK = 5.0
"""Seconds by which a process's start may seem to move when the machine's clock is set."""

_LONGEST_START = timedelta(minutes=5)
"""Longer than `start_timeout_seconds` in production. A run whose process begins later ends without doing anything."""

UNFINISHED = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def process_tags(run_id: str) -> dict[str, str]:
    """Return the tags that say of a run that this process, on this machine, executes it.

    They name the run, too, since Dagster copies tags to the runs that repeat it.
    """
    return {PROCESS_TAG: f"{run_id} {os.getpid()} {psutil.Process().create_time():.2f} {socket.gethostname()}"}


def is_of_this_process(run: dg.DagsterRun) -> bool:
    """Return whether this process executes a run by itself, as `precalc run` does."""
    return run.tags.get(PROCESS_TAG) == process_tags(run.run_id)[PROCESS_TAG]


def models_at_work(instance: dg.DagsterInstance) -> set[str]:
    """Return the models that processes of this machine take through their stages, also between two runs."""
    stages = instance.get_runs(dg.RunsFilter(tags=STAGE_TAGS), limit=_LATEST)
    return {run.tags["model"] for run in stages if _has_live_process(run)}


def settle_dead_runs(instance: dg.DagsterInstance) -> None:
    """Report the runs of this machine as failed, or as cancelled if that was asked for, whose process is gone."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        tagged, pid, started, host = _process_of(run)
        if (tagged, host) != (run.run_id, socket.gethostname()) or _is_alive(int(pid), float(started)):
            continue
        why = (
            f"process {pid} on {host}, which executed this run, no longer exists and recorded no end: it was killed, "
            "or the machine restarted. Finished work is kept; start the run again"
        )
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, why)
        else:
            instance.report_run_failed(run, why)
    late = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
        updated_before=datetime.now(UTC) - _LONGEST_START,
        # Runs of other code locations write no tag.
        tags={CODE_LOCATION_TAG: CODE_LOCATION},
    )
    for run in instance.get_runs(late):
        if not run.tags.get(PROCESS_TAG, "").startswith(run.run_id):
            instance.report_run_failed(run, f"no process has begun this run within {_LONGEST_START}: start it again")
    _free_slots(instance)


def _free_slots(instance: dg.DagsterInstance) -> None:
    """Free the slots of pools that ended runs hold: a process that was killed has freed none."""
    storage = instance.event_log_storage
    holders = [*storage.get_concurrency_run_ids()]
    for run in instance.get_runs(dg.RunsFilter(run_ids=holders)) if holders else ():
        if run.is_finished:
            storage.free_concurrency_slots_for_run(run.run_id)


def _process_of(run: dg.DagsterRun) -> tuple[str, str, str, str]:
    """Return the run that the tag of a run names, and its process: id, start and host; empty without a tag."""
    tagged, pid, started, host = [*run.tags.get(PROCESS_TAG, "").split(" "), *[""] * 4][:4]
    return tagged, pid, started, host


def _has_live_process(run: dg.DagsterRun) -> bool:
    tagged, pid, started, host = _process_of(run)
    return (tagged, host) == (run.run_id, socket.gethostname()) and _is_alive(int(pid), float(started))


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started) < _CLOCK
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
