"""What every compute backend must do, whatever computes behind it. Each implementation brings a bench of its own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest
from fake_github import FakeGitHub, github_settings

from precalc_assets.executions.compute_backend import ComputeBackend
from precalc_assets.executions.github import open_github
from precalc_assets.executions.records import Intent, Job


class Bench(Protocol):
    """A backend, and what happens on its machines."""

    backend: ComputeBackend

    def begin(self, run_id: int, shard: str) -> None:
        """Give the job of a shard a machine, after it waited for two seconds."""

    def end(self, run_id: int, shard: str, *, succeeded: bool) -> None:
        """End the job of a shard after three seconds, and its run."""

    def forget(self, run_id: int) -> None:
        """Delete a run."""


class GitHubBench:
    """GitHub over HTTP, with the fake at the other end."""

    def __init__(self, fake: FakeGitHub, url: str) -> None:
        self.time = datetime.now(UTC)
        self._fake = fake
        fake.now = lambda: self.time
        self.backend = open_github(github_settings(url), read_pauses=())

    def begin(self, run_id: int, shard: str) -> None:
        self._fake.add_job(run_id, f"Predict {shard}")
        self.time += timedelta(seconds=2)
        self._fake.begin_job(run_id, f"Predict {shard}")

    def end(self, run_id: int, shard: str, *, succeeded: bool) -> None:
        self.time += timedelta(seconds=3)
        conclusion = "success" if succeeded else "failure"
        self._fake.end_job(run_id, f"Predict {shard}", conclusion)
        self._fake.end_run(run_id, conclusion)

    def forget(self, run_id: int) -> None:
        del self._fake.runs[run_id]


BENCHES = {"github": GitHubBench}


@pytest.fixture(params=BENCHES.values(), ids=BENCHES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with (fake := FakeGitHub()).serving() as url:
        yield request.param(fake, url)


def intent(number: int = 1) -> Intent:
    key = f"eos9abc-{number:04d}"
    return Intent(key=key, model="eos9abc", library_digest="d", shards=("00", "01"), created_at=datetime.now(UTC))


def launch(bench: Bench, number: int = 1) -> int:
    return bench.backend.launch(intent(number)).run_id


def test_launched_run_is_looked_up_by_its_key(bench: Bench) -> None:
    run = bench.backend.launch(intent())
    assert run.url
    assert bench.backend.look_up(intent()) == run
    assert bench.backend.look_up(intent(2)) is None


def test_look_up_returns_the_first_of_two_runs(bench: Bench) -> None:
    first, second = launch(bench), launch(bench)
    assert first != second
    found = bench.backend.look_up(intent())
    assert found is not None
    assert found.run_id == first


@pytest.mark.parametrize("succeeded", [True, False])
def test_status_has_a_conclusion_once_the_run_ended(bench: Bench, *, succeeded: bool) -> None:
    run_id = launch(bench)
    conclusions = []
    for happen in (bench.begin, lambda *run: bench.end(*run, succeeded=succeeded)):
        status = bench.backend.status(intent(), run_id)
        assert status is not None
        assert status.run.run_id == run_id
        conclusions.append(status.conclusion)
        happen(run_id, "00")
    ended = bench.backend.status(intent(), run_id)
    assert ended is not None
    assert conclusions == [None, None]
    assert (ended.conclusion == "success") == succeeded
    assert ended.conclusion is not None


def test_status_of_a_run_that_is_gone_is_none(bench: Bench) -> None:
    run_id = launch(bench)
    bench.forget(run_id)
    assert bench.backend.status(intent(), run_id) is None


def jobs(bench: Bench, run_id: int) -> tuple[Job, ...]:
    status = bench.backend.status(intent(), run_id)
    return status.jobs if status else ()


def test_jobs_tell_their_shards_and_times(bench: Bench) -> None:
    run_id = launch(bench)
    assert jobs(bench, run_id) == ()
    bench.begin(run_id, "01")
    [begun] = jobs(bench, run_id)
    assert (begun.shards, begun.ended_at) == (("01",), None)
    assert (begun.queue_seconds, begun.runner_seconds) == (2.0, 0.0)
    bench.end(run_id, "01", succeeded=True)
    [ended] = jobs(bench, run_id)
    assert (ended.status, ended.queue_seconds, ended.runner_seconds) == ("success", 2.0, 3.0)


@pytest.mark.parametrize("force", [False, True])
def test_cancelled_run_ends(bench: Bench, *, force: bool) -> None:
    run_id = launch(bench)
    bench.begin(run_id, "00")
    bench.backend.cancel(run_id, force=force)
    status = bench.backend.status(intent(), run_id)
    assert status is not None
    assert status.conclusion == "cancelled"


def test_cancelling_an_ended_run_changes_nothing(bench: Bench) -> None:
    run_id = launch(bench)
    bench.begin(run_id, "00")
    bench.end(run_id, "00", succeeded=True)
    before = bench.backend.status(intent(), run_id)
    bench.backend.cancel(run_id)
    bench.backend.cancel(run_id, force=True)
    assert bench.backend.status(intent(), run_id) == before
