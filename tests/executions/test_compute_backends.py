"""What every compute backend must do, whatever computes behind it. Each implementation brings a bench of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from fake_github import FakeGitHub, github_settings
from fake_slurm import FakeSlurm
from obstore.store import MemoryStore
from slurm_cluster import SlurmCluster, install_precalc, running_cluster, slurm_settings

from precalc_assets.executions.compute_backend import ComputeBackend, RunStatus
from precalc_assets.executions.github import open_github
from precalc_assets.executions.records import Intent, Job, Run
from precalc_assets.executions.slurm import SlurmBackend, open_slurm
from precalc_assets.settings import Settings


class Bench(Protocol):
    """A backend, and what happens on its machines."""

    backend: ComputeBackend

    def begin(self, run: Run, shard: str) -> None:
        """Give the job of a shard a machine, after it waited for two seconds."""

    def end(self, run: Run, shard: str, *, succeeded: bool) -> None:
        """End the job of a shard after three seconds, and its run."""

    def forget(self, run: Run) -> None:
        """Delete a run."""


class FakeBench:
    """A backend over a fake, which has no time of its own."""

    def __init__(self, fake: FakeGitHub, backend: ComputeBackend) -> None:
        self.time = datetime.now(UTC)
        self._fake = fake
        fake.now = lambda: self.time
        self.backend = backend

    def begin(self, run: Run, shard: str) -> None:
        self._fake.add_job(run.run_id, f"Predict {shard}")
        self.time += timedelta(seconds=2)
        self._fake.begin_job(run.run_id, f"Predict {shard}")

    def end(self, run: Run, shard: str, *, succeeded: bool) -> None:
        self.time += timedelta(seconds=3)
        conclusion = "success" if succeeded else "failure"
        for name in list(self._fake.runs[run.run_id].jobs):
            self._fake.end_job(run.run_id, name, conclusion)
        self._fake.end_run(run.run_id, conclusion)

    def forget(self, run: Run) -> None:
        del self._fake.runs[run.run_id]


_STUB = """
folder=signals/$PRECALC_RUN_ID; mkdir -p $folder
wait_for() { until [ -e $folder/$1 ]; do sleep 0.1; done; }
case $2 in
    canary) wait_for begin ;;
    predict) echo computing; wait_for end; exit $(cat $folder/end) ;;
esac
"""
"""Stands for `precalc` in the jobs of a real cluster: it waits until the test says so."""


class ClusterBench:
    """A real cluster, on which a job begins and ends when the test says so."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        install_precalc(folder, _STUB)
        self._cluster, self._folder = cluster, folder
        self.backend = open_slurm(Settings(_env_file=None, n_shards=4, **slurm_settings(folder)), MemoryStore())

    def begin(self, run: Run, shard: str) -> None:
        time.sleep(2)
        self._signal(run, "begin", "")
        self._wait(lambda: f"{int(shard)} RUNNING" in self._tasks())

    def end(self, run: Run, shard: str, *, succeeded: bool) -> None:
        time.sleep(3)
        self._signal(run, "end", "0" if succeeded else "1")
        self._wait(lambda: not self._cluster.run("squeue", "--noheader").strip())

    def forget(self, run: Run) -> None:
        self._cluster.reset()

    def _tasks(self) -> str:
        return self._cluster.run("squeue", "--noheader", "--array", "--format=%K %T")

    def _signal(self, run: Run, name: str, content: str) -> None:
        folder = self._folder / "signals" / str(run.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self._tasks()
            time.sleep(0.2)


@contextmanager
def github_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """GitHub over HTTP, with the fake at the other end."""
    with (fake := FakeGitHub()).serving() as url:
        yield FakeBench(fake, open_github(github_settings(url), read_pauses=()))


@contextmanager
def fake_slurm_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The stand-in of SLURM's commands."""
    fake = FakeSlurm()
    yield FakeBench(fake, SlurmBackend(Settings(_env_file=None, n_shards=4), MemoryStore(), fake.run))


@contextmanager
def slurm_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A real cluster."""
    with running_cluster() as cluster:
        for name, value in cluster.environment.items():
            request.getfixturevalue("monkeypatch").setenv(name, value)
        yield ClusterBench(cluster, request.getfixturevalue("tmp_path"))


BENCHES = {"github": github_bench, "fake slurm": fake_slurm_bench}


@pytest.fixture(
    params=[
        *(pytest.param(make, id=name) for name, make in BENCHES.items()),
        pytest.param(slurm_bench, id="slurm", marks=pytest.mark.slow),
    ]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with request.param(request) as made:
        yield made


def intent(number: int = 1) -> Intent:
    key = f"eos9abc-{number:04d}"
    shards = ("00", "01")
    return Intent(
        key=key, model="eos9abc", compute="github", library_digest="d", shards=shards, created_at=datetime.now(UTC)
    )


def launch(bench: Bench, number: int = 1) -> Run:
    return bench.backend.launch(intent(number))


def status(bench: Bench, run: Run) -> RunStatus:
    found = bench.backend.status(intent(), run)
    assert found is not None
    return found


def test_launched_run_is_looked_up_by_its_key(bench: Bench) -> None:
    run = bench.backend.launch(intent())
    assert run.url
    assert bench.backend.look_up(intent()) == run
    assert bench.backend.look_up(intent(2)) is None


def test_look_up_returns_the_first_of_two_runs(bench: Bench) -> None:
    first, second = launch(bench), launch(bench)
    assert first != second
    assert bench.backend.look_up(intent()) == first


@pytest.mark.parametrize("succeeded", [True, False])
def test_status_has_a_conclusion_once_the_run_ended(bench: Bench, *, succeeded: bool) -> None:
    run = launch(bench)
    conclusions = []
    for happen in (bench.begin, lambda *of: bench.end(*of, succeeded=succeeded)):
        found = status(bench, run)
        assert found.run == run
        conclusions.append(found.conclusion)
        happen(run, "00")
    ended = status(bench, run)
    assert conclusions == [None, None]
    assert (ended.conclusion == "success") == succeeded
    assert ended.conclusion is not None


def test_status_of_a_run_that_is_gone_is_none(bench: Bench) -> None:
    run = launch(bench)
    bench.forget(run)
    assert bench.backend.status(intent(), run) is None


def jobs(bench: Bench, run: Run, shard: str = "01") -> list[Job]:
    return [job for job in status(bench, run).jobs if job.shards == (shard,)]


def test_jobs_tell_their_shards_and_times(bench: Bench) -> None:
    run = launch(bench)
    assert not any(job.started_at for job in jobs(bench, run))
    bench.begin(run, "01")
    [begun] = jobs(bench, run)
    assert begun.ended_at is None
    assert 2 <= begun.queue_seconds < 20
    assert begun.runner_seconds == 0
    bench.end(run, "01", succeeded=True)
    [ended] = jobs(bench, run)
    assert (ended.status, ended.queue_seconds) == ("success", begun.queue_seconds)
    assert 3 <= ended.runner_seconds < 20


def test_log_of_a_job_is_read(bench: Bench) -> None:
    run = launch(bench)
    bench.begin(run, "01")
    bench.end(run, "01", succeeded=False)
    [job] = jobs(bench, run)
    assert bench.backend.read_log(intent(), job)


@pytest.mark.parametrize("force", [False, True])
def test_cancelled_run_ends(bench: Bench, *, force: bool) -> None:
    run = launch(bench)
    bench.begin(run, "00")
    bench.backend.cancel(intent(), run, force=force)
    deadline = time.monotonic() + 60
    while status(bench, run).conclusion is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert status(bench, run).conclusion not in (None, "success")
    assert jobs(bench, run, "00")[0].status != "success"


def test_cancelling_an_ended_run_changes_nothing(bench: Bench) -> None:
    run = launch(bench)
    bench.begin(run, "00")
    bench.end(run, "00", succeeded=True)
    before = bench.backend.status(intent(), run)
    bench.backend.cancel(intent(), run)
    bench.backend.cancel(intent(), run, force=True)
    assert bench.backend.status(intent(), run) == before
