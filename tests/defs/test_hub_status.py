"""The assets `hub_status` and `campaign_status`: that they say what the commands say, and when they are refreshed."""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from graphs import ALL_SHARDS, MODEL, Graph, ready_graph

from precalc_assets.campaigns.campaign_records import ModelStanding, Progress, start_campaign
from precalc_assets.defs.hub_status import hub_status_sensor
from precalc_assets.model_progress import COMPUTED, FAILED, MISSING, SERVED, find_progress

BROKEN, UNKNOWN = "eos9abd", "eos9zzz"
EVERYTHING = [f"{MODEL}|{shard}" for shard in ALL_SHARDS]


@pytest.fixture
def graph(world) -> Iterator[Graph]:
    with ready_graph(world) as built:
        yield built


def shown(graph: Graph, asset: str = "hub_status") -> tuple[dict[str, list[str]], dict[str, object]]:
    """Refresh the status; return the cells of its table by model, and all of its metadata."""
    assert graph.defs.resolve_job_def("refresh_status").execute_in_process(instance=graph.instance).success
    metadata = {name: entry.value for name, entry in graph.materializations(asset)[0].metadata.items()}
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

    rows, metadata = shown(graph)

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
    metadata = graph.materializations("campaign_status")[0].metadata
    assert metadata["campaign"].value == "there is none yet"


def test_campaigns_page_says_what_its_command_says(graph: Graph):
    offline = "{} cannot be fetched from hub/{}: git ls-remote: no answer in 7 s"
    others = ["eos1aaa", "eos2aaa", "eos3aaa"]
    campaign = start_campaign(graph.platform.store, [*others, MODEL], budget_hours=1.0)
    models = {model: ModelStanding(standing="failed", why=offline.format(model, model)) for model in others[:2]}
    models["eos3aaa"] = ModelStanding(standing="broken", why="not_all_null: it answers nothing", spent_hours=0.25)
    models[MODEL] = ModelStanding(standing="ready", hours=0.5)
    said = Progress(phase="approval", models=models, seen_at=datetime.now(UTC))
    campaign.progress.put(said)
    graph.materialize("raw_predictions", first=EVERYTHING[0], last=EVERYTHING[1])

    rows, metadata = shown(graph, "campaign_status")

    assert [*rows] == [MODEL, *others]
    assert rows[MODEL] == ["ready", "0.50", "$0.00", "–", "–", "0/5", "0.00", ""]
    assert rows["eos3aaa"][-1] == "not_all_null: it answers nothing"
    assert metadata["campaign"].startswith(f"campaign {campaign.id}: approval; 0.25 of 1.00 hours spent; ")
    assert "`precalc campaign approve` launches what is ready: 1 models, 0.50 hours" in metadata["next"]
    [*_, twice, once] = metadata["failures"].replace("\\", "").splitlines()
    assert twice == "| 2 | cannot be fetched from hub/eos…: git ls-remote: no answer in 7 s |"
    assert once == "| 1 | not_all_null: it answers nothing |"
    status = graph.world.precalc("campaign", "status", n_shards=str(len(ALL_SHARDS))).stdout
    assert status.splitlines()[0] == metadata["campaign"]
    picture = base64.b64decode(metadata["shards"].partition("base64,")[2].rstrip(")")).decode()
    assert re.findall(r">(eos\w+)<", picture) == [*rows]


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
