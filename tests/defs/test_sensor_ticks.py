"""How long the ticks of the sensors take over as many executions as the hub has models."""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from fake_runners import put_manifest
from graphs import Graph

from precalc_assets.defs.sensors import REQUEST_TAG
from precalc_assets.executions.records import Run, Settled, open_execution
from precalc_assets.executions.request_queue import Request, put_request
from precalc_assets.sharding import shard_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SENSORS = ("executions", "precalculation_requests")
SHARDS = shard_keys(50)
LATENCY = 0.1
LIMIT = 40.0
"""Seconds for a tick; Dagster gives it 60."""


def models(number: int) -> list[str]:
    return [f"eos{1 + index // 100}{index % 100:02d}a" for index in range(number)]


class Sensors:
    """The sensors over an instance on disk, and executions of whole models whose runs are with the fake."""

    def __init__(self, world, instance: dg.DagsterInstance, url: str, fake: FakeGitHub) -> None:
        github = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url}
        self.graph = Graph(world, instance, compute="github", n_shards=len(SHARDS), **github)
        self.graph.change_library(["CCO", "CCN"], len(SHARDS))
        self.library = self.graph.platform.library()
        self.store = world.store
        self.fake = fake
        self.cursors: dict[str, str | None] = {}

    def execute(self, model: str, came: str) -> None:
        """Let a model's execution be running, have ended, be settled, or have failed a shard and be settled."""
        execution = open_execution(self.store, model, self.library.digest, SHARDS, compute="github")
        run_id = self.fake.dispatch("main", {"model-id": model, "key": execution.key})
        execution.run.put(Run(run_id=run_id, url=f"https://github.example/{run_id}"))
        execution.take(Run(run_id=run_id, url=""))
        for shard in SHARDS:
            self.fake.begin_job(run_id, f"Predict {shard}")
        if came == "running":
            return
        landed = SHARDS[:-1] if came == "failed" else SHARDS
        for shard in landed:
            put_manifest(self.store, self.library, model, shard)
        for shard in SHARDS:
            self.fake.end_job(run_id, f"Predict {shard}", "success" if shard in landed else "failure")
        self.fake.end_run(run_id)
        if came != "ended":
            failures = {shard: "it breaks" for shard in SHARDS if shard not in landed}
            settled = Settled(conclusion="x", landed=tuple(landed), failures=failures, settled_at=datetime.now(UTC))
            execution.settled.create(settled)

    def tick(self, name: str) -> tuple[float, list[dg.RunRequest]]:
        """Let a sensor tick; return the seconds that it took, and the runs that it requested, which are queued then."""
        repository = self.graph.defs.get_repository_def()
        context = dg.build_sensor_context(
            self.graph.instance,
            cursor=self.cursors.get(name),
            repository_def=repository,
            resources={"platform": self.graph.platform},
        )
        began = time.monotonic()
        ticked = repository.get_sensor_def(name).evaluate_tick(context)
        took = time.monotonic() - began
        self.cursors[name] = ticked.cursor or self.cursors.get(name)
        for request in ticked.run_requests:
            run = dg.DagsterRun(request.job_name, tags=request.tags, status=dg.DagsterRunStatus.NOT_STARTED)
            self.graph.instance.add_run(run)
        return took, ticked.run_requests

    def launch(self, request: Request) -> None:
        """Let a request's canary be under way."""
        run = dg.DagsterRun("try_model", tags={REQUEST_TAG: request.id}, status=dg.DagsterRunStatus.STARTED)
        self.graph.instance.add_run(run)


@pytest.fixture
def sensors(world) -> Iterator[Sensors]:
    with dg.DagsterInstance.local_temp() as instance, (fake := FakeGitHub()).serving() as url:
        yield Sensors(world, instance, url, fake)


def test_ticks_over_every_model_stay_within_their_time(sensors: Sensors, capsys):
    states = ("running", "ended", "settled", "failed")
    for number, model in enumerate(models(240)):
        sensors.execute(model, states[number % 4])
        request = put_request(sensors.store, model)
        if number % 2:
            sensors.launch(request)
    sensors.fake.before_answer = lambda *_: time.sleep(LATENCY)

    took: dict[str, list[float]] = {name: [] for name in SENSORS}
    followed: Counter[str] = Counter()
    while len(followed) < 240 and len(took["executions"]) < 20:
        for name in SENSORS:
            seconds, requested = sensors.tick(name)
            took[name].append(seconds)
            followed.update(request.run_key for request in requested if name == "executions")

    with capsys.disabled():
        for name, seconds in took.items():
            print(f"\n{name}: {', '.join(f'{one:.1f}' for one in seconds)} s a tick", end="")  # noqa: T201 - figures
    assert max(one for seconds in took.values() for one in seconds) < LIMIT
    assert followed == {f"{model}-0001/{model}|00/1": 1 for model in models(240)}
