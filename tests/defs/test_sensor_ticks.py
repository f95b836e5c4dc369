"""What the sensors of executions take: ticks over as many executions as the hub has models, and ticks that overlap."""

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Barrier

import dagster as dg
import pytest
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from fake_runners import put_manifest
from graphs import Graph

from precalc_assets.definitions import build_defs
from precalc_assets.defs.executions.requests import REQUEST_TAG, STAGE_TAG
from precalc_assets.defs.resources import Platform
from precalc_assets.executions import Request, Run, Settled, open_execution, put_request, unsettled
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SENSORS = ("github_executions", "failed_shards", "precalculation_requests")
SHARDS = shard_keys(50)
LATENCY = 0.1
LIMIT = 40.0
"""Seconds for a tick; Dagster gives it 60."""


def models(number: int) -> list[str]:
    return [f"eos{1 + index // 100}{index % 100:02d}a" for index in range(number)]


def tick(name: str, instance: dg.DagsterInstance, platform: Platform, cursor: str | None = None) -> str | None:
    """Let a sensor tick, and return its next cursor."""
    repository = build_defs(platform).get_repository_def()
    context = dg.build_sensor_context(
        instance, cursor=cursor, repository_def=repository, resources={"platform": platform}
    )
    return repository.get_sensor_def(name).evaluate_tick(context).cursor or cursor


def tick_with_others(folder: str, settings: Settings, together: Barrier) -> None:
    """Let github_executions tick twice when the other processes do."""
    with dg.DagsterInstance.local_temp(folder) as instance:
        for _ in range(2):
            together.wait(60)
            tick("github_executions", instance, Platform(settings))


class Sensors:
    """The sensors over an instance on disk, and executions of whole models whose runs are with the fake."""

    def __init__(self, world, instance: dg.DagsterInstance, url: str, fake: FakeGitHub) -> None:
        github = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url}
        self.graph = Graph(world, instance, compute="github", **github)
        self.graph.change_library(["CCO", "CCN"])
        self.library = self.graph.platform.library()
        self.store = world.store
        self.fake = fake
        self.cursors: dict[str, str | None] = {}

    def execute(self, model: str, came: str) -> None:
        """Let a model's execution be running, have ended, be settled, or have failed a shard and be settled."""
        execution = open_execution(self.store, model, self.library.digest, SHARDS)
        run_id = self.fake.dispatch("main", {"model-id": model, "key": execution.key})
        execution.run.put(Run(run_id=run_id, url=f"https://github.example/{run_id}"))
        execution.take(run_id)
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

    def tick(self, name: str) -> float:
        """Let a sensor tick, and return the seconds that it took."""
        began = time.monotonic()
        self.cursors[name] = tick(name, self.graph.instance, self.graph.platform, self.cursors.get(name))
        return time.monotonic() - began

    def launch(self, request: Request) -> None:
        """Let a request's canary be under way."""
        tags = {REQUEST_TAG: request.id, STAGE_TAG: "sample_predictions"}
        run = dg.DagsterRun("requested_sample_predictions", tags=tags, status=dg.DagsterRunStatus.STARTED)
        self.graph.instance.add_run(run)

    def recorded(self) -> Counter[str]:
        """Return how often each shard was recorded."""
        found: Counter[str] = Counter()
        cursor = None
        while True:
            page = self.graph.instance.fetch_materializations(dg.AssetKey("raw_predictions"), limit=1000, cursor=cursor)
            found.update(record.partition_key for record in page.records)
            if not page.has_more:
                return found
            cursor = page.cursor


@pytest.fixture
def sensors(world) -> Iterator[Sensors]:
    with dg.DagsterInstance.local_temp() as instance, (fake := FakeGitHub()).serving() as url:
        yield Sensors(world, instance, url, fake)


def test_ticks_over_an_execution_of_every_model_stay_within_their_time_and_go_on_from_one_to_the_next(
    sensors: Sensors, capsys
):
    states = ("running", "ended", "settled", "failed")
    for number, model in enumerate(models(240)):
        sensors.execute(model, states[number % 4])
        request = put_request(sensors.store, model)
        if number % 2:
            sensors.launch(request)
    sensors.fake.before_answer = lambda *_: time.sleep(LATENCY)

    took: dict[str, list[float]] = {name: [] for name in SENSORS}
    reported = [0]
    for _ in range(2):
        for name, seconds in took.items():
            seconds.append(sensors.tick(name))
        reported.append(len(sensors.recorded()))

    with capsys.disabled():
        for name, seconds in took.items():
            print(f"\n{name}: {', '.join(f'{one:.1f}' for one in seconds)} s a tick", end="")  # noqa: T201 - figures
        print(f"\nshards recorded by then: {', '.join(map(str, reported))}")  # noqa: T201
    assert max(one for seconds in took.values() for one in seconds) < LIMIT
    assert set(sensors.recorded().values()) == {1}
    assert reported == sorted(set(reported))


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_ticks_at_the_same_time_report_nothing_twice(sensors: Sensors, kind: str):
    for model in models(2):
        sensors.execute(model, "ended")
    instance, settings = sensors.graph.instance, sensors.graph.platform.settings

    if kind == "threads":
        together = threading.Barrier(4)
        begin = threading.Thread
    else:
        spawn = multiprocessing.get_context("spawn")
        together = spawn.Barrier(4)
        begin = spawn.Process
    at_work = [begin(target=tick_with_others, args=(instance.root_directory, settings, together)) for _ in range(4)]
    for each in at_work:
        each.start()
    for each in at_work:
        each.join()
    for _ in range(4):
        # What a busy machine left no time for.
        sensors.tick("github_executions")

    assert sensors.recorded() == Counter(f"{model}|{shard}" for model in models(2) for shard in SHARDS)
    assert unsettled(sensors.store) == []
