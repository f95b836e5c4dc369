"""A stand-in of SLURM's commands, over the same runs, jobs and faults as the fake GitHub.

It is for what a real cluster cannot be made to do: lose an answer, lag, or keep accounts. A run is submitted with its
job `plan`; the tasks of its array are the run's jobs.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from fake_github import FakeGitHub, FakeJob, FakeRun, Fault, RefusalError

_STATES = {"success": "COMPLETED", "failure": "FAILED", "cancelled": "CANCELLED"}
_ACTIVE = {"queued": "PENDING", "in_progress": "RUNNING"}


class FakeSlurm(FakeGitHub):
    """A cluster. The array of a run has the run's id and 100,000; its job `load` the run's id and 200,000.

    `reach` is called with the name of each point at which the process that runs a command could die. `accounts` are the
    jobs, by line, that only sacct still knows; None if the cluster keeps none.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.reach: Callable[[str], None] = lambda _: None
        self.accounts: list[str] | None = None
        self.commands: list[list[str]] = []
        self.scripts: list[str] = []
        self.logs: dict[str, str] = {}

    def run(self, command: Sequence[str], given: str) -> "subprocess.CompletedProcess[str]":
        """Run a command; see `slurm.RunCommand`."""
        name, *arguments = [word for word in command if word not in ("env", "SLURM_TIME_FORMAT=%s", "TZ=UTC")]
        self.commands.append([name, *arguments])
        changes = name in ("sbatch", "scancel")
        if changes:
            self.reach(f"before {name}")
        try:
            said = getattr(self, f"_{name}")(arguments, given)
        except RefusalError as refusal:
            return _failed(name, refusal.fault)
        if changes:
            self.reach(f"after {name}")
        return subprocess.CompletedProcess(command, 0, said, "")

    def _scontrol(self, arguments: list[str], given: str) -> str:
        return "Configuration data\nClusterName             = fake\n"

    def _mkdir(self, arguments: list[str], given: str) -> str:
        return ""

    def _grep(self, arguments: list[str], given: str) -> str:
        return "\n".join(f"./slurm-logs/{name}" for name, log in self.logs.items() if "memory limit" in log)

    def _tail(self, arguments: list[str], given: str) -> str:
        return self.logs.get(arguments[-1].rpartition("/")[2], "what it printed")

    def _sbatch(self, arguments: list[str], given: str) -> str:
        self.scripts.append(given)
        options = dict(word.removeprefix("--").split("=", 1) for word in arguments if "=" in word)
        key, *later = options["job-name"].split(".")
        if later == ["plan"]:
            return f"{self.dispatch('main', {'model-id': key.rpartition('-')[0], 'key': key})}\n"
        fault = self._ask("submit_shards")
        if fault and not fault.done:
            raise RefusalError(fault)
        run = self.runs[int(later[0])]
        if later[1] == "predict":
            shards = [f"{int(index):02d}" for index in options["array"].partition("%")[0].split(",")]
            run.inputs["shards"] = ",".join(shards)
            for shard in shards:
                self.add_job(run.id, f"Predict {shard}")
        if fault:
            raise RefusalError(fault)
        return f"{run.id + (100_000 if later[1] == 'predict' else 200_000)}\n"

    def _squeue(self, arguments: list[str], given: str) -> str:
        [names] = [word.removeprefix("--name=").split(",") for word in arguments if word.startswith("--name=")]
        looks_up = len(names) == 1
        self._ask_or_refuse("list_runs" if looks_up else "get_run")
        lag = self.list_lag if looks_up else self.show_lag
        return "\n".join(
            line
            for run in list(self.runs.values())
            if self._is_older(run, lag)
            for line in _lines(run)
            if line.split("|")[1] in names
        )

    def _sacct(self, arguments: list[str], given: str) -> str:
        if self.accounts is None:
            raise RefusalError(Fault(1, "Slurm accounting storage is disabled"))
        return "\n".join(self.accounts)

    def _scancel(self, arguments: list[str], given: str) -> str:
        for run_id in {int(word) % 100_000 for word in arguments if word.isdecimal()}:
            if self.runs[run_id].status != "completed":
                self.cancel(run_id, force="--full" in arguments)
        return ""


def _lines(run: FakeRun) -> Iterator[str]:
    key, submitted = run.inputs["key"], f"{run.created_at.timestamp():.0f}"
    state = _STATES[run.conclusion] if run.conclusion else _ACTIVE[run.status]
    yield f"{run.id}|{key}.plan|{state}|{submitted}|{submitted}|{submitted}"
    for name, job in run.jobs.items():
        yield f"{run.id + 100_000}_{int(name.split()[-1])}|{key}.{run.id}.predict|{_job_state(job)}|{_times(job)}"
    if run.jobs:
        state = "COMPLETED" if run.conclusion else "PENDING"
        yield f"{run.id + 200_000}|{key}.{run.id}.load|{state}|{submitted}|N/A|N/A"


def _job_state(job: FakeJob) -> str:
    return _STATES[job.conclusion] if job.conclusion else _ACTIVE[job.status]


def _times(job: FakeJob) -> str:
    def seconds(moment: datetime | None) -> str:
        return f"{moment.timestamp():.0f}" if moment else "N/A"

    return "|".join(map(seconds, (job.created_at, job.started_at, job.completed_at)))


def _failed(name: str, fault: Fault) -> "subprocess.CompletedProcess[str]":
    """Return what a command does after a fault. Raises subprocess.TimeoutExpired where there is no answer."""
    if fault.status is None:
        raise subprocess.TimeoutExpired(name, 12)
    limited = fault.status == 429 or re.search("rate limit", fault.message)
    said = "Unable to contact slurm controller (connect failure)" if limited else fault.message
    said = "Socket timed out on send/recv operation" if fault.status >= 500 else said
    return subprocess.CompletedProcess([name], 1, "", f"{name}: error: Batch job submission failed: {said}\n")
