"""Executions in the graph: runs that follow GitHub's runners, and the sensors around them. GitHub is the fake."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, islice

import dagster as dg
import obstore
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from fake_runners import FakeRunners
from graphs import MODEL, MOLECULES, SHARDS, Clock, Graph, QuickPlatform

from precalc_assets.defs.executions.reporting import canary_events, shard_events, tell_dagster
from precalc_assets.defs.executions.settling import Tick
from precalc_assets.executions import (
    Execution,
    Run,
    Settled,
    claim_own,
    list_executions,
    open_execution,
    pending_requests,
    step,
)
from precalc_assets.executions.following import shard_facts
from precalc_assets.executions.records import CANCELLED
from precalc_assets.inference import find_report

pytestmark = pytest.mark.slow

EVERYTHING = [f"{MODEL}|{index:02d}" for index in range(50)]


class RunnerGraph(Graph):
    """The graph with GitHub's runners."""

    def __init__(self, world, instance: dg.DagsterInstance, url: str, fake: FakeGitHub) -> None:
        github = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url}
        super().__init__(world, instance, QuickPlatform, compute="github", **github)
        self.platform.clock = Clock()
        self.fake = fake
        self.fake.now = self.platform.clock.now
        self.runners = FakeRunners(fake, self.platform.store, self.platform.settings, world.backend)

    def dispatched(self) -> list[str]:
        return [run.inputs.get("shards", "") for run in self.fake.runs.values()]

    def context(self, cursor: str | None = None) -> dg.SensorEvaluationContext:
        repository = self.defs.get_repository_def()
        return dg.build_sensor_context(
            self.instance, cursor=cursor, repository_def=repository, resources={"platform": self.platform}
        )

    def tick(self, name: str, cursor: str | None = None) -> tuple[dg.SensorResult | None, str | None]:
        """Let a sensor tick, and do as the daemon does with what it returns; return that, and the next cursor."""
        ticked = self.defs.get_repository_def().get_sensor_def(name).evaluate_tick(self.context(cursor))
        for request in ticked.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return ticked, ticked.cursor or cursor

    def tick_until(self, name: str, done: Callable[[], object]) -> None:
        cursor = None
        for _ in range(200):
            _, cursor = self.tick(name, cursor)
            if done():
                return
            self.platform.clock.sleep(15)
        raise AssertionError(f"{name} is not done")

    def launch(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        return self.defs.resolve_job_def(request.job_name).execute_in_process(
            instance=self.instance,
            run_config=request.run_config,
            tags=request.tags,
            raise_on_error=False,
        )


@contextmanager
def running(world) -> Iterator[RunnerGraph]:
    with dg.DagsterInstance.ephemeral() as instance, (fake := FakeGitHub()).serving() as url:
        built = RunnerGraph(world, instance, url, fake)
        built.change_library(MOLECULES)
        world.write_model()
        yield built


@pytest.fixture
def graph(world) -> Iterator[RunnerGraph]:
    with running(world) as built:
        built.instance.add_dynamic_partitions("models", [MODEL])
        yield built


def keys(shards=SHARDS) -> list[str]:
    return [f"{MODEL}|{shard}" for shard in shards]


def recorded(graph: Graph, asset: str = "raw_predictions") -> list[str]:
    return sorted(entry.partition for entry in graph.materializations(asset))


def assert_passed(graph: Graph) -> None:
    """Assert that every check of the canary and of the shards shows as passed."""
    for asset, partitions in {"sample_predictions": [MODEL], "raw_predictions": keys()}.items():
        found = graph.statuses(asset)
        assert found == dict.fromkeys(found, dict.fromkeys(partitions, "SUCCEEDED"))
        assert {graph.summary(asset, check)[0] for check in found} == {"SUCCEEDED"}


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data.description or ""


# -- runs that follow


def test_shards_that_land_on_runners_are_recorded_with_their_run_and_after_their_canary(graph: RunnerGraph):
    result = graph.run_range("raw_predictions", "predictions", "prediction_table")

    assert result.success
    assert graph.dispatched() == ["03-06"]
    for asset in ("raw_predictions", "predictions", "prediction_table"):
        assert recorded(graph, asset) == keys()
    for event in graph.materializations("raw_predictions"):
        assert event.metadata["attempt"].value == 1
        assert isinstance(event.metadata["run"], dg.UrlMetadataValue)
    assert {k: v for k, v in graph.evaluations("raw_predictions", "failure_rate").items() if k} == dict.fromkeys(
        keys(), True
    )
    assert recorded(graph, "sample_predictions") == [MODEL]
    assert graph.stale("raw_predictions", keys()) == []
    assert_passed(graph)

    again = graph.run_range("raw_predictions")

    assert again.success
    assert graph.dispatched() == ["03-06"]
    assert recorded(graph, "sample_predictions") == [MODEL]


def test_shards_from_runners_turn_stale_when_the_canary_changes_its_verdict(graph: RunnerGraph):
    assert graph.run_range("raw_predictions").success

    graph.world.write_model(release="v2.0.0")
    assert graph.materialize("sample_predictions", first=MODEL, last=MODEL).success

    assert graph.stale("raw_predictions", keys()) == keys()


def test_a_run_s_configuration_outweighs_the_setting(graph: RunnerGraph):
    config = {"raw_predictions": {"config": {"compute": "local"}}}
    span = {"first": keys()[0], "last": keys()[-1]}

    assert graph.materialize("raw_predictions", config=config, **span).success

    assert graph.dispatched() == []
    assert recorded(graph) == keys()


def test_a_failed_shard_alone_is_launched_again(graph: RunnerGraph):
    graph.runners.fails["04"] = 1

    assert graph.run_range("raw_predictions").success

    assert graph.dispatched() == ["03-06", "04"]
    attempts = {event.partition: event.metadata["attempt"].value for event in graph.materializations("raw_predictions")}
    assert attempts == {**dict.fromkeys(keys(), 1), f"{MODEL}|04": 2}


def test_a_shard_that_fails_for_good_is_named_with_its_reasons_and_the_others_are_recorded(graph: RunnerGraph):
    graph.runners.fails["04"] = 9

    result = graph.run_range("raw_predictions")

    assert failure(result).startswith(f"1 of 4 shards failed:\n{MODEL}|04: ")
    assert failure(result).count("the model breaks today") == 3
    assert graph.dispatched() == ["03-06", "04", "04"]
    assert recorded(graph) == keys(("03", "05", "06"))


def test_what_github_refuses_fails_the_shards_with_github_s_words(graph: RunnerGraph):
    graph.fake.may_write = False

    result = graph.run_range("raw_predictions")

    assert "Resource not accessible by personal access token" in failure(result)


@pytest.mark.parametrize("terminated", [True, False])
def test_a_run_that_is_terminated_cancels_its_runs_on_github(graph: RunnerGraph, *, terminated: bool):
    def interrupt() -> None:
        [run] = graph.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        if terminated:
            graph.instance.report_run_canceling(run)
        raise DagsterExecutionInterruptedError

    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = interrupt

    assert not graph.run_range("raw_predictions").success

    [run] = graph.fake.runs.values()
    [execution] = list_executions(graph.platform.store)
    settled = execution.settled.read()
    if terminated:
        assert (run.conclusion, settled.conclusion) == ("cancelled", CANCELLED)
    else:
        assert (run.status, settled) == ("in_progress", None)
    graph.runners.go_on.set()


def die() -> None:
    raise RuntimeError("the process is gone")


def test_a_run_after_one_that_died_reattaches_to_its_execution(graph: RunnerGraph):
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    assert not graph.run_range("raw_predictions").success
    assert recorded(graph) == []

    threading.Timer(0.5, graph.runners.go_on.set).start()
    assert graph.run_range("raw_predictions").success

    assert graph.dispatched() == ["03-06"]
    assert recorded(graph) == keys()


def test_a_canary_on_a_runner_is_recorded_as_one_here_and_also_when_it_fails(graph: RunnerGraph):
    size = {"sample_predictions": {"config": {"size": 12}}}
    assert graph.materialize("sample_predictions", first=MODEL, last=MODEL, config=size).success

    assert [run.inputs.get("sample-only") for run in graph.fake.runs.values()] == ["12"]
    [canary] = graph.materializations("sample_predictions")
    assert canary.metadata["dagster/row_count"].value == 12

    graph.world.write_model(columns=(("score", "float"),), answer="return 'high'")
    result = graph.materialize("sample_predictions", first=MODEL, last=MODEL)

    assert "score is 'high'" in failure(result)
    evaluated = [e for e in result.get_asset_check_evaluations() if e.check_name == "schema" and e.partition == MODEL]
    assert [one.passed for one in evaluated] == [False]
    assert graph.statuses("sample_predictions")["schema"] == {MODEL: "FAILED"}


# -- requests


def ask(graph: RunnerGraph, *arguments: str) -> str:
    done = graph.world.precalc("request", MODEL, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_request_adds_the_model_runs_its_canary_and_then_all_its_shards(world):
    with running(world) as graph:
        asked = ask(graph)
        first, _ = graph.tick("precalculation_requests")
        again, _ = graph.tick("precalculation_requests")

        assert graph.instance.get_dynamic_partitions("models") == [MODEL]
        [canary] = first.run_requests
        assert canary.run_key == again.run_requests[0].run_key == f"{asked}/sample_predictions/1"
        assert graph.launch(canary).success

        [raw] = graph.tick("precalculation_requests")[0].run_requests
        assert raw.run_key == f"{asked}/raw_predictions/1"
        assert graph.launch(raw).success

        assert graph.tick("precalculation_requests")[0].run_requests == []
        assert list(pending_requests(graph.platform.store)) == []
        assert recorded(graph) == EVERYTHING
        assert recorded(graph, "sample_predictions") == [MODEL]


def test_a_request_for_a_sample_ends_with_the_canary(graph: RunnerGraph):
    ask(graph, "--sample", "12")
    [canary] = graph.tick("precalculation_requests")[0].run_requests
    assert graph.launch(canary).success

    assert graph.tick("precalculation_requests")[0].run_requests == []
    assert list(pending_requests(graph.platform.store)) == []
    assert graph.dispatched() == [""]
    assert find_report(graph.platform.store, MODEL).molecules == 12


def test_a_request_for_a_model_that_cannot_be_run_is_given_up_after_three_attempts(graph: RunnerGraph):
    asked = ask(graph)
    graph.fake.may_write = False
    for attempt in (1, 2, 3):
        [canary] = graph.tick("precalculation_requests")[0].run_requests
        assert canary.run_key == f"{asked}/sample_predictions/{attempt}"
        assert not graph.launch(canary).success

    assert graph.tick("precalculation_requests")[0].run_requests == []
    assert list(pending_requests(graph.platform.store)) == []


def test_a_request_that_is_none_holds_no_other_back(graph: RunnerGraph):
    graph.world.path("requests").mkdir(parents=True)
    graph.world.path("requests/0-bad.json").write_text("{}")
    ask(graph)

    assert len(graph.tick("precalculation_requests")[0].run_requests) == 1


# -- settling and trying again


def started_by_hand(graph: RunnerGraph, shards=SHARDS) -> Execution:
    """Let a person start the workflow, and its jobs end."""
    store = graph.platform.store
    on_dispatch, graph.fake.on_dispatch = graph.fake.on_dispatch, None
    run_id = graph.fake.dispatch("main", {"model-id": MODEL})
    graph.fake.on_dispatch = on_dispatch
    run = Run(run_id=run_id, url=f"https://github.example/runs/{run_id}")
    execution = claim_own(store, run, MODEL, graph.platform.library().digest, shards)
    bad = graph.runners.compute(execution, run_id)
    graph.fake.end_run(run_id, "failure" if bad else "success")
    return execution


def test_what_a_person_has_started_is_settled_and_reported_once_with_the_marks_of_a_run(world):
    with running(world) as graph:
        assert graph.materialize("library_shards", first="03", last="06").success
        execution = started_by_hand(graph)

        _, cursor = graph.tick("github_executions")
        assert execution.settled.read().landed == SHARDS
        assert graph.instance.get_dynamic_partitions("models") == [MODEL]
        for before in (cursor, None):
            graph.tick("github_executions", before)
            assert recorded(graph, "sample_predictions") == [MODEL]
            assert recorded(graph) == keys()

        reported = {event.partition: event.tags for event in graph.materializations("raw_predictions")}
        for event in graph.materializations("raw_predictions"):
            assert event.metadata["attempt"].value == 1
            for link in ("run", "job"):
                assert isinstance(event.metadata[link], dg.UrlMetadataValue)

        told = graph.instance.get_run_records(dg.RunsFilter(tags={"dagster/sensor_name": "github_executions"}))
        assert [(run.dagster_run.tags["precalc/reported"], run.dagster_run.is_success) for run in told] == [
            (execution.key, True)
        ] * 2
        assert all(run.start_time and run.end_time for run in told)

        assert graph.stale("raw_predictions", keys()) == []
        assert_passed(graph)
        assert graph.run_range("raw_predictions").success
        assert_passed(graph)
        assert len(graph.fake.runs) == 1
        followed = {event.partition: event.tags for event in graph.materializations("raw_predictions")[: len(SHARDS)]}
        assert followed == reported


def test_what_a_person_has_computed_anew_is_reported_anew_with_its_checks(world):
    with running(world) as graph:
        for release in ("v1.0.0", "v2.0.0"):
            world.write_model(release=release)
            obstore.delete(world.store, [name for prefix in ("raw", "samples") for name in world.objects(prefix)])
            started_by_hand(graph)
            graph.tick("github_executions")

        assert recorded(graph) == sorted(2 * keys())
        assert recorded(graph, "sample_predictions") == [MODEL] * 2
        check = dg.AssetCheckKey(dg.AssetKey("raw_predictions"), "failure_rate")
        history = graph.instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
        assert Counter(record.partition for record in history if record.partition) == Counter(2 * keys())
        assert_passed(graph)


def test_a_canary_that_runners_ran_anew_is_recorded_by_the_run_that_follows(graph: RunnerGraph):
    for release in ("v1.0.0", "v2.0.0"):
        graph.world.write_model(release=release)
        obstore.delete(graph.world.store, [n for prefix in ("raw", "samples") for n in graph.world.objects(prefix)])
        assert graph.run_range("raw_predictions").success

    assert recorded(graph, "sample_predictions") == [MODEL] * 2


def test_a_shard_with_too_many_failures_is_reported_as_a_broken_check_once(world):
    with running(world) as graph:
        graph.runners.canary = False
        world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")
        started_by_hand(graph)

        graph.tick("github_executions")

        statuses = graph.statuses("raw_predictions")["failure_rate"]
        assert set(statuses) == set(keys())
        assert set(statuses.values()) == {"SUCCEEDED", "FAILED"}
        assert recorded(graph) == sorted(key for key, status in statuses.items() if status == "SUCCEEDED")
        assert graph.summary("raw_predictions", "failure_rate")[0] == "FAILED"
        assert "reported" not in graph.tick("github_executions")[0].skip_message


def test_a_shard_over_the_limit_fails_in_the_run_that_follows_it(graph: RunnerGraph):
    graph.runners.canary = False
    graph.world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")

    assert not graph.run_range("raw_predictions").success

    statuses = graph.statuses("raw_predictions")["failure_rate"]
    assert statuses == {key: "SUCCEEDED" if key in recorded(graph) else "FAILED" for key in keys()}
    assert "FAILED" in statuses.values()


def test_a_report_that_broke_off_is_completed_once(world):
    with running(world) as graph:
        execution = started_by_hand(graph)
        tick = Tick(graph.context(), graph.platform)
        settled = step(tick.engine, execution)
        facts = shard_facts(execution.intent, settled)
        graph.instance.add_dynamic_partitions("models", [MODEL])

        def events() -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
            shards = shard_events(graph.instance, graph.platform, tick.engine, MODEL, SHARDS, facts)
            return chain(canary_events(graph.instance, graph.platform, MODEL), shards)

        whole = list(events())
        for last in (2, 4, 6, 12):
            tell_dagster(graph.instance, execution.key, islice(events(), last))
        tell_dagster(graph.instance, execution.key, events())

        assert list(events()) == []
        assert whole
        assert recorded(graph) == keys()
        assert_passed(graph)


def test_what_a_run_follows_is_left_to_it(graph: RunnerGraph):
    graph.runners.go_on.clear()
    seen: list[object] = []

    def look() -> None:
        for name in ("github_executions", "failed_shards"):
            graph.tick(name)
            seen.append(recorded(graph))
        graph.runners.go_on.set()

    graph.platform.clock.on_sleep = look
    assert graph.run_range("raw_predictions").success

    assert seen == [[], []]
    assert recorded(graph) == keys()
    assert graph.dispatched() == ["03-06"]


def test_what_a_dead_run_has_left_is_settled_and_its_failed_shards_are_tried_three_times_in_all(graph: RunnerGraph):
    graph.runners.fails["04"] = 9
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    assert not graph.run_range("raw_predictions").success
    graph.runners.go_on.set()

    def settled() -> int:
        return sum(each.settled.read() is not None for each in list_executions(graph.platform.store))

    for attempt in (1, 2, 3):
        graph.tick_until("github_executions", lambda attempt=attempt: settled() == attempt)
        graph.tick("failed_shards")
        graph.tick("failed_shards")
    graph.tick("github_executions")

    assert graph.dispatched() == ["03-06", "04", "04"]
    *_, last = list_executions(graph.platform.store)
    assert last.intent.reasons == {"04": ("the model breaks today",) * 2}
    assert recorded(graph) == keys(("03", "05", "06"))


def test_what_a_terminated_run_could_not_cancel_is_cancelled(graph: RunnerGraph):
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    failed = graph.run_range("raw_predictions")
    graph.instance.report_run_canceled(graph.instance.get_run_by_id(failed.run_id))
    [run] = graph.fake.runs.values()

    graph.tick("github_executions")

    assert run.conclusion == "cancelled"
    graph.tick("failed_shards")
    assert len(list_executions(graph.platform.store)) == 1
    graph.runners.go_on.set()


def test_nobody_tries_again_what_was_cancelled_or_was_of_another_library(graph: RunnerGraph):
    store, digest = graph.platform.store, graph.platform.library().digest
    ended = (("03", digest, CANCELLED), ("04", "another", "failure"), ("05", digest, "failure"))
    for shard, of, conclusion in (*ended, ("06", digest, "cancelled")):
        execution = open_execution(store, MODEL, of, [shard])
        settled = Settled(conclusion=conclusion, failures={shard: "its job ended"}, settled_at=datetime.now(UTC))
        execution.settled.create(settled)

    graph.tick("failed_shards")

    opened = list_executions(store)[4:]
    assert [each.intent.shards for each in opened] == [("05", "06")]


def test_without_github_s_settings_the_sensors_say_what_is_missing(world):
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(world, instance)
        for name in ("github_executions", "failed_shards", "precalculation_requests"):
            repository = graph.defs.get_repository_def()
            context = dg.build_sensor_context(
                instance, repository_def=repository, resources={"platform": graph.platform}
            )
            said = repository.get_sensor_def(name).evaluate_tick(context).skip_message
            assert "PRECALC_GITHUB_REPOSITORY is not set" in said or "no reference library" in said
