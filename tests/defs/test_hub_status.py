"""The asset `hub_status`: what it says of models, that `precalc status` says the same, and when it is refreshed."""

from collections.abc import Iterator

import dagster as dg
import pytest
from graphs import ALL_SHARDS, MODEL, Graph, ready_graph

from precalc_assets.campaigns.campaign_records import start_campaign
from precalc_assets.defs.hub_status import hub_status_sensor
from precalc_assets.model_progress import COMPUTED, FAILED, MISSING, SERVED, find_progress

BROKEN, UNKNOWN = "eos9abd", "eos9zzz"
EVERYTHING = [f"{MODEL}|{shard}" for shard in ALL_SHARDS]


@pytest.fixture
def graph(world) -> Iterator[Graph]:
    with ready_graph(world) as built:
        yield built


def shown(graph: Graph) -> tuple[dict[str, list[str]], dict[str, object]]:
    """Refresh the status; return the cells of its table by model, and all of its metadata."""
    assert graph.materialize("hub_status").success
    metadata = {name: entry.value for name, entry in graph.materializations("hub_status")[0].metadata.items()}
    rows = [
        [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        for line in metadata["models"].splitlines()
    ]
    return {row[0]: row[1:] for row in rows[2:]}, metadata


@pytest.mark.slow
def test_table_tells_complete_partial_and_failed_models(graph: Graph):
    graph.world.write_model(model=BROKEN, answer="return 'high,1,x'")
    graph.instance.add_dynamic_partitions("models", [BROKEN, UNKNOWN])
    graph.materialize("raw_predictions", first=EVERYTHING[0], last=EVERYTHING[-1])
    graph.run_range("predictions", "prediction_table")
    graph.materialize("sample_predictions", first=BROKEN, last=BROKEN)
    graph.materialize("raw_predictions", first=f"{UNKNOWN}|00", last=f"{UNKNOWN}|01")

    start_campaign(graph.platform.store, [MODEL, BROKEN], budget_hours=1.0)

    rows, metadata = shown(graph)

    assert "not begun" in metadata["campaign"]
    assert rows[MODEL][1:5] == ["5/5", "3/5", "3/5", "0"]
    assert rows[BROKEN][0] == "v1.0.0 failed"
    assert "no cell of score is of its column's type" in rows[BROKEN][-1]
    assert rows[UNKNOWN][:4] == ["–", "0/5", "0/5", "0/5"]
    assert f"there is no model '{UNKNOWN}'" in rows[UNKNOWN][-1]
    assert metadata["complete"] == "0 of 3 models"
    assert "no cell of score" in metadata["failures"].replace("\\", "")
    assert metadata["shards"].startswith("![shards](data:image/svg+xml;base64,")


@pytest.mark.slow
def test_status_and_dagster_agree_on_shards_over_the_limit(graph: Graph):
    graph.world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")
    graph.run_range("raw_predictions", "predictions", "prediction_table")

    progress = find_progress(graph.platform, MODEL)

    assert set(progress.raw) == {"02"} == {e.partition[-2:] for e in graph.materializations("raw_predictions")}
    assert progress.stages() == [MISSING, FAILED, COMPUTED, FAILED, MISSING]
    status = graph.world.precalc("status", MODEL, n_shards=str(len(ALL_SHARDS)))
    assert status.stdout.splitlines()[1].split()[-2:] == ["1/5", "00-01,03-04"]
    assert "shard 01: " in status.stdout
    assert shown(graph)[0][MODEL][1] == "1/5"


def test_hub_without_models_has_a_status(graph: Graph):
    graph.instance.delete_dynamic_partition("models", MODEL)
    assert shown(graph)[1]["complete"] == "0 of 0 models"


def test_all_stages_of_a_shard_are_told_apart(graph: Graph):
    graph.materialize("raw_predictions", first=EVERYTHING[0], last=EVERYTHING[3])
    graph.run_range("predictions", "prediction_table")
    assert find_progress(graph.platform, MODEL).stages() == [COMPUTED, SERVED, SERVED, SERVED, MISSING]


def test_status_is_refreshed_once_after_runs_have_ended(graph: Graph):
    def tick(cursor: str | None) -> dg.SensorResult | dg.SkipReason:
        context = dg.build_sensor_context(graph.instance, cursor=cursor)
        return hub_status_sensor(context)

    graph.materialize("library_shards", first="00", last="00")
    first = tick(None)
    assert len(first.run_requests) == 1
    graph.defs.resolve_job_def("refresh_status").execute_in_process(instance=graph.instance)
    assert isinstance(tick(first.cursor), dg.SkipReason)
    graph.materialize("library_shards", first="00", last="00")
    assert len(tick(first.cursor).run_requests) == 1
