"""Checks in Dagster's UI: the status that it resolves for each partition, and for the asset as a whole."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
import obstore
import pytest
from dagster._core.event_api import PartitionKeyFilter
from graphs import ALL_SHARDS, MODEL, MOLECULES, SHARDS, Graph, check_statuses, check_summary

from precalc_assets.defs.asset_checks import AssetChecks
from precalc_assets.defs.checks import LIBRARY_SHARDS, PREDICTIONS, RAW, TABLE
from precalc_assets.defs.partitions import shard_partitions
from precalc_assets.defs.recording import Recorder
from precalc_assets.outcomes import Check, ShardOutcome
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings

pytestmark = pytest.mark.slow

KEYS = [f"{MODEL}|{shard}" for shard in SHARDS]
PASSED = dict.fromkeys(KEYS, "SUCCEEDED")
PARTITIONS = shard_partitions(len(ALL_SHARDS))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("models", [MODEL])
        yield instance


@pytest.fixture
def graph(world, instance: dg.DagsterInstance) -> Graph:
    built = Graph(world, instance)
    built.change_library(MOLECULES)
    world.write_model()
    return built


class Shards:
    """An asset with given checks, whose step records the digest and the failed checks that a test sets for each shard.

    A shard that does not land has evaluated its failed check and no other.
    """

    def __init__(self, tmp_path, instance: dg.DagsterInstance, checks: AssetChecks) -> None:
        self.checks = checks
        self.instance = instance
        self.model = None if checks is LIBRARY_SHARDS else MODEL
        self.found: dict[str, tuple[str, Sequence[str]]] = {}
        self.undecided: set[str] = set()
        self.before_each: Callable[[], None] = lambda: None
        platform = Platform(Settings(store_url=f"file://{tmp_path}", tables_url=f"sqlite:///{tmp_path}/tables.db"))

        partitions = PARTITIONS.model_shards if self.model else PARTITIONS.shards

        @dg.asset(
            name=checks.asset.to_user_string(),
            partitions_def=partitions,
            check_specs=checks.specs(partitions),
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def shards(context: dg.AssetExecutionContext) -> Iterator[object]:
            recorder = Recorder(context, platform, "source", checks)
            wanted = [key.rpartition("|")[2] for key in context.partition_keys]
            for shard in wanted:
                yield from recorder.record(self._outcome(shard), self.model)
            yield from recorder.conclude()

        self.defs = dg.Definitions([shards])

    def run(self, shards: Sequence[str] = SHARDS, *, single: bool = False) -> dg.ExecuteInProcessResult:
        keys = [self.key(shard) for shard in shards]
        span = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            partition_key=keys[0] if single else None,
            tags={} if single else span,
            raise_on_error=False,
        )

    def key(self, shard: str) -> str:
        return f"{self.model}|{shard}" if self.model else shard

    def statuses(self, check: str) -> dict[str, str]:
        found = check_statuses(self.instance, self.defs.resolve_asset_graph(), self.checks.asset.to_user_string())
        return {key.rpartition("|")[2]: status for key, status in found[check].items()}

    def summary(self, check: str) -> tuple[str, str]:
        return check_summary(self.instance, dg.AssetCheckKey(self.checks.asset, check))

    def _outcome(self, shard: str) -> ShardOutcome:
        self.before_each()
        digest, broken = self.found.get(shard, ("1", ()))
        lands = all(name in self.checks.warnings for name in broken)
        reached = self.checks.promises if lands else broken
        doubt = shard in self.undecided
        checks = tuple(Check(name, name not in broken, "as the test says", undecided=doubt) for name in reached)
        failure = "" if lands else f"shard {shard}: {broken[0]} broke"
        return ShardOutcome(shard, digest, failure=failure, facts={"rows": 1}, checks=checks)


each_check = pytest.mark.parametrize(
    ("checks", "check"),
    [
        (LIBRARY_SHARDS, "membership"),
        (RAW, "failure_rate"),
        (PREDICTIONS, "schema"),
        (PREDICTIONS, "distribution"),
        (TABLE, "read_back"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.asset.to_user_string(),
)
each_way = pytest.mark.parametrize("single", [False, True], ids=["range", "single"])


@each_check
@each_way
def test_partition_has_the_verdict_of_its_last_run(tmp_path, instance, checks: AssetChecks, check: str, single: bool):
    shards = Shards(tmp_path, instance, checks)
    for digest, broken, expected in (
        ("1", [check], "FAILED"),
        ("2", [], "SUCCEEDED"),
        ("3", [check], "FAILED"),
    ):
        shards.found["02"] = (digest, broken)
        lands = not broken or check in checks.warnings
        assert shards.run(["02"] if single else SHARDS, single=single).success is lands
        others = {} if single else dict.fromkeys(SHARDS, "SUCCEEDED")
        assert shards.statuses(check) == {**others, "02": expected}
        for other in set(checks.promises) - {check}:
            assert shards.statuses(other) == {**others, "02": "SUCCEEDED" if lands else "EXECUTION_FAILED"}


@each_check
def test_asset_check_fails_while_one_partition_does(tmp_path, instance, checks: AssetChecks, check: str):
    shards = Shards(tmp_path, instance, checks)
    shards.found["02"] = ("1", [check])
    broken = f"failed in 1 of 3 evaluated partitions: {shards.key('02')}"

    shards.run()
    assert shards.summary(check) == ("FAILED", broken)
    shards.run(["03"], single=True)
    assert shards.summary(check) == ("FAILED", broken)
    shards.run(["01"])
    assert shards.summary(check) == ("FAILED", broken)

    shards.found["02"] = ("2", [])
    assert shards.run(["02"], single=True).success
    assert shards.summary(check) == ("SUCCEEDED", "passed in all 3 evaluated partitions of 5")


def test_summary_counts_shards_that_are_too_small_to_tell(tmp_path, instance):
    shards = Shards(tmp_path, instance, PREDICTIONS)
    shards.undecided = {"01", "03"}
    shards.run()
    assert set(shards.statuses("distribution").values()) == {"SUCCEEDED"}
    said = "passed in 1 of 3 evaluated partitions; too little to tell by in 2"
    assert shards.summary("distribution") == ("SUCCEEDED", said)

    shards.found["02"] = ("2", ["distribution"])
    shards.run(["02"], single=True)
    said = f"failed in 1 of 3 evaluated partitions: {shards.key('02')}; too little to tell by in 2"
    assert shards.summary("distribution") == ("FAILED", said)

    shards.undecided.clear()
    shards.found["02"] = ("3", [])
    shards.run()
    assert shards.summary("distribution") == ("SUCCEEDED", "passed in all 3 evaluated partitions of 5")


def test_removed_model_does_not_count_in_the_summary(tmp_path, instance):
    shards = Shards(tmp_path, instance, RAW)
    shards.found["02"] = ("1", ["failure_rate"])
    shards.run()
    shards.found.clear()

    instance.delete_dynamic_partition("models", MODEL)
    instance.add_dynamic_partitions("models", ["eos9abd"])
    shards.model = "eos9abd"
    assert shards.run().success

    assert shards.summary("failure_rate") == ("SUCCEEDED", "passed in all 3 evaluated partitions of 5")


def test_shards_of_a_slow_run_are_evaluated_as_they_land(tmp_path, instance, monkeypatch):
    shards = Shards(tmp_path, instance, RAW)
    monkeypatch.setattr("precalc_assets.defs.recording._EVALUATION_SECONDS", 0.0)
    seen: list[dict[str, str]] = []
    shards.before_each = lambda: seen.append(shards.statuses("failure_rate"))

    assert shards.run().success

    assert [sum(status == "SUCCEEDED" for status in found.values()) for found in seen] == [0, 1, 2]


@each_way
def test_every_check_of_every_asset_passes_in_real_runs(graph: Graph, single: bool):
    """Coverage alone fails: of five shards three or one are in the table."""
    graph.materialize("reference_library")
    if single:
        for asset, key in {"library_shards": "02", "sample_predictions": MODEL}.items():
            assert graph.materialize(asset, partition=key).success
        for asset in ("raw_predictions", "predictions", "prediction_table"):
            assert graph.materialize(asset, partition=f"{MODEL}|02").success
        assert graph.materialize("model_card", partition=MODEL).success
    else:
        assert graph.materialize("library_shards", first=SHARDS[0], last=SHARDS[-1]).success
        assert graph.materialize("sample_predictions", first=MODEL, last=MODEL).success
        assert graph.run_range("raw_predictions", "predictions", "prediction_table").success
        assert graph.materialize("model_card", first=MODEL, last=MODEL).success

    of_shards = {f"{MODEL}|02": "SUCCEEDED"} if single else PASSED
    expected = {
        "reference_library": {"": "SUCCEEDED"},
        "library_shards": {key.rpartition("|")[2]: status for key, status in of_shards.items()},
        "sample_predictions": {MODEL: "SUCCEEDED"},
        **dict.fromkeys(("raw_predictions", "predictions", "prediction_table"), of_shards),
    }
    for asset, statuses in expected.items():
        found = graph.statuses(asset)
        assert found == dict.fromkeys(found, statuses)
        assert {graph.summary(asset, check)[0] for check in found} == {"SUCCEEDED"}
        assert len(graph.materializations(asset)) == len(statuses)
    card = {check: {MODEL: "SUCCEEDED"} for check in graph.statuses("model_card")}
    assert graph.statuses("model_card") == {**card, "coverage": {MODEL: "FAILED"}}
    assert graph.summary("model_card", "coverage") == ("FAILED", f"failed in 1 of 1 evaluated partitions: {MODEL}")
    assert len(graph.materializations("model_card")) == 1


def test_shard_over_the_limit_fails_until_it_is_fixed(graph: Graph):
    fails_some = {"columns": (("score", "float"),), "answer": "return '' if smiles.endswith('O') else '1.5'"}
    graph.world.write_model(**fails_some)
    result = graph.run_range("raw_predictions")
    statuses = graph.statuses("raw_predictions")["failure_rate"]
    landed = {event.partition for event in graph.materializations("raw_predictions")}
    assert statuses == {key: "SUCCEEDED" if key in landed else "FAILED" for key in KEYS}
    assert set(statuses.values()) == {"SUCCEEDED", "FAILED"}
    [event] = [event for event in result.all_events if event.is_step_failure]
    first, *lines = event.step_failure_data.user_failure_data.description.splitlines()
    assert first == f"{len(KEYS) - len(landed)} of {len(KEYS)} shards failed:"
    assert len(lines) == 1
    assert "; mostly: the model printed no value (also " in lines[0]
    assert graph.summary("raw_predictions", "failure_rate")[0] == "FAILED"

    [failed, *_] = [key for key, status in statuses.items() if status == "FAILED"]
    [record] = graph.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("raw_predictions"), "failure_rate"),
        limit=1,
        partition_filter=PartitionKeyFilter(key=failed),
    )
    shown = {name: entry.value for name, entry in record.evaluation.metadata.items()}
    assert (shown["partition"], shown["mostly"]) == (failed, "the model printed no value")
    assert shown["failure_rate"] == round(shown["quarantined"] / shown["molecules"], 4) > 0.1

    graph.world.write_model(release="v2.0.0")
    assert graph.run_range("raw_predictions").success
    assert graph.statuses("raw_predictions")["failure_rate"] == PASSED

    graph.world.write_model(release="v3.0.0", **fails_some)
    assert not graph.run_range("raw_predictions").success
    assert graph.statuses("raw_predictions")["failure_rate"] == statuses
    assert graph.summary("raw_predictions", "failure_rate")[0] == "FAILED"


def test_dirty_library_fails_its_check(graph: Graph):
    graph.change_library([*MOLECULES, *["dirt"] * (len(MOLECULES) // 2)])
    assert not graph.materialize("reference_library").success
    assert graph.statuses("reference_library") == {"parse_rate": {"": "FAILED"}, "unique_keys": {"": "SUCCEEDED"}}


@each_way
def test_canary_checks_follow_its_verdict(graph: Graph, single: bool):
    def run_canary() -> bool:
        span = {"partition": MODEL} if single else {"first": MODEL, "last": MODEL}
        return graph.materialize("sample_predictions", **span).success

    for release, answer, expected in (
        ("v1.0.0", "return 'high'", "FAILED"),
        ("v2.0.0", "return '1.5'", "SUCCEEDED"),
        ("v3.0.0", "return 'high'", "FAILED"),
    ):
        graph.world.write_model(release=release, columns=(("score", "float"),), answer=answer)
        assert run_canary() is (expected == "SUCCEEDED")
        assert graph.statuses("sample_predictions")["schema"] == {MODEL: expected}
        assert graph.summary("sample_predictions", "schema")[0] == expected


def test_model_that_varies_lands_with_a_failed_check(graph: Graph):
    graph.world.write_model(answer="import random\nreturn f'{random.random()},{len(smiles)},x'")
    assert graph.materialize("sample_predictions", partition=MODEL).success
    assert graph.statuses("sample_predictions")["deterministic"] == {MODEL: "FAILED"}


def test_card_checks_follow_the_table(graph: Graph):
    assert graph.run_range("raw_predictions", "predictions", "prediction_table").success
    graph.world.write_model(release="v2.0.0")
    obstore.delete(graph.world.store, [f"raw/model={MODEL}/shard=01/manifest.json"])
    for first, expected in ((KEYS[1], "FAILED"), (KEYS[0], "SUCCEEDED")):
        span = {"first": first, "last": first if expected == "FAILED" else KEYS[-1]}
        assert graph.materialize("raw_predictions", "predictions", "prediction_table", **span).success
        assert graph.materialize("model_card", partition=MODEL).success
        assert graph.statuses("model_card")["one_release"] == {MODEL: expected}
