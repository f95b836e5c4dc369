"""The sensor `campaign` on a Dagster instance: what it requests, what it makes of runs, and a whole campaign."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.test_utils import instance_for_test
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from fake_runners import FakeRunners
from graphs import MOLECULES, Clock, Graph, QuickPlatform

from precalc_assets.campaigns.campaign_records import Approval, Campaign, Stop, find_unfinished, start_campaign
from precalc_assets.defs.campaign_sensor import CAMPAIGN_TAG
from precalc_assets.executions.records import list_executions, open_execution

GOOD, BROKEN, ONLINE, PINNED = "eos1aaa", "eos2aaa", "eos3aaa", "eos4aaa"


class CampaignGraph(Graph):
    """The graph and its sensor `campaign`."""

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """Let the sensor tick, and add the partitions that it asks for, as the daemon does."""
        repository = self.defs.get_repository_def()
        context = dg.build_sensor_context(
            self.instance, repository_def=repository, resources={"platform": self.platform}
        )
        ticked = repository.get_sensor_def("campaign").evaluate_tick(context)
        for request in ticked.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return ticked

    def run(self, request: dg.RunRequest) -> bool:
        return (
            self.defs.resolve_job_def(request.job_name)
            .execute_in_process(
                instance=self.instance, run_config=request.run_config, tags=request.tags, raise_on_error=False
            )
            .success
        )

    def begin(self, request: dg.RunRequest) -> str:
        """Record a requested run as begun, and execute nothing; return its id."""
        run = dg.DagsterRun(request.job_name, tags=request.tags, status=dg.DagsterRunStatus.STARTED)
        self.instance.add_run(run)
        return run.run_id

    def start(self, *models: str, **options) -> Campaign:
        return start_campaign(self.world.store, models, **{"budget_hours": 1.0, **options})

    def work_through(self, campaign: Campaign) -> list[tuple[str, str]]:
        """Tick and run what is requested until the campaign ends; return the job and the model of each run."""
        launched = []
        for _ in range(20):
            if campaign.end.read():
                return launched
            for request in self.tick().run_requests or ():
                launched.append((request.job_name, request.tags["model"]))
                self.run(request)
            if campaign.progress.read().phase == "approval":
                campaign.approval.create(Approval(approved_at=datetime.now(UTC)))
        raise AssertionError("the campaign does not end")

    def run_next(self) -> dg.RunRequest:
        """Tick, and run the only run that is requested."""
        [request] = self.tick().run_requests
        self.run(request)
        return request

    def pass_canary(self, campaign: Campaign) -> None:
        """Let the only model's canary pass, and approve it."""
        self.run_next()
        self.tick()
        campaign.approval.create(Approval(approved_at=datetime.now(UTC)))

    def standings(self) -> dict[str, str]:
        campaign = find_unfinished(self.world.store)
        progress = campaign.progress.read() if campaign else None
        return {model: each.standing for model, each in progress.models.items()} if progress else {}


@pytest.fixture
def graph(world) -> Iterator[CampaignGraph]:
    with instance_for_test() as instance:
        built = CampaignGraph(world, instance)
        built.change_library(MOLECULES)
        yield built


def test_tick_without_a_campaign_is_skipped(graph: CampaignGraph):
    assert "no campaign is under way" in (graph.tick().skip_message or "")


def test_lost_tick_requests_the_same_canaries_again(graph: CampaignGraph):
    campaign = graph.start(GOOD, BROKEN, ONLINE, jobs=5)
    first, again = graph.tick().run_requests, graph.tick().run_requests
    assert [request.run_key for request in first] == [f"{campaign.id}/{model}/1" for model in (GOOD, BROKEN)]
    assert [request.run_key for request in again] == [request.run_key for request in first]
    assert first[0].job_name == "try_model"
    assert first[0].tags.items() >= {CAMPAIGN_TAG: campaign.id, "model": GOOD}.items()
    assert set(graph.instance.get_dynamic_partitions("models")) >= {GOOD, BROKEN}


def test_runs_under_way_leave_no_room_for_more(graph: CampaignGraph):
    graph.start(GOOD, BROKEN, ONLINE, jobs=1)
    [request] = graph.tick().run_requests
    graph.begin(request)
    assert graph.tick().run_requests == []
    assert graph.standings() == {GOOD: "canary", BROKEN: "waiting", ONLINE: "waiting"}


def test_run_that_dies_is_tried_again_under_a_new_key(graph: CampaignGraph):
    campaign = graph.start(GOOD)
    [request] = graph.tick().run_requests
    run_id = graph.begin(request)
    graph.instance.report_run_failed(graph.instance.get_run_by_id(run_id), "the process is gone")
    [again] = graph.tick().run_requests
    assert again.run_key == f"{campaign.id}/{GOOD}/2"


def test_three_dead_runs_in_a_row_pause_the_campaign(graph: CampaignGraph):
    campaign = graph.start(GOOD, BROKEN, ONLINE, PINNED, jobs=1)
    for _ in range(3):
        [request] = graph.tick().run_requests
        run_id = graph.begin(request)
        graph.instance.report_run_failed(graph.instance.get_run_by_id(run_id), "the process is gone")
    assert graph.tick().run_requests == []
    progress = campaign.progress.read()
    assert progress
    assert progress.held.startswith("3 failures of the infrastructure in a row; the last one: ")
    assert "the process is gone" in progress.held


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["canary", "shards"])
def test_network_outage_is_the_infrastructures_fault(world, stage: str):
    with instance_for_test() as instance:
        graph = CampaignGraph(world, instance, hub_url="http://127.0.0.1:9")
        graph.change_library(MOLECULES)
        campaign = graph.start(GOOD)
        if stage == "shards":
            folder = world.write_model(model=GOOD)
            graph.pass_canary(campaign)
            shutil.rmtree(folder)
        keys = [graph.run_next().run_key for _ in range(3)]
        assert [key.rpartition("/")[2] for key in keys] == ["1", "2", "3"]
        assert graph.tick().run_requests == []
        progress = campaign.progress.read()
        assert progress
        assert progress.models[GOOD].standing == "failed"
        assert "is this machine offline?" in progress.models[GOOD].why
        assert len(campaign.end.read().conclusion) > 0


@pytest.mark.slow
def test_model_that_breaks_after_its_canary_is_not_tried_again(graph: CampaignGraph):
    script = graph.world.write_model(model=GOOD) / "model" / "framework" / "run.sh"
    campaign = graph.start(GOOD)
    graph.pass_canary(campaign)
    script.unlink()
    assert graph.run_next().job_name == "compute_shards"
    assert graph.tick().run_requests == []
    progress = campaign.progress.read()
    assert progress
    assert progress.models[GOOD].standing == "broken"
    assert "run.sh is missing" in progress.models[GOOD].why


def test_stop_cancels_runs_and_executions_and_launches_nothing(graph: CampaignGraph):
    campaign = graph.start(GOOD, BROKEN, jobs=1)
    [request] = graph.tick().run_requests
    run_id = graph.begin(request)
    execution = open_execution(graph.world.store, GOOD, "d", (), compute="github", sample=10)
    assert execution
    campaign.stop.create(Stop(requested_at=datetime.now(UTC)))
    assert graph.tick().run_requests == []
    assert graph.instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.CANCELING
    assert execution.cancellation.read()
    assert find_unfinished(graph.world.store)


def test_missing_price_holds_a_budget_in_dollars_back(graph: CampaignGraph):
    graph.start(GOOD, budget_hours=None, budget_dollars=5.0, price=0.1)
    assert "PRECALC_RUNNER_PRICE" in (graph.tick().skip_message or "")


@pytest.mark.slow
def test_whole_campaign_ends_with_what_can_be_computed(graph: CampaignGraph):
    for model in (GOOD, BROKEN, ONLINE, PINNED):
        graph.world.write_model(model=model)
    graph.world.write_model(model=BROKEN, answer="raise ValueError(smiles)")
    metadata = graph.world.models_dir / ONLINE / "metadata.yml"
    metadata.write_text(metadata.read_text() + "Source: Online\n")
    campaign = graph.start(GOOD, BROKEN, ONLINE, PINNED, "eos0zzz", jobs=1, pinned=[PINNED])
    launched = graph.work_through(campaign)
    assert launched == [
        *(("try_model", model) for model in (PINNED, GOOD, BROKEN, ONLINE, "eos0zzz")),
        ("compute_shards", PINNED),
        ("compute_shards", GOOD),
    ]
    progress = campaign.progress.read()
    assert progress
    assert {model: each.standing for model, each in progress.models.items()} == {
        GOOD: "done",
        BROKEN: "broken",
        ONLINE: "broken",
        PINNED: "done",
        "eos0zzz": "broken",
    }
    assert "third party's server" in progress.models[ONLINE].why
    assert progress.models[GOOD].landed == 5
    assert 0 < progress.spent_hours < 1
    assert find_unfinished(graph.world.store) is None


@pytest.mark.slow
def test_campaign_on_runners_counts_their_hours(world):
    with instance_for_test() as instance, (fake := FakeGitHub()).serving() as url:
        github = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url}
        graph = CampaignGraph(world, instance, QuickPlatform, compute="github", **github)
        graph.platform.clock = Clock()
        fake.now = graph.platform.clock.now
        FakeRunners(fake, world.store, graph.platform.settings, world.backend)
        graph.change_library(MOLECULES)
        world.write_model(model=GOOD)
        campaign = graph.start(GOOD)
        assert graph.work_through(campaign) == [("try_model", GOOD), ("compute_shards", GOOD)]
    progress = campaign.progress.read()
    assert progress
    assert progress.models[GOOD].standing == "done"
    settled = {each.key: each.settled.read() for each in list_executions(world.store)}
    assert len(settled) == 2
    assert progress.executions == {key: each.runner_seconds / 3600 for key, each in settled.items() if each}
    assert progress.spent_hours == sum(progress.executions.values()) > 0
