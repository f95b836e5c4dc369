"""End to end: a Dagster run dispatches, act runs the real workflow, and the shards reach the table."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import obstore
import pytest
from aws_emulator import tables_url
from dagster_dev import DagsterDev, dagster_dev, wait_until
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from graphs import MODEL, Clock, Graph, QuickPlatform
from obstore.store import ObjectStore
from playwright.sync_api import Page, sync_playwright
from test_predict_parallel import FEW, MANY, assert_served

from precalc_assets.cards.model_card import find_card
from precalc_assets.executions.records import list_executions
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import library_shard, open_store

pytestmark = pytest.mark.slow

ASSETS = ("raw_predictions", "predictions", "prediction_table")


class Actions(FakeGitHub):
    """A GitHub that runs the workflow by act. In the first run, a shard's molecules are gone once the canary ends."""

    def __init__(self, workshop, store: ObjectStore, shard: str) -> None:
        super().__init__(on_dispatch=self.run)
        self.workshop = workshop
        self.store = store
        self.missing = library_shard(shard, read_manifest(store).shards[shard].digest)
        self.molecules = obstore.get(store, self.missing).bytes()
        self.said: list[str] = []

    def run(self, inputs: dict[str, str], run_id: int) -> None:
        obstore.put(self.store, self.missing, self.molecules)
        self.said.append(self.workshop.run_for(self, inputs, run_id))

    def end_job(self, run_id: int, name: str, conclusion: str = "success") -> None:
        super().end_job(run_id, name, conclusion)
        if name == "Canary" and not self.said:
            obstore.delete(self.store, self.missing)

    @contextmanager
    def as_backend(self) -> Iterator[dict[str, str]]:
        """Serve, and yield the settings for it."""
        with self.serving() as url:
            github = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url}
            yield {"compute": "github", **github}


class PatientClock(Clock):
    """A clock that allows two polls per second, to leave the processor to the jobs."""

    def sleep(self, seconds: float) -> None:
        time.sleep(0.5)
        super().sleep(seconds)


@pytest.mark.timeout(300)
def test_dagster_run_loads_a_table_on_aws_through_the_workflow(new_workshop, aws):
    workshop = new_workshop(5, FEW)
    shards = shard_keys(5)
    keys = [f"{MODEL}|{shard}" for shard in shards]
    urls = {"store_url": f"s3://{aws.make_bucket()}/platform", "tables_url": tables_url()}
    workshop.variables |= {f"PRECALC_{name.upper()}": url for name, url in urls.items()}
    store = open_store(urls["store_url"])
    build_library(store, workshop.world.root / "library.smi", n_shards=5, processes=1)
    actions = Actions(workshop, store, "04")
    with dg.DagsterInstance.local_temp() as instance, actions.as_backend() as github:
        graph = Graph(workshop.world, instance, QuickPlatform, n_shards=5, max_failure_rate=0.4, **github, **urls)
        graph.platform.clock = PatientClock()
        actions.now = graph.platform.clock.now
        instance.add_dynamic_partitions("models", [MODEL])

        for asset in ASSETS:
            assert graph.materialize(asset, first=keys[0], last=keys[-1]).success, actions.said
            assert sorted(event.partition for event in graph.materializations(asset)) == keys
        assert graph.materialize("model_card", first=MODEL, last=MODEL).success

        raw = {event.partition: event for event in graph.materializations("raw_predictions")}
        assert [raw[key].metadata["attempt"].value for key in keys] == [1, 1, 1, 1, 2]
        assert [event.partition for event in graph.materializations("sample_predictions")] == [MODEL]
    assert [run.inputs["shards"] for run in actions.runs.values()] == ["00-04", "04"]
    first, second = (execution.settled.read() for execution in list_executions(store))
    assert first.failures.keys() == {"04"}
    assert second is None or second.landed == ("04",)
    assert_served(workshop, shards, graph.platform.tables)


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of the machine's Chromium, which CI has."""
    found = [name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(found[0]), args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def click_backfill(page: Page, dev: DagsterDev, asset: str, *, upstream_is_there: bool) -> None:
    """Launch a backfill of all of an asset's partitions in the UI."""
    page.goto(f"{dev.url}/assets/{asset}?view=partitions")
    page.get_by_role("button", name="Materialize…").click()
    if not upstream_is_there:
        page.get_by_role("button", name="Confirm").click()
    launch = page.get_by_role("button", name="Launch backfill")
    launch.wait_for()
    for everything in page.get_by_role("button", name="All", exact=True).all():
        everything.click()
    launch.click()
    page.get_by_text("Created backfill").wait_for()


def stages(clicked: float, published: float, actions: Actions, dev: DagsterDev) -> str:
    """Return the seconds of each stage, as lines."""
    lines = []
    since = clicked
    for run in actions.runs.values():
        lines.append(f"launch of {run.inputs['shards']}: {run.created_at.timestamp() - since:.1f} s")
        for kind in ("Plan", "Canary", "Predict", "Load", "Report"):
            jobs = [job for name, job in run.jobs.items() if name.startswith(kind)]
            began = min(job.started_at for job in jobs).timestamp()
            ended = max(job.completed_at for job in jobs).timestamp()
            lines.append(f"  {kind.lower()}, {len(jobs)} jobs: {ended - began:.1f} s")
            if kind == "Predict":
                computed = ended
        since = ended
    recorded = [max(float(event["timestamp"]) / 1000 for event in dev.materializations(asset)) for asset in ASSETS]
    lines.append(f"record, after the last shard was computed: {recorded[0] - computed:.1f} s")
    lines.append(
        f"downstream: table after {recorded[-1] - recorded[0]:.1f} s, card after {published - recorded[0]:.1f} s"
    )
    lines.append(f"from click to card: {published - clicked:.1f} s")
    return "\n".join(lines)


@pytest.mark.timeout(900)
def test_backfill_of_fifty_shards_ends_in_table_and_card(new_workshop, page: Page, capsys):
    workshop = new_workshop(50, MANY)
    world = workshop.world
    workshop.take_hours(50)
    actions = Actions(workshop, world.store, "31")
    with actions.as_backend() as github, dagster_dev(world, **github) as dev:
        dev.add_model(MODEL)
        clicked = time.time()
        click_backfill(page, dev, "raw_predictions", upstream_is_there=False)
        for asset in ASSETS:
            dev.wait_for(asset, 50)
        wait_until(lambda: (card := find_card(world.tables, MODEL)) and card.covered)
        published = time.time()
        wait_until(lambda: len(actions.said) == 2)
        wait_until(lambda: "SUCCESS" in dev.runs_of("raw_predictions").values())

        assert list(dev.runs_of("raw_predictions").values()) == ["SUCCESS"]
        for asset in ASSETS:
            recorded = dev.materializations(asset)
            assert sorted(event["partition"] for event in recorded) == [f"{MODEL}|{shard}" for shard in shard_keys(50)]
        with capsys.disabled():
            print(f"\n{stages(clicked, published, actions, dev)}")  # noqa: T201 - the figures that the notes give
    assert [run.inputs["shards"] for run in actions.runs.values()] == ["00-49", "31"]
    jobs = Counter(name.partition(" ")[0] for name in actions.runs[1001].jobs)
    assert jobs == {"Plan": 1, "Canary": 1, "Predict": 50, "Load": 10, "Report": 1}
    assert_served(workshop, shard_keys(50))
