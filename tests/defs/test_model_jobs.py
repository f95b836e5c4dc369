"""The jobs that people start in the UI: a model from its canary to its card, and its end."""

from collections.abc import Iterator

import dagster as dg
import pytest
from graphs import ALL_SHARDS, MODEL, MOLECULES, Graph

from precalc_assets.cards.model_card import find_card

pytestmark = pytest.mark.slow

EVERYTHING = [f"{MODEL}|{shard}" for shard in ALL_SHARDS]
ASSETS = ("sample_predictions", "raw_predictions", "predictions", "prediction_table", "model_card")


@pytest.fixture
def graph(world) -> Iterator[Graph]:
    with dg.DagsterInstance.ephemeral() as instance:
        built = Graph(world, instance)
        built.change_library(MOLECULES)
        world.write_model()
        yield built


def run(graph: Graph, job: str, op: str, **config: object) -> dg.ExecuteInProcessResult:
    return graph.defs.resolve_job_def(job).execute_in_process(
        instance=graph.instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data.description or ""


def recorded(graph: Graph, asset: str) -> list[str]:
    return sorted(graph.instance.get_materialized_partitions(dg.AssetKey(asset)))


def test_one_click_takes_a_new_model_to_its_card(graph: Graph):
    assert run(graph, "precalculate_model", "precalculate", model=MODEL).success

    for asset in ASSETS[1:4]:
        assert recorded(graph, asset) == EVERYTHING
    assert graph.evaluations("model_card", "coverage")[MODEL]
    *own, parent = graph.instance.get_runs()
    assert (parent.job_name, parent.tags["model"]) == ("precalculate_model", MODEL)
    assert [each.tags["precalc/parent"] for each in own] == [parent.run_id] * len(ASSETS)


def test_failed_shard_holds_back_no_other_and_fails_the_run(graph: Graph):
    assert run(graph, "precalculate_model", "precalculate", model=MODEL, shards="00").success
    graph.world.library_shard("02").write_bytes(b"damaged")

    result = run(graph, "precalculate_model", "precalculate", model=MODEL, shards="01-03", compute="local")

    assert failure(result).startswith(f"1 of 3 shards failed:\n{MODEL}|02: ")
    assert recorded(graph, "prediction_table") == [f"{MODEL}|{shard}" for shard in ("00", "01", "03")]


def test_retired_model_leaves_nothing_green(graph: Graph):
    run(graph, "precalculate_model", "precalculate", model=MODEL)

    assert run(graph, "retire_model", "retire", model=MODEL, confirm=MODEL).success

    assert not graph.platform.tables.has_table(MODEL)
    assert find_card(graph.platform.tables, MODEL) is None
    assert graph.instance.get_dynamic_partitions("models") == []
    graph.instance.add_dynamic_partitions("models", [MODEL])
    for asset in ASSETS:
        assert recorded(graph, asset) == []
        assert all(partitions == {} for partitions in graph.statuses(asset).values())
    assert graph.world.objects(f"raw/model={MODEL}")


def test_retired_model_comes_back_from_its_files(graph: Graph):
    run(graph, "precalculate_model", "precalculate", model=MODEL)
    run(graph, "retire_model", "retire", model=MODEL, confirm=MODEL)
    calls = len(graph.world.calls())

    assert run(graph, "precalculate_model", "precalculate", model=MODEL).success

    assert len(graph.world.calls()) == calls
    assert recorded(graph, "prediction_table") == EVERYTHING


def test_files_of_a_retired_model_go_by_choice(graph: Graph):
    run(graph, "precalculate_model", "precalculate", model=MODEL)

    assert run(graph, "retire_model", "retire", model=MODEL, confirm=MODEL, files=True).success

    assert {name.partition("/")[0] for name in graph.world.objects()} <= {"library", "library_source"}


def test_unconfirmed_retirement_drops_nothing(graph: Graph):
    run(graph, "precalculate_model", "precalculate", model=MODEL)

    result = run(graph, "retire_model", "retire", model=MODEL, confirm="eos9abd", files=True)

    assert "repeat the model's id there to confirm" in failure(result)
    assert graph.platform.tables.has_table(MODEL)
    assert recorded(graph, "prediction_table") == EVERYTHING
