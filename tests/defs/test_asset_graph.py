"""The asset graph on a real instance: what a run records, what it withholds, and what Dagster starts by itself."""

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from graphs import ALL_SHARDS, MODEL, MOLECULES, SHARDS, Graph, ready_graph

from precalc_assets.cards.model_card import find_card
from precalc_assets.definitions import build_defs
from precalc_assets.defs.canary_events import is_recorded
from precalc_assets.defs.own_runs import OwnRuns
from precalc_assets.defs.partitions import range_tags
from precalc_assets.library.library_manifest import read_manifest, read_shard
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.settings import Settings

EVERYTHING = [f"{MODEL}|{shard}" for shard in ALL_SHARDS]


@pytest.fixture
def graph(world) -> Iterator[Graph]:
    with ready_graph(world) as built:
        yield built


def keys(shards: Sequence[str] = SHARDS) -> list[str]:
    return [f"{MODEL}|{shard}" for shard in shards]


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data.description or ""


def test_graph_has_nine_assets_in_four_groups():
    graph = build_defs(Platform(Settings())).resolve_asset_graph()
    found = {
        key.to_user_string(): (
            graph.get(key).group_name,
            sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            type(graph.get(key).partitions_def).__name__,
            graph.get(key).backfill_policy == dg.BackfillPolicy.single_run(),
            graph.get(key).automation_condition is not None,
        )
        for key in graph.get_all_asset_keys()
    }
    by_both, by_model = "MultiPartitionsDefinition", "DynamicPartitionsDefinition"
    assert found == {
        "reference_library": ("library", [], "NoneType", False, False),
        "library_shards": ("library", ["reference_library"], "StaticPartitionsDefinition", True, True),
        "sample_predictions": ("inference", ["library_shards"], by_model, False, False),
        "raw_predictions": ("inference", ["library_shards", "sample_predictions"], by_both, True, False),
        "predictions": ("serving", ["raw_predictions"], by_both, True, True),
        "prediction_table": ("serving", ["predictions"], by_both, True, True),
        "model_card": ("serving", ["prediction_table", "sample_predictions"], by_model, False, True),
        "hub_status": ("serving", ["model_card"], "NoneType", False, False),
        "campaign_status": ("serving", ["model_card"], "NoneType", False, False),
        "hub_models": ("hub", [], "NoneType", False, False),
    }


@pytest.mark.parametrize(("days", "limits"), [(0, None), (30, (timedelta(days=30), timedelta(days=60)))])
def test_age_of_the_library_is_limited_by_a_setting(days: int, limits: tuple[timedelta, timedelta] | None):
    graph = build_defs(Platform(Settings(library_days=days))).resolve_asset_graph()
    policy = graph.get(dg.AssetKey("reference_library")).freshness_policy
    found = policy and (policy.warn_window.to_timedelta(), policy.fail_window.to_timedelta())
    assert found == limits


def test_shard_is_recorded_once_with_its_own_version(graph: Graph):
    result = graph.run_range("raw_predictions", "predictions", "prediction_table")

    assert result.success
    for asset in ("raw_predictions", "predictions", "prediction_table"):
        recorded = graph.materializations(asset)
        assert sorted(entry.partition for entry in recorded) == keys()
        assert len({entry.tags["dagster/data_version"] for entry in recorded}) == len(SHARDS)
        assert all(entry.metadata["dagster/row_count"].value > 0 for entry in recorded)
        assert all("seconds" in entry.metadata and "bytes" in entry.metadata for entry in recorded)
        assert all("dagster/column_schema" in entry.metadata for entry in recorded)
    assert all(
        "write_units" in e.metadata and "pages" in e.metadata for e in graph.materializations("prediction_table")
    )
    assert all(
        str(e.metadata["dagster/uri"].value).startswith("file://") for e in graph.materializations("predictions")
    )


def test_every_check_is_evaluated_for_each_shard(graph: Graph):
    graph.run_range("raw_predictions", "predictions", "prediction_table")
    names = {
        "raw_predictions": ("failure_rate", "cells"),
        "predictions": ("schema", "keys", "finite", "nulls"),
        "prediction_table": ("row_count", "read_back"),
    }
    for asset, check in ((asset, check) for asset, checks in names.items() for check in checks):
        evaluated = graph.evaluations(asset, check)
        assert {key: passed for key, passed in evaluated.items() if key} == dict.fromkeys(keys(), True), check


def test_emptied_cells_are_a_warning_with_an_example(graph: Graph):
    odd = read_shard(graph.world.store, read_manifest(graph.world.store), "02")["smiles"][0].as_py()
    graph.world.write_model(answer=f"return 'inf,1,x' if smiles == {odd!r} else '1.5,1,x'")

    result = graph.run_range("raw_predictions")

    assert result.success
    [failed] = [e for e in result.get_asset_check_evaluations() if e.partition and not e.passed]
    assert (failed.check_name, failed.partition, failed.severity) == (
        "cells",
        f"{MODEL}|02",
        dg.AssetCheckSeverity.WARN,
    )
    assert f"1 in score, such as 'inf' of {odd}" in failed.description
    recorded = {e.partition: e.metadata["emptied_cells"].value for e in graph.materializations("raw_predictions")}
    assert recorded == {key: int(key == f"{MODEL}|02") for key in keys()}


def test_bad_shard_is_named_and_holds_no_other_back(graph: Graph):
    graph.world.library_shard("02").write_bytes(b"damaged")

    raw = graph.run_range("raw_predictions")
    predictions = graph.run_range("predictions")
    table = graph.run_range("prediction_table")

    for result, asset in ((raw, "raw_predictions"), (predictions, "predictions"), (table, "prediction_table")):
        assert not result.success
        assert failure(result).startswith(f"1 of 3 shards failed:\n{MODEL}|02: ")
        assert sorted(entry.partition for entry in graph.materializations(asset)) == keys(("01", "03"))


def test_shard_that_breaks_a_check_is_not_materialized(graph: Graph):
    graph.world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")

    result = graph.run_range("raw_predictions")

    assert not result.success
    assert "molecules quarantined" in failure(result)
    evaluated = {key: passed for key, passed in graph.evaluations("raw_predictions", "failure_rate").items() if key}
    assert set(evaluated) == set(keys())
    assert set(evaluated.values()) == {True, False}
    published = {entry.partition for entry in graph.materializations("raw_predictions")}
    assert published == {key for key, passed in evaluated.items() if passed}


def test_failed_partition_says_why_and_what_to_do(graph: Graph):
    graph.materialize_library()
    graph.world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")

    result = graph.run_range("raw_predictions")

    observed = {
        record.partition_key: record
        for record in graph.instance.fetch_observations(dg.AssetKey("raw_predictions"), limit=10).records
    }
    assert set(observed) == {f"{MODEL}|01", f"{MODEL}|03"}
    seen = observed[f"{MODEL}|01"].event_log_entry.asset_observation
    shown = {name: entry.value for name, entry in seen.metadata.items()}
    assert "molecules quarantined" in seen.description
    assert (shown["partition"], shown["limit"]) == (f"{MODEL}|01", 0.1)
    assert shown["failure_rate"] == round(shown["quarantined"] / shown["molecules"], 4)
    assert shown["dagster/uri"].endswith(f"raw/model={MODEL}/shard=01/manifest.json")
    assert shown["mostly"]
    assert f"precalc run {MODEL} --shards 01`" in shown["try_again"]
    [event] = [event for event in result.all_events if event.is_step_failure]
    of_run = {name: entry.value for name, entry in event.step_failure_data.user_failure_data.metadata.items()}
    assert f"precalc run {MODEL} --shards 01,03`" in of_run["try_again"]
    assert len(of_run["failed_shards"].splitlines()) == 4
    assert graph.stale("raw_predictions", keys()) == []


def test_error_for_people_is_the_failures_description(graph: Graph):
    graph.instance.add_dynamic_partitions("models", ["eos9zzz"])

    result = graph.materialize("sample_predictions", first="eos9zzz", last="eos9zzz")

    assert failure(result).startswith("there is no model 'eos9zzz'")


def test_unusable_model_holds_no_later_model_back(graph: Graph):
    graph.instance.add_dynamic_partitions("models", ["eos9zzz", "eos9zzy"])
    graph.instance.delete_dynamic_partition("models", MODEL)
    graph.instance.add_dynamic_partitions("models", [MODEL])

    result = graph.materialize("raw_predictions", first="eos9zzz|01", last=f"{MODEL}|02")

    assert failure(result).startswith("4 of 6 shards failed:\neos9zzz|01: there is no model 'eos9zzz'")
    recorded = sorted(entry.partition for entry in graph.materializations("raw_predictions"))
    assert recorded == [f"{MODEL}|01", f"{MODEL}|02"]


def test_run_is_tagged_with_model_and_compute(graph: Graph):
    assert graph.materialize("raw_predictions", partition=f"{MODEL}|01").success
    assert graph.materialize("predictions", first=f"{MODEL}|01", last=f"{MODEL}|01").success

    predictions, raw, *library = graph.instance.get_runs()
    assert (raw.tags["model"], raw.tags["compute"]) == (MODEL, "local")
    assert predictions.tags["model"] == MODEL
    assert not any("model" in run.tags for run in library)


def test_untried_model_runs_its_canary_before_any_shard(graph: Graph):
    assert graph.materialize("raw_predictions", partition=f"{MODEL}|01", config={}).success

    assert [entry.partition for entry in graph.materializations("sample_predictions")] == [MODEL]
    calls = len(graph.world.calls())
    assert graph.materialize("raw_predictions", partition=f"{MODEL}|02", config={}).success
    assert len(graph.world.calls()) == calls + 1


def test_shards_are_refused_to_a_model_with_a_broken_canary(graph: Graph):
    graph.world.write_model(answer="return 'high,1,x'")

    result = graph.materialize("raw_predictions", first=f"{MODEL}|01", last=f"{MODEL}|03", config={})

    assert failure(result).startswith(f"3 of 3 shards failed:\n{MODEL}|01: the canary of {MODEL} failed: schema: ")
    assert "without_canary" in failure(result)
    assert graph.world.objects("raw") == {}
    assert graph.statuses("sample_predictions")["schema"] == {MODEL: "FAILED"}


@pytest.mark.slow
def test_range_may_span_models(graph: Graph):
    graph.world.write_model(model="eos9abd")
    graph.instance.add_dynamic_partitions("models", ["eos9abd"])

    assert graph.materialize("raw_predictions", first=f"{MODEL}|01", last="eos9abd|02").success
    assert graph.instance.get_runs()[0].tags["model"] == f"{MODEL}, eos9abd"

    recorded = sorted(entry.partition for entry in graph.materializations("raw_predictions"))
    assert recorded == [f"{model}|{shard}" for model in (MODEL, "eos9abd") for shard in ("01", "02")]


@pytest.mark.slow
def test_downstream_catches_up_after_daemon_was_down(graph: Graph):
    graph.materialize_library()
    graph.run_range("raw_predictions")

    assert graph.requested_of_late("predictions") == set(keys())
    assert graph.requested_of_late("prediction_table") == set(keys())

    graph.run_range("predictions", "prediction_table")
    assert graph.requested_of_late("predictions") == set()


def test_automation_leaves_a_model_to_the_command_that_runs_it(graph: Graph, monkeypatch):
    before = dg.evaluate_automation_conditions(graph.defs, graph.instance)
    command = OwnRuns(graph.platform, graph.defs.resolve_implicit_global_asset_job_def(), graph.instance, {})
    assert not command.materialize("raw_predictions", keys()[0], keys()[-1], {"without_canary": True}).failure

    meanwhile = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=before.cursor)
    assert meanwhile.get_requested_partitions(dg.AssetKey("predictions")) == set()
    monkeypatch.setattr("precalc_assets.defs.dead_runs._is_alive", lambda pid, started: False)
    after = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=meanwhile.cursor)
    assert after.get_requested_partitions(dg.AssetKey("predictions")) == set(keys())


def test_card_waits_for_the_first_shard_only(graph: Graph):
    graph.materialize_library()
    graph.run_range("raw_predictions", "predictions")
    assert graph.requested_of_late("model_card") == set()

    graph.run_range("prediction_table")
    assert graph.requested_of_late("model_card") == {MODEL}


@pytest.mark.slow
def test_failed_shard_is_not_requested_again(graph: Graph):
    graph.materialize_library()
    graph.run_range("raw_predictions")
    for name in graph.world.objects(f"raw/model={MODEL}/shard=02"):
        if "/part-" in name:
            graph.world.path(name).unlink()
    graph.run_range("predictions")

    assert [entry.partition for entry in graph.materializations("predictions")].count(f"{MODEL}|02") == 0
    assert graph.requested_of_late("predictions") == set()


def test_card_is_renewed_after_a_later_canary(graph: Graph):
    graph.run_range("raw_predictions", "predictions", "prediction_table")
    assert graph.materialize("model_card", first=MODEL, last=MODEL).success
    before = dg.evaluate_automation_conditions(graph.defs, graph.instance)
    assert graph.materialize("sample_predictions", first=MODEL, last=MODEL).success
    after = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=before.cursor)
    assert set(after.get_requested_partitions(dg.AssetKey("model_card"))) == {MODEL}


def test_card_is_published_before_all_shards_landed(graph: Graph):
    graph.run_range("raw_predictions", "predictions", "prediction_table")

    assert graph.materialize("model_card", first=MODEL, last=MODEL).success

    [card] = graph.materializations("model_card")
    assert card.metadata["shards"].value == "3 of 5"
    assert graph.evaluations("model_card", "coverage") == {None: False, MODEL: False}


@pytest.mark.slow
def test_changed_library_makes_only_changed_shards_stale(graph: Graph):
    graph.materialize_library()
    run_everything(graph)
    assert graph.stale("raw_predictions", EVERYTHING) == []
    before = graph.platform.library().shards

    graph.change_library([*MOLECULES, "c1ccccc1", "c1ccncc1"])
    graph.materialize_library()

    after = graph.platform.library().shards
    changed = [f"{MODEL}|{shard}" for shard in after if after[shard].digest != before[shard].digest]
    assert 1 <= len(changed) <= 2
    assert graph.stale("raw_predictions", EVERYTHING) == changed


def test_sample_materializes_no_shard(graph: Graph):
    assert graph.materialize("sample_predictions", first=MODEL, last=MODEL).success

    assert graph.materializations("raw_predictions") == []
    assert graph.world.objects("raw") == {}
    assert graph.world.path(f"samples/model={MODEL}.parquet").is_file()


def test_recorded_canary_stays_so_when_a_later_run_dies(graph: Graph):
    assert run_canary(graph).success
    report = find_report(graph.platform.store, MODEL)
    # Dagster notes which checks a run is to evaluate when it creates the run.
    graph.instance.create_run_for_job(
        graph.defs.resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset([dg.AssetKey("sample_predictions")]),
        tags=range_tags(MODEL, MODEL),
    )

    assert is_recorded(graph.instance, report)
    assert not is_recorded(graph.instance, report.model_copy(update={"finished_at": datetime.now(UTC)}))


RANDOM = "import random\nreturn f'{random.random()},{len(smiles)},x'"


def run_canary(graph: Graph) -> dg.ExecuteInProcessResult:
    return graph.materialize("sample_predictions", first=MODEL, last=MODEL)


def run_everything(graph: Graph) -> None:
    assert graph.materialize("raw_predictions", first=EVERYTHING[0], last=EVERYTHING[-1]).success


@pytest.mark.slow
def test_later_canary_makes_no_shard_stale(graph: Graph):
    graph.materialize_library()
    run_everything(graph)
    assert graph.stale("raw_predictions", EVERYTHING) == []

    assert run_canary(graph).success
    assert graph.stale("raw_predictions", EVERYTHING) == []


@pytest.mark.slow
def test_canary_with_same_verdict_makes_no_shard_stale(graph: Graph):
    graph.materialize_library()
    assert run_canary(graph).success
    run_everything(graph)

    assert run_canary(graph).success
    assert graph.stale("raw_predictions", EVERYTHING) == []


@pytest.mark.slow
def test_canary_on_changed_library_adds_no_stale_shard(graph: Graph):
    graph.materialize_library()
    assert run_canary(graph).success
    run_everything(graph)
    before = graph.platform.library().shards

    graph.change_library([*MOLECULES, "c1ccccc1"])
    graph.materialize_library()
    assert run_canary(graph).success

    after = graph.platform.library().shards
    changed = [f"{MODEL}|{shard}" for shard in after if after[shard].digest != before[shard].digest]
    assert len(changed) == 1
    assert graph.stale("raw_predictions", EVERYTHING) == changed


@pytest.mark.slow
def test_canary_with_other_verdict_makes_shards_stale(graph: Graph):
    graph.materialize_library()
    assert run_canary(graph).success
    graph.run_range("raw_predictions")

    graph.world.write_model(answer=RANDOM)
    assert run_canary(graph).success

    assert graph.stale("raw_predictions", keys()) == keys()
    graph.run_range("raw_predictions")
    assert graph.stale("raw_predictions", keys()) == []


@pytest.mark.slow
def test_canary_of_shards_own_release_leaves_them_fresh(graph: Graph):
    graph.materialize_library()
    assert run_canary(graph).success
    graph.world.write_model(release="v2.0.0")
    graph.run_range("raw_predictions")
    assert graph.stale("raw_predictions", keys()) == []

    assert run_canary(graph).success
    assert graph.stale("raw_predictions", keys()) == []


@pytest.mark.slow
def test_canary_of_one_model_leaves_another_fresh(graph: Graph):
    graph.materialize_library()
    graph.world.write_model(model="eos9abd")
    graph.instance.add_dynamic_partitions("models", ["eos9abd"])
    assert run_canary(graph).success
    graph.materialize("raw_predictions", first="eos9abd|01", last="eos9abd|02")
    graph.run_range("raw_predictions")

    graph.world.write_model(release="v2.0.0")
    assert run_canary(graph).success

    assert graph.stale("raw_predictions", ["eos9abd|01", "eos9abd|02"]) == []
    assert graph.stale("raw_predictions", keys()) == keys()


CANARY = ("schema", "cells", "not_all_null", "failure_rate", "estimate", "deterministic", "example")


def test_canary_checks_are_evaluated_for_its_model(graph: Graph):
    assert run_canary(graph).success
    for name in CANARY:
        assert graph.evaluations("sample_predictions", name)[MODEL]


def test_failed_canary_names_its_check(graph: Graph):
    graph.world.write_model(answer="return 'high,1,x'")

    result = run_canary(graph)

    assert "eos9abc schema: no cell of score is of its column's type: score is 'high'" in failure(result)
    assert graph.statuses("sample_predictions")["schema"] == {MODEL: "FAILED"}
    assert graph.materializations("sample_predictions") == []
    assert graph.world.path(f"samples/model={MODEL}.json").is_file()


def test_model_that_varies_is_a_warning(graph: Graph):
    graph.world.write_model(answer=RANDOM)

    result = run_canary(graph)

    assert result.success
    [evaluation] = [
        e for e in result.get_asset_check_evaluations() if e.check_name == "deterministic" and e.partition == MODEL
    ]
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "score" in (evaluation.description or "")


METADATA = """\
Identifier: eos9abc
Title: Barrier crossing
Description: "Says *whether* a molecule gets in. <script>alert(1)</script>"
Release: v1.0.0
Tag: [Permeability, ADME]
License: MIT
Publication: https://doi.org/10.1/x
Source Code: javascript:alert(1)
"""


@pytest.mark.slow
def test_sample_and_card_show_the_models_metadata(graph: Graph):
    (graph.world.models_dir / MODEL / "metadata.yml").write_text(METADATA)
    assert run_canary(graph).success
    graph.run_range("raw_predictions", "predictions", "prediction_table")
    assert graph.materialize("model_card", first=MODEL, last=MODEL).success

    for asset in ("sample_predictions", "model_card"):
        [event] = graph.materializations(asset)
        shown = {name: entry.value for name, entry in event.metadata.items()}
        assert (shown["title"], shown["tags"], shown["license"]) == ("Barrier crossing", "Permeability, ADME", "MIT")
        assert shown["description"] == "Says *whether* a molecule gets in. &lt;script&gt;alert(1)&lt;/script&gt;"
        assert isinstance(event.metadata["publication"], dg.UrlMetadataValue)
        assert isinstance(event.metadata["source_code"], dg.TextMetadataValue)
        assert [column.name for column in shown["dagster/column_schema"].columns] == ["score", "atoms", "label"]
    [canary] = graph.materializations("sample_predictions")
    assert canary.metadata["release"].value == "v1.0.0"
    for name in ("full_run_runner_hours", "full_run_dollars", "table_write_units", "milliseconds_per_molecule"):
        assert name in canary.metadata


@pytest.mark.slow
def test_card_outlives_the_models_folder(graph: Graph):
    graph.world.write_model(answer=RANDOM)
    assert run_canary(graph).success
    graph.run_range("raw_predictions", "predictions", "prediction_table")
    shutil.rmtree(graph.world.models_dir / MODEL)

    assert graph.materialize("model_card", first=MODEL, last=MODEL).success

    card = find_card(graph.platform.tables, MODEL)
    assert (card.metadata.title, card.deterministic, card.varying) == ("A model for tests", False, ("score",))


@pytest.mark.slow
def test_card_ignores_the_canary_of_another_release(graph: Graph):
    graph.run_range("raw_predictions", "predictions", "prediction_table")
    graph.world.write_model(release="v2.0.0")
    assert run_canary(graph).success
    assert graph.materialize("model_card", first=MODEL, last=MODEL).success
    assert find_card(graph.platform.tables, MODEL).deterministic is None
