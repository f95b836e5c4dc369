"""SLURM as a compute backend: an execution is three batch jobs on a cluster.

    plan      claims the execution and runs the canary
    predict   an array of a task for each shard; begins when `plan` has succeeded
    load      loads what landed, and reports; begins when all tasks have ended

The jobs call `precalc jobs` and nothing else. A run has the id of its job `plan`; job ids begin anew when a controller
is reset, so a run is known by the cluster's name, the job's name and the time of its submission, too.

It speaks SLURM 22.05 or newer by its commands, on this machine or through ssh. Jobs that have ended vanish from
`squeue` after the cluster's MinJobAge; `sacct` still has them if the cluster keeps accounts.
"""

import math
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import uuid4

from obstore.store import ObjectStore

from precalc_assets.executions.compute_backend import (
    BackendError,
    NotNowError,
    RefusedError,
    RunStatus,
    UnansweredError,
    tail,
)
from precalc_assets.executions.records import Intent, Job, Run, StoreCheck, store_check
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.processes import printable
from precalc_assets.settings import Settings
from precalc_assets.sharding import format_shards, shard_key

RunCommand = Callable[[Sequence[str], str], "subprocess.CompletedProcess[str]"]
"""Runs a command with an input, and returns what it said. Raises subprocess.TimeoutExpired."""

_TIMEOUT = 12.0
"""Seconds for a command. SLURM's own timeout of a message is 10 by default (slurm.conf, MessageTimeout)."""

_LATER = timedelta(seconds=30)
"""Pause before the next request after one that was not carried out."""

_CLOCKS = timedelta(minutes=10)
"""Largest difference between the cluster's clock and ours. An older job is of another store's execution."""

_HOLD = 60
"""Seconds that the first job waits for the others to be submitted, which takes four commands at most. It is told to
begin as soon as they are. If they are refused it has not begun, and can be cancelled without a trace."""

_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")

_LOGS = "slurm-logs"

_HEADROOM = 1.25
_OWN_MEGABYTES = 512
"""Memory to ask for beyond the model's measured peak: a share of it, and what our own process takes."""

_MARGIN = 20
"""Minutes before a job's time limit at which it stops computing, to store what it has; a third of a short limit."""

_ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
"""States of jobs that have ended (squeue, "Job state codes"); SLURM itself starts requeued jobs again."""

_NOTHING_DONE = re.compile(
    r"^ssh: |kex_exchange_identification|Unable to contact slurm controller|standby mode"
    r"|temporarily unable to accept job|Resource temporarily unavailable|MaxSubmitJob",
    re.MULTILINE,
)
"""What ssh says before it is connected, and SLURM when it is not reached, or when a queue is full."""

_UNKNOWN = re.compile(r"Socket timed out|Zero Bytes|Connection reset|Unexpected message|Unspecified error")
"""What SLURM's commands say when the controller's answer is missing: it may have done what it was asked."""

_NO_LOGIN = re.compile(r"Permission denied \(|Host key verification failed")

_MEMORY_WORDS = "oom[-_]kill|memory limit"
"""What SLURM writes into the log of a job that it kills for its memory, whatever state it then shows."""


def open_slurm(settings: Settings, store: ObjectStore) -> "SlurmBackend":
    """Return the backend for the settings' cluster."""
    ssh = [*_SSH, *shlex.split(settings.slurm_ssh)] if settings.slurm_ssh else []

    def run(command: Sequence[str], given: str) -> "subprocess.CompletedProcess[str]":
        line = [*ssh, shlex.join(command)] if ssh else [*command]
        # A session of its own: Ctrl-C must not end a command that is starting a job.
        options = {"capture_output": True, "text": True, "errors": "replace", "start_new_session": True}
        return subprocess.run(line, input=given, timeout=_TIMEOUT, check=False, **options)  # type: ignore[call-overload, no-any-return]

    return SlurmBackend(settings, store, run)


@dataclass(frozen=True)
class _Task:
    """A job or a task of an array, as SLURM lists it. `id` reads `17` or, for a task, `18_7`; `why` is why it waits."""

    id: str
    name: str
    state: str
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    why: str = ""

    @property
    def index(self) -> str:
        """The task's place in its array: the shard's number; empty for a job that is no array."""
        return self.id.partition("_")[2]


class SlurmBackend:
    """A SLURM cluster: an execution is three jobs. Implements `ComputeBackend`."""

    def __init__(self, settings: Settings, store: ObjectStore, run: RunCommand) -> None:
        self._settings = settings
        self._store = store
        self._run = run

    def launch(self, intent: Intent) -> Run:
        """Submit the jobs; see `ComputeBackend`. If not all of them are accepted, the first one is cancelled."""
        cluster = self.cluster
        self._ask("mkdir", "-p", f"{self._settings.slurm_folder}/{_LOGS}")
        job = "$SLURM_JOB_ID"
        plan = f"precalc jobs plan {intent.model} --key {intent.key} && exec precalc jobs canary {intent.key}"
        later = [f"--begin=now+{_HOLD}"] if intent.shards else []
        run_id = self._submit(intent, "plan", _script(cluster, job, plan), *later)
        run = Run(run_id=run_id, url=f"slurm://{cluster}/{run_id}")
        if not intent.shards:
            return run
        try:
            self._submit_shards(intent, run)
        except (RefusedError, NotNowError) as error:
            try:
                self.cancel(intent, run)
            except BackendError as other:
                raise UnansweredError(f"{error}; job {run_id} cannot be cancelled: {other}") from error
            raise
        with suppress(BackendError):  # then it begins by itself
            self._ask("scontrol", "update", f"JobId={run_id}", "StartTime=now")
        return run

    def look_up(self, intent: Intent) -> Run | None:
        """Return the first run whose job `plan` has the key in its name; see `ComputeBackend`."""
        ids = [int(task.id) for task in self._list(intent, 1, _job_names(intent)[0])]
        return Run(run_id=min(ids), url=f"slurm://{self.cluster}/{min(ids)}") if ids else None

    def status(self, intent: Intent, run: Run) -> RunStatus | None:
        """See `ComputeBackend`."""
        tasks = {task.id: task for task in self._tasks(intent, run)}
        ended = all(task.state in _ENDED for task in tasks.values())
        if ended and any(task.state != "COMPLETED" for task in tasks.values()):
            for task in self._killed_for_memory(intent, run):
                tasks[task.id] = replace(tasks.get(task.id, task), state=task.state)
        if not tasks:
            return None
        # Jobs that depend on a failed one are cancelled, so a cancelled one says least.
        states = sorted((t.state for t in tasks.values() if t.state != "COMPLETED"), key=lambda s: s == "CANCELLED")
        return RunStatus(
            run=run,
            conclusion=(_word(states[0]) if states else "success") if ended else None,
            created_at=min(task.submitted_at for task in tasks.values()),
            jobs=tuple(self._job(task) for task in tasks.values()),
        )

    def read_log(self, intent: Intent, job: Job) -> str:  # noqa: ARG002 - the protocol's signature
        """See `ComputeBackend`."""
        path = f"{self._settings.slurm_folder}/{_LOGS}/{job.name}-{job.url.rpartition('/')[2]}.log"
        return tail(self._ask("tail", "-c", "20000", path))

    def cancel(self, intent: Intent, run: Run, *, force: bool = False) -> None:
        """See `ComputeBackend`."""
        active = [task.id for task in self._tasks(intent, run) if task.state not in _ENDED]
        # The last job first: the end of the one before would start it.
        ids = sorted({task_id.partition("_")[0] for task_id in active}, key=int, reverse=True)
        if ids:
            self._ask("scancel", *(["--full", "--signal=KILL"] if force else []), *ids)

    def check(self) -> Iterator[str]:
        """Yield a line for each check of the setup that passed, and submit nothing. Raises BackendError."""
        yield f"cluster: {self.cluster} is reached"
        folder, token = self._settings.slurm_folder, uuid4().hex
        store_check(self._store).put(StoreCheck(token=token))
        self._ask("sh", "-c", f"cd {shlex.quote(folder)} && {_PATH} && precalc jobs check {token}")
        yield f"folder: {folder} is there, and precalc in it has the same store as here"
        self._ask("sbatch", "--test-only", *self._options(1), given="#!/bin/sh\n")
        yield "options: a job with these settings would be accepted"

    @cached_property
    def cluster(self) -> str:
        """The cluster's name."""
        said = self._ask("scontrol", "show", "config")
        found = re.search(r"^ClusterName\s*=\s*(\S+)", said, re.MULTILINE)
        if not found:
            raise UnansweredError(f"scontrol names no cluster: {printable(said, 100)}")
        return found[1]

    def _submit_shards(self, intent: Intent, run: Run) -> None:
        settings, cluster, run_id = self._settings, self.cluster, str(run.run_id)
        indices = ",".join(str(int(shard)) for shard in intent.shards)
        until = settings.slurm_minutes - min(_MARGIN, settings.slurm_minutes // 3)
        predict = f'exec precalc jobs predict {intent.key} --shards "$SLURM_ARRAY_TASK_ID" --until {until}m'
        array = (f"--array={indices}%{settings.machines}", f"--dependency=afterok:{run_id}")
        array_id = self._submit(intent, f"{run_id}.predict", _script(cluster, run_id, predict), *array)
        load = f"precalc jobs load {intent.key} --shards {format_shards(intent.shards)}\nloaded=$?"
        report = f"precalc jobs report {intent.key} && exit $loaded"
        after = f"--dependency=afterok:{run_id},afterany:{array_id}"
        self._submit(intent, f"{run_id}.load", _script(cluster, run_id, f"{load}\n{report}"), after)

    def _submit(self, intent: Intent, name: str, script: str, *options: str) -> int:
        """Submit a job and return its id."""
        report = find_report(self._store, intent.model)
        peak = report.peak_memory if report else None
        megabytes = peak / (1 << 20) * _HEADROOM + _OWN_MEGABYTES if peak else self._settings.slurm_memory
        asked = self._options(math.ceil(megabytes * 2**intent.memory_failures))
        log = "%A_%a" if any(option.startswith("--array") for option in options) else "%j"
        ours = (f"--job-name={intent.key}.{name}", f"--output={_LOGS}/%x-{log}.log", "--open-mode=append")
        said = self._ask("sbatch", "--parsable", "--kill-on-invalid-dep=yes", *asked, *ours, *options, given=script)
        found = re.search(r"^(\d+)(;.*)?$", said, re.MULTILINE)
        if not found:
            raise UnansweredError(f"the answer of sbatch is no job id: {printable(said)}")
        return int(found[1])

    def _options(self, megabytes: int) -> list[str]:
        settings = self._settings
        named = {"partition": settings.slurm_partition, "account": settings.slurm_account, "qos": settings.slurm_qos}
        chosen = [f"--{name}={value}" for name, value in named.items() if value]
        limits = [f"--mem={megabytes}M", f"--time={settings.slurm_minutes}", f"--chdir={settings.slurm_folder}"]
        return [*limits, *chosen, *shlex.split(settings.slurm_options)]

    def _tasks(self, intent: Intent, run: Run) -> list[_Task]:
        """Return the jobs of a run that SLURM still knows. Raises RefusedError if the run is of another cluster."""
        if run.url and run.url != f"slurm://{self.cluster}/{run.run_id}":
            raise RefusedError(
                f"{run.url} is not a run of {self.cluster}, the cluster of these settings; set PRECALC_SLURM_SSH to "
                f"its cluster, or delete the records of {intent.key} to give it up",
                0,
            )
        names = _job_names(intent, run.run_id)
        listed = self._list(intent, len(intent.shards) + len(names), *names)
        mine = [task for task in listed if not task.name.endswith(".plan") or task.id == str(run.run_id)]
        return sorted(mine, key=lambda task: (names.index(task.name), int(task.index or 0)))

    def _list(self, intent: Intent, expected: int, *names: str) -> list[_Task]:
        """Return the jobs of these names that are not of another store; from the accounts, too, if some are missing."""
        named = f"--name={','.join(names)}"
        ours = ("--noheader", "--states=all", "--array", "--me", named)
        tasks = _parse(self._ask("squeue", *ours, "--format=%i|%j|%T|%V|%S|%e|%r"))
        if len(tasks) < expected:
            since = f"--starttime={intent.created_at - _CLOCKS:%Y-%m-%dT%H:%M:%S}"
            fields = "--format=JobID,JobName,State,Submit,Start,End"
            try:
                kept = self._ask("sacct", "--noheader", "--parsable2", "--allocations", named, since, fields)
            except RefusedError:  # this cluster keeps no accounts
                kept = ""
            tasks = _parse(kept) | tasks
        return [task for task in tasks.values() if task.submitted_at > intent.created_at - _CLOCKS]

    def _killed_for_memory(self, intent: Intent, run: Run) -> Iterator[_Task]:
        """Yield the jobs whose logs say that SLURM killed them for their memory, also those that it has forgotten."""
        logs = f"{self._settings.slurm_folder}/{_LOGS}"
        include = [f"--include={name}-*.log" for name in _job_names(intent, run.run_id)]
        # grep ends with 1 if it finds nothing.
        found = self._ask("grep", "-rlE", _MEMORY_WORDS, *include, logs, fine=(0, 1))
        for path in found.splitlines():
            name, _, job_id = path.rpartition("/")[2].removesuffix(".log").rpartition("-")
            yield _Task(job_id, name, "OUT_OF_MEMORY", intent.created_at)

    def _job(self, task: _Task) -> Job:
        shards = (shard_key(int(task.index), self._settings.n_shards),) if task.index else ()
        return Job(
            name=task.name,
            url=f"slurm://{self.cluster}/{task.id}",
            status=_word(task.state) + (f" ({task.why})" if task.why else ""),
            shards=shards,
            queued_at=task.submitted_at,
            started_at=task.started_at,
            ended_at=task.ended_at,
        )

    def _ask(self, *command: str, given: str = "", fine: tuple[int, ...] = (0,)) -> str:
        """Return what a command prints. It runs by `env`, which says by 127 that there is no such command."""
        name = command[0]
        try:
            # Times as seconds since 1970, so that the cluster's time zone does not matter.
            done = self._run(["env", "SLURM_TIME_FORMAT=%s", "TZ=UTC", *command], given)
        except subprocess.TimeoutExpired as error:
            said = error.stderr.decode("utf-8", "replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            if _NOTHING_DONE.search(said):
                raise NotNowError(f"{name}: {_last(said)}", _LATER) from error
            raise UnansweredError(f"{name} gives no answer in {_TIMEOUT:g} s: {_last(said)}") from error
        except OSError as error:
            raise RefusedError(f"{name} cannot be started: {error.strerror}", 0) from error
        if done.returncode in fine:
            return done.stdout
        raise self._explain(name, done.returncode, done.stderr)

    def _explain(self, name: str, code: int, said: str) -> BackendError:
        """Translate a command's failure into what it means for the request."""
        where = "there" if self._settings.slurm_ssh else "on this machine"
        message = f"{name}: {_last(said)}"
        if code == 127:
            remedy = "set PRECALC_SLURM_SSH to a machine that has SLURM's commands, or correct PATH"
            return RefusedError(f"there is no command {name} {where}; {remedy}", code)
        if _NOTHING_DONE.search(said):
            return NotNowError(message, _LATER)
        if _NO_LOGIN.search(said):
            return RefusedError(f"{message}; `ssh {self._settings.slurm_ssh}` must work without a password", code)
        dropped = code == 255 and self._settings.slurm_ssh and f"{name}: " not in said
        if dropped or _UNKNOWN.search(said):
            return UnansweredError(message)
        return RefusedError(message, code)


_PATH = 'export PATH="$PWD/.venv/bin:$PATH"'


def _script(cluster: str, run_id: str, commands: str) -> str:
    run = f'PRECALC_RUN_ID={run_id} PRECALC_RUN_URL="slurm://{cluster}/{run_id}"'
    return f"#!/bin/bash\n{_PATH} {run}\n{commands}\n"


def _job_names(intent: Intent, run_id: int = 0) -> list[str]:
    """Return the names of a run's jobs, `plan` first; those of the others have the run's id."""
    later = [f"{intent.key}.{run_id}.{name}" for name in ("predict", "load")] if intent.shards else []
    return [f"{intent.key}.plan", *later]


def _parse(listed: str) -> dict[str, _Task]:
    """Read the lines of squeue or sacct, by id. A pending job's times are guesses, and so is a running one's end."""
    tasks = {}
    for line in listed.splitlines():
        fields = line.strip().split("|")
        if len(fields) < 6 or "[" in fields[0]:
            continue
        task_id, name, state, submitted, started, ended, *why = fields
        state = state.partition(" ")[0]  # CANCELLED by 1000
        began = _time(started) if state != "PENDING" else None
        try:
            submitted_at = datetime.fromtimestamp(int(submitted), UTC)
        except ValueError:
            raise UnansweredError(f"SLURM's answer cannot be read: {printable(line)}") from None
        waits_for = why[0] if why and state == "PENDING" and why[0] != "None" else ""
        end = _time(ended) if state in _ENDED else None
        tasks[task_id] = _Task(task_id, name, state, submitted_at, began, end, waits_for)
    return tasks


def _time(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else None


def _word(state: str) -> str:
    """Return a state in the words of records, which also have OUT_OF_MEMORY."""
    return "success" if state == "COMPLETED" else state.lower().replace("_", " ")


def _last(said: str) -> str:
    """Return the last line of what a command said, without the name that SLURM puts before it."""
    lines = [line for line in said.splitlines() if re.search(r"\w", line) and not line.startswith("Try ")]
    return printable(re.sub(r"^\w+: (error: )?", "", lines[-1])) if lines else "it gives no reason"
