"""The whole way: a run of Dagster dispatches, the real workflow runs by act, and what lands goes on to the table."""

import dagster as dg
import pytest
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from graphs import MODEL, Clock, Graph, QuickPlatform
from test_predict_parallel import FEW, assert_served, refuse, smiles_of

from precalc_assets.executions.records import find_settled, list_executions
from precalc_assets.sharding import shard_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Actions:
    """A GitHub that runs the workflow by act; the shard that its first run fails is mended before its second."""

    def __init__(self, workshop) -> None:
        self.workshop = workshop
        self.fake = FakeGitHub(on_dispatch=self.run)
        self.said: list[str] = []

    def run(self, inputs: dict[str, str], run_id: int) -> None:
        if self.said:
            self.workshop.world.write_model()
        self.fake.begin_run(run_id)
        # The workshop counts its runs, and tells the runner 1000 more.
        self.workshop.runs = run_id - 1001
        done = self.workshop.run(**{name.replace("-", "_"): text for name, text in inputs.items()})
        self.said.append(done.stdout)
        self.fake.end_run(run_id, "failure" if done.returncode else "success")


def test_a_model_goes_from_a_run_of_dagster_over_the_workflow_to_its_table(new_workshop):
    workshop = new_workshop(5, FEW)
    shards = shard_keys(5)
    keys = [f"{MODEL}|{shard}" for shard in shards]
    workshop.world.write_model(answer=refuse(smiles_of(workshop, "04")))
    actions = Actions(workshop)
    with dg.DagsterInstance.local_temp() as instance, actions.fake.serving() as url:
        github = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url}
        graph = Graph(workshop.world, instance, QuickPlatform, compute="github", n_shards=5, **github)
        graph.platform.clock = Clock()
        actions.fake.now = graph.platform.clock.now
        instance.add_dynamic_partitions("models", [MODEL])

        for asset in ("raw_predictions", "predictions", "prediction_table"):
            assert graph.materialize(asset, first=keys[0], last=keys[-1]).success, actions.said
            assert sorted(event.partition for event in graph.materializations(asset)) == keys
        assert graph.materialize("model_card", first=MODEL, last=MODEL).success

        raw = {event.partition: event for event in graph.materializations("raw_predictions")}
        assert [raw[key].metadata["attempt"].value for key in keys] == [1, 1, 1, 1, 2]
        assert [event.partition for event in graph.materializations("sample_predictions")] == [MODEL]
    assert [run.inputs["shards"] for run in actions.fake.runs.values()] == ["00-04", "04"]
    first, second = (find_settled(workshop.world.store, key) for key in list_executions(workshop.world.store))
    assert first.failures.keys() == {"04"}
    assert second is None or second.landed == ("04",)
    assert_served(workshop, shards)
