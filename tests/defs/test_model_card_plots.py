"""A model's card in the graph: its plots, the releases that it mixes; and predictions that warn without being held."""

from collections.abc import Iterator

import dagster as dg
import pytest
from graphs import MODEL, SHARDS, Graph

from precalc_assets.cards.model_card import find_card

pytestmark = pytest.mark.slow

MOLECULES = tuple("C" * n + end for n in range(1, 121) for end in ("", "O", "N", "Cl", "F", "Br", "S", "C=O", "C#N"))
COLUMNS = (("score", "float"), ("label", "string"))
ANSWER = "return f'{len(smiles) / 7!r},{smiles[-1]}'"


@pytest.fixture
def graph(world) -> Iterator[Graph]:
    with dg.DagsterInstance.ephemeral() as instance:
        built = Graph(world, instance, batch_size=1_000)
        built.change_library(MOLECULES)
        world.write_model(columns=COLUMNS, answer=ANSWER)
        instance.add_dynamic_partitions("models", [MODEL])
        built.materialize_library()
        assert built.materialize("sample_predictions", first=MODEL, last=MODEL).success
        yield built


def run_shards(graph: Graph) -> dg.ExecuteInProcessResult:
    return graph.run_range("raw_predictions", "predictions", "prediction_table")


def results(graph: Graph, asset: str, check: str) -> dict[str | None, tuple[bool, str, str]]:
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    found = {}
    for record in graph.instance.event_log_storage.get_asset_check_execution_history(key, limit=1_000):
        if record.event:
            evaluation = record.event.asset_check_evaluation
            found.setdefault(
                record.partition, (evaluation.passed, evaluation.severity.value, evaluation.description or "")
            )
    return found


def test_card_and_its_event_show_distributions(graph: Graph):
    assert run_shards(graph).success
    assert graph.materialize("model_card", first=MODEL, last=MODEL).success

    score, label = find_card(graph.platform.tables, MODEL).distributions
    rows = sum(entry.metadata["dagster/row_count"].value for entry in graph.materializations("predictions"))
    assert sum(score.counts) == score.molecules == rows
    assert sum(label.counts) + label.others == rows
    [event] = graph.materializations("model_card")
    head, _, *lines = event.metadata["distributions"].value.splitlines()
    assert head.startswith("| column |")
    assert [line.split("|")[1].strip() for line in lines] == ["score", "label"]
    assert "data:image/svg+xml;base64," in lines[0]


def test_shard_of_another_release_lands_with_a_warning(graph: Graph):
    assert run_shards(graph).success
    graph.world.write_model(columns=COLUMNS, answer=ANSWER, release="v2.0.0")
    key = f"{MODEL}|{SHARDS[0]}"
    assets = ("raw_predictions", "predictions", "prediction_table")
    assert graph.materialize(*assets, first=key, last=key).success

    found = results(graph, "predictions", "one_release")
    assert found[key] == (False, "WARN", "this shard is of release v2.0.0, the canary is of v1.0.0")
    assert found[None] == (False, "WARN", f"failed in 1 of {len(SHARDS)} evaluated partitions: {key}")
    assert found[f"{MODEL}|{SHARDS[1]}"][0]
    assert results(graph, "predictions", "distribution")[key][2] == "the canary is of release v1.0.0"

    assert graph.materialize("model_card", first=MODEL, last=MODEL).success
    assert results(graph, "model_card", "one_release")[MODEL] == (False, "WARN", "releases: v1.0.0, v2.0.0")


def test_distributions_are_read_again_only_after_a_change(graph: Graph):
    assert run_shards(graph).success
    assert graph.materialize("model_card", first=MODEL, last=MODEL).success
    before = find_card(graph.platform.tables, MODEL)
    for shard in SHARDS:
        graph.world.path(f"predictions/model={MODEL}/shard={shard}.parquet").unlink()
    assert graph.materialize("model_card", first=MODEL, last=MODEL).success
    after = find_card(graph.platform.tables, MODEL)
    assert (after.distributions, after.distributions_of) == (before.distributions, before.distributions_of)
    assert after.updated > before.updated
