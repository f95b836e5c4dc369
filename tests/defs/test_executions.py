"""Executions in the graph: runs that follow GitHub's runners, and the sensors around them. GitHub is the fake."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import obstore
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from fake_github import REPOSITORY, TOKEN, FakeGitHub
from fake_runners import FakeRunners
from graphs import ALL_SHARDS, MODEL, MOLECULES, SHARDS, Clock, Graph, QuickPlatform

from precalc_assets.executions.following import cancel
from precalc_assets.executions.records import (
    CANCELLED,
    Execution,
    Run,
    Settled,
    claim_own,
    list_executions,
    open_execution,
    unsettled,
)
from precalc_assets.executions.request_queue import pending_requests
from precalc_assets.executions.stepping import step
from precalc_assets.predictions.canary_report import find_report

pytestmark = pytest.mark.slow

EVERYTHING = [f"{MODEL}|{shard}" for shard in ALL_SHARDS]


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

    @contextmanager
    def dying_before_checks(self) -> Iterator[None]:
        """Let each run end before it evaluates a check."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("precalc_assets.defs.recording.Recorder._evaluate", lambda _: die())
            yield

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


def test_shards_from_runners_are_recorded_after_their_canary(graph: RunnerGraph):
    result = graph.run_range("raw_predictions", "predictions", "prediction_table")

    assert result.success
    assert graph.dispatched() == ["01-03"]
    [execution] = list_executions(graph.platform.store)
    tags = graph.instance.get_runs()[0].tags
    assert (tags["model"], tags["compute"], tags["execution"]) == (MODEL, "github", execution.key)
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
    assert graph.dispatched() == ["01-03"]
    assert recorded(graph, "sample_predictions") == [MODEL]


def test_other_verdict_of_the_canary_makes_shards_stale(graph: RunnerGraph):
    assert graph.run_range("raw_predictions").success

    graph.world.write_model(release="v2.0.0")
    assert graph.materialize("sample_predictions", first=MODEL, last=MODEL).success

    assert graph.stale("raw_predictions", keys()) == keys()


def test_run_configuration_overrides_the_setting(graph: RunnerGraph):
    config = {"raw_predictions": {"config": {"compute": "local"}}}
    span = {"first": keys()[0], "last": keys()[-1]}

    assert graph.materialize("raw_predictions", config=config, **span).success

    assert graph.dispatched() == []
    assert recorded(graph) == keys()


def test_failed_shard_alone_is_launched_again(graph: RunnerGraph):
    graph.runners.fails["02"] = 1

    assert graph.run_range("raw_predictions").success

    assert graph.dispatched() == ["01-03", "02"]
    attempts = {event.partition: event.metadata["attempt"].value for event in graph.materializations("raw_predictions")}
    assert attempts == {**dict.fromkeys(keys(), 1), f"{MODEL}|02": 2}


def test_shard_that_fails_for_good_is_named_with_reasons(graph: RunnerGraph):
    graph.runners.fails["02"] = 9

    result = graph.run_range("raw_predictions")

    assert failure(result).startswith(f"1 of 3 shards failed:\n{MODEL}|02: ")
    assert failure(result).count("the model breaks today") == 3
    assert graph.dispatched() == ["01-03", "02", "02"]
    assert recorded(graph) == keys(("01", "03"))


def test_refusal_fails_the_shards_with_githubs_words(graph: RunnerGraph):
    graph.fake.may_write = False

    result = graph.run_range("raw_predictions")

    assert "Resource not accessible by personal access token" in failure(result)


@pytest.mark.parametrize("terminated", [True, False])
def test_terminated_run_cancels_its_runs_on_github(graph: RunnerGraph, *, terminated: bool):
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


def test_run_after_a_dead_one_reattaches(graph: RunnerGraph):
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    assert not graph.run_range("raw_predictions").success
    assert recorded(graph) == []

    threading.Timer(0.5, graph.runners.go_on.set).start()
    assert graph.run_range("raw_predictions").success

    assert graph.dispatched() == ["01-03"]
    assert recorded(graph) == keys()


def test_canary_on_a_runner_is_recorded_also_if_it_fails(graph: RunnerGraph):
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


def test_request_runs_the_canary_and_then_all_shards(world):
    with running(world) as graph:
        request_id = ask(graph)
        first, _ = graph.tick("precalculation_requests")
        again, _ = graph.tick("precalculation_requests")

        assert graph.instance.get_dynamic_partitions("models") == [MODEL]
        [canary] = first.run_requests
        assert canary.run_key == again.run_requests[0].run_key == f"{request_id}/{MODEL}/1"
        assert graph.launch(canary).success

        [raw] = graph.tick("precalculation_requests")[0].run_requests
        assert raw.run_key == f"{request_id}/{MODEL}|00/1"
        assert graph.launch(raw).success

        assert graph.tick("precalculation_requests")[0].run_requests == []
        assert list(pending_requests(graph.platform.store)) == []
        assert recorded(graph) == EVERYTHING
        assert recorded(graph, "sample_predictions") == [MODEL]


def test_request_for_a_sample_ends_with_the_canary(graph: RunnerGraph):
    ask(graph, "--sample", "12")
    [canary] = graph.tick("precalculation_requests")[0].run_requests
    assert graph.launch(canary).success

    assert graph.tick("precalculation_requests")[0].run_requests == []
    assert list(pending_requests(graph.platform.store)) == []
    assert graph.dispatched() == [""]
    assert find_report(graph.platform.store, MODEL).molecules == 12


def test_request_is_given_up_after_three_attempts(graph: RunnerGraph):
    request_id = ask(graph)
    graph.fake.may_write = False
    for attempt in (1, 2, 3):
        [canary] = graph.tick("precalculation_requests")[0].run_requests
        assert canary.run_key == f"{request_id}/{MODEL}/{attempt}"
        assert not graph.launch(canary).success

    assert graph.tick("precalculation_requests")[0].run_requests == []
    assert list(pending_requests(graph.platform.store)) == []


def test_damaged_request_holds_no_other_back(graph: RunnerGraph):
    graph.world.path("requests").mkdir(parents=True)
    graph.world.path("requests/0-bad.json").write_text("{}")
    ask(graph)

    assert len(graph.tick("precalculation_requests")[0].run_requests) == 1


# -- executions that no run follows


def started_by_hand(graph: RunnerGraph, shards=SHARDS, *, size: int | None = None, digest: str = "") -> Execution:
    """Let a person start the workflow, and let its jobs end."""
    store = graph.platform.store
    on_dispatch, graph.fake.on_dispatch = graph.fake.on_dispatch, None
    run_id = graph.fake.dispatch("main", {"model-id": MODEL})
    graph.fake.on_dispatch = on_dispatch
    run = Run(run_id=run_id, url=f"https://github.example/runs/{run_id}")
    digest = digest or graph.platform.library().digest
    execution = claim_own(store, run, MODEL, digest, () if size else shards, sample=size)
    bad = graph.runners.compute(execution, run_id)
    graph.fake.end_run(run_id, "failure" if bad else "success")
    return execution


def requested(graph: RunnerGraph) -> list[dg.RunRequest]:
    return graph.tick("executions")[0].run_requests


def run_requested(graph: RunnerGraph) -> list[dg.ExecuteInProcessResult]:
    """Let the sensor tick, and run what it requests, until it requests nothing more."""
    results: list[dg.ExecuteInProcessResult] = []
    cursor = None
    for _ in range(10):
        ticked, cursor = graph.tick("executions", cursor)
        results += [graph.launch(request) for request in ticked.run_requests]
        if not ticked.run_requests and not unsettled(graph.platform.store):
            return results
    raise AssertionError("the sensor requests runs without an end")


def test_execution_started_by_hand_is_recorded_by_one_run(world):
    with running(world) as graph:
        assert graph.materialize("library_shards", first=SHARDS[0], last=SHARDS[-1]).success
        execution = started_by_hand(graph)

        [first], [second] = requested(graph), requested(graph)
        assert first.run_key == second.run_key == f"{execution.key}/{MODEL}|01/1"
        assert graph.instance.get_dynamic_partitions("models") == [MODEL]
        assert [result.success for result in run_requested(graph)] == [True]

        assert execution.settled.read().landed == SHARDS
        assert recorded(graph, "sample_predictions") == [MODEL]
        assert recorded(graph) == keys()
        for event in graph.materializations("raw_predictions"):
            assert event.metadata["attempt"].value == 1
            assert isinstance(event.metadata["run"], dg.UrlMetadataValue)
        assert graph.stale("raw_predictions", keys()) == []
        assert_passed(graph)
        assert requested(graph) == []
        assert len(graph.fake.runs) == 1


def test_shards_apart_from_each_other_get_a_run_each(graph: RunnerGraph):
    execution = started_by_hand(graph, ("01", "03"))

    assert [request.run_key for request in requested(graph)] == [
        f"{execution.key}/{MODEL}|01/1",
        f"{execution.key}/{MODEL}|03/1",
    ]
    assert all(result.success for result in run_requested(graph))
    assert recorded(graph) == keys(("01", "03"))


def test_recorded_shards_are_not_recorded_again(graph: RunnerGraph):
    assert graph.run_range("raw_predictions").success

    execution = started_by_hand(graph)
    assert requested(graph) == []
    assert execution.settled.read()

    started_by_hand(graph, ALL_SHARDS)
    assert [result.success for result in run_requested(graph)] == [True, True]
    assert recorded(graph) == EVERYTHING


def test_shards_computed_anew_are_recorded_anew_with_checks(world):
    with running(world) as graph:
        for release in ("v1.0.0", "v2.0.0"):
            world.write_model(release=release)
            obstore.delete(world.store, [name for prefix in ("raw", "samples") for name in world.objects(prefix)])
            started_by_hand(graph)
            assert [result.success for result in run_requested(graph)] == [True]

        assert recorded(graph) == sorted(2 * keys())
        assert recorded(graph, "sample_predictions") == [MODEL] * 2
        check = dg.AssetCheckKey(dg.AssetKey("raw_predictions"), "failure_rate")
        history = graph.instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
        evaluated = Counter(record.partition for record in history if record.partition and record.event)
        assert evaluated == Counter(2 * keys())
        assert_passed(graph)


def test_canary_that_runners_ran_anew_is_recorded(graph: RunnerGraph):
    for release in ("v1.0.0", "v2.0.0"):
        graph.world.write_model(release=release)
        obstore.delete(graph.world.store, [n for prefix in ("raw", "samples") for n in graph.world.objects(prefix)])
        assert graph.run_range("raw_predictions").success

    assert recorded(graph, "sample_predictions") == [MODEL] * 2


@pytest.mark.parametrize("answer", ["return '1.5'", "return 'high'"])
def test_canary_started_by_hand_is_recorded_with_its_checks(graph: RunnerGraph, answer: str):
    graph.world.write_model(columns=(("score", "float"),), answer=answer)
    started_by_hand(graph, size=12)

    [result] = run_requested(graph)

    passed = answer == "return '1.5'"
    assert result.success is passed
    assert recorded(graph, "sample_predictions") == [MODEL] * passed
    assert graph.statuses("sample_predictions")["schema"] == {MODEL: "SUCCEEDED" if passed else "FAILED"}
    assert len(graph.fake.runs) == 1


def test_failed_canary_of_a_whole_execution_is_recorded(graph: RunnerGraph):
    graph.world.write_model(columns=(("score", "float"),), answer="return 'high'")
    started_by_hand(graph)

    run_requested(graph)

    assert graph.statuses("sample_predictions")["schema"] == {MODEL: "FAILED"}
    assert graph.summary("sample_predictions", "schema")[0] == "FAILED"


def test_shard_over_the_limit_shows_as_a_failed_check(graph: RunnerGraph):
    graph.runners.canary = False
    graph.world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")
    started_by_hand(graph)

    assert [result.success for result in run_requested(graph)] == [False]

    expected = {key: "SUCCEEDED" if key == f"{MODEL}|02" else "FAILED" for key in keys()}
    assert graph.statuses("raw_predictions")["failure_rate"] == expected
    assert recorded(graph) == [f"{MODEL}|02"]
    assert graph.summary("raw_predictions", "failure_rate")[0] == "FAILED"
    assert requested(graph) == []


def test_shard_over_the_limit_fails_in_the_run_that_follows_it(graph: RunnerGraph):
    graph.runners.canary = False
    graph.world.write_model(columns=(("score", "float"),), answer="return '' if smiles.endswith('O') else '1.5'")

    assert not graph.run_range("raw_predictions").success

    statuses = graph.statuses("raw_predictions")["failure_rate"]
    assert statuses == {key: "SUCCEEDED" if key in recorded(graph) else "FAILED" for key in keys()}
    assert "FAILED" in statuses.values()


def test_followed_execution_is_left_to_its_run(graph: RunnerGraph):
    graph.runners.go_on.clear()
    seen: list[object] = []

    def look() -> None:
        seen.append(requested(graph))
        graph.runners.go_on.set()

    graph.platform.clock.on_sleep = look
    assert graph.run_range("raw_predictions").success

    assert seen == [[]]
    assert recorded(graph) == keys()
    assert graph.dispatched() == ["01-03"]


def test_shards_of_a_dead_run_have_three_attempts_in_all(graph: RunnerGraph):
    graph.runners.fails["02"] = 9
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    assert not graph.run_range("raw_predictions").success
    graph.runners.go_on.set()

    assert [result.success for result in run_requested(graph)] == [False]

    assert graph.dispatched() == ["01-03", "02", "02"]
    *_, last = list_executions(graph.platform.store)
    assert last.intent.reasons == {"02": ("the model breaks today",) * 2}
    assert recorded(graph) == keys(("01", "03"))


def test_execution_is_left_to_dagsters_own_retry(graph: RunnerGraph):
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    died = graph.run_range("raw_predictions").run_id
    graph.instance.add_run_tags(died, {"dagster/will_retry": "true"})
    assert requested(graph) == []

    retry = {"parent_run_id": died, "root_run_id": died, "tags": {"dagster/root_run_id": died}}
    graph.instance.add_run(dg.DagsterRun("compute_shards", status=dg.DagsterRunStatus.FAILURE, **retry))
    assert len(requested(graph)) == 1
    graph.runners.go_on.set()


def test_shards_that_a_dead_run_settled_are_recorded_and_retried(graph: RunnerGraph):
    """The process dies after it has settled its execution, before it has recorded a shard."""
    graph.runners.fails["02"] = 1
    execution = started_by_hand(graph)
    step(graph.platform.engine(print), execution)
    assert execution.settled.read().failures == {"02": "the model breaks today"}

    assert all(result.success for result in run_requested(graph))

    assert recorded(graph) == keys()
    attempts = {event.partition: event.metadata.get("attempt") for event in graph.materializations("raw_predictions")}
    assert attempts[f"{MODEL}|02"].value == 2
    assert_passed(graph)


def test_shard_without_its_evaluation_is_recorded_again(graph: RunnerGraph):
    """The process dies between a shard's materialization and its check."""
    execution = started_by_hand(graph)
    step(graph.platform.engine(print), execution)
    with graph.dying_before_checks():
        graph.run_range("raw_predictions")
    assert recorded(graph) == keys()
    assert graph.statuses("raw_predictions")["failure_rate"] != dict.fromkeys(keys(), "SUCCEEDED")

    assert all(result.success for result in run_requested(graph))

    assert_passed(graph)


def test_what_a_terminated_run_could_not_cancel_is_cancelled(graph: RunnerGraph):
    graph.runners.go_on.clear()
    graph.platform.clock.on_sleep = die
    failed = graph.run_range("raw_predictions")
    graph.instance.report_run_canceled(graph.instance.get_run_by_id(failed.run_id))
    [run] = graph.fake.runs.values()

    assert run_requested(graph) == []

    assert run.conclusion == "cancelled"
    assert requested(graph) == []
    assert len(list_executions(graph.platform.store)) == 1
    graph.runners.go_on.set()


def test_execution_cancelled_before_its_run_starts_stays_so(graph: RunnerGraph):
    graph.runners.fails["02"] = 1
    execution = started_by_hand(graph)
    [request] = requested(graph)
    cancel(graph.platform.engine(print), [execution])

    result = graph.launch(request)

    assert failure(result) == f"1 of 3 shards failed:\n{MODEL}|02: shard 02 of {MODEL}: the model breaks today"
    assert recorded(graph) == keys(("01", "03"))
    assert run_requested(graph) == []
    assert len(graph.fake.runs) == 1


def test_execution_of_another_library_is_settled_alone(graph: RunnerGraph):
    execution = started_by_hand(graph, digest="another")

    assert requested(graph) == []

    assert execution.settled.read()
    assert recorded(graph) == []


def test_cancelled_shards_are_not_retried(graph: RunnerGraph):
    store, digest = graph.platform.store, graph.platform.library().digest
    ended = (("00", digest, CANCELLED), ("01", "another", "failure"), ("02", digest, "failure"))
    for shard, of, conclusion in (*ended, ("03", digest, "cancelled")):
        execution = open_execution(store, MODEL, of, [shard], compute="github")
        settled = Settled(conclusion=conclusion, failures={shard: "its job ended"}, settled_at=datetime.now(UTC))
        execution.settled.create(settled)

    found = [request.run_key for request in requested(graph)]
    assert found == [f"{MODEL}-0003/{MODEL}|02/1", f"{MODEL}-0004/{MODEL}|03/1"]


def test_execution_is_given_up_after_three_runs_and_settled(graph: RunnerGraph):
    execution = started_by_hand(graph)
    tags = {"precalc/execution": execution.key, "dagster/asset_partition_range_start": f"{MODEL}|01"}
    for attempt in (1, 2, 3):
        [request] = requested(graph)
        assert request.run_key == f"{execution.key}/{MODEL}|01/{attempt}"
        graph.instance.add_run(dg.DagsterRun("compute_shards", tags=tags, status=dg.DagsterRunStatus.FAILURE))

    assert requested(graph) == []
    assert execution.settled.read()


def test_without_settings_the_sensors_say_what_is_missing(world):
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(world, instance)
        for name in ("executions", "precalculation_requests"):
            repository = graph.defs.get_repository_def()
            context = dg.build_sensor_context(
                instance, repository_def=repository, resources={"platform": graph.platform}
            )
            said = repository.get_sensor_def(name).evaluate_tick(context).skip_message
            assert "PRECALC_GITHUB_REPOSITORY is not set" in said or "no reference library" in said
