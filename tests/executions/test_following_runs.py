"""Following: which shards land, which are retried, which are given up, and what is left to the next follower."""

import json
from datetime import timedelta
from itertools import count

import obstore
import pytest
from fake_github import BAD_GATEWAY, NOT_FOUND, TOO_MANY, UNAUTHORIZED, Fault
from fake_runners import put_manifest
from simulation import MODEL, SHARDS, CrashError, Simulation

from precalc_assets.executions.compute_backend import RefusedError, RunStatus
from precalc_assets.executions.following import ATTEMPTS, cancel, follow_sample, shards_to_retry
from precalc_assets.executions.protocol import Waiting
from precalc_assets.executions.records import (
    CANCELLED,
    Execution,
    Follower,
    Run,
    Settled,
    claim_own,
    followed,
    open_execution,
    unsettled,
)
from precalc_assets.executions.request_queue import meet_request, pending_requests, put_request, read_request
from precalc_assets.executions.stepping import step
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import ExecutionError, ModelError
from precalc_assets.predictions.shard_manifest import manifest_name


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


def _execution(simulation: Simulation, number: int = 1) -> Execution:
    return Execution(simulation.store, f"{MODEL}-{number:04d}")


def _settled(simulation: Simulation) -> Settled:
    settled = _execution(simulation).settled.read()
    assert settled is not None
    return settled


def _open(simulation: Simulation, *shards: str) -> Execution:
    opened = open_execution(simulation.store, MODEL, simulation.library.digest, shards, compute="github")
    assert opened is not None
    return opened


def test_all_shards_land_with_links_and_times(simulation: Simulation) -> None:
    outcomes = simulation.follow()
    assert [outcome.shard for outcome in outcomes if outcome.landed] == list(SHARDS)
    facts = outcomes[0].facts
    assert str(facts["run"]).endswith("/1001")
    assert "/job/" in str(facts["job"])
    assert (facts["attempt"], facts["queue_seconds"], facts["runner_seconds"]) == (1, 0.0, 60.0)
    settled = _settled(simulation)
    assert (settled.conclusion, settled.landed) == ("success", SHARDS)
    assert (settled.queue_seconds, settled.runner_seconds) == (5.0, 240.0)
    assert {job.shards for job in settled.jobs} == {(shard,) for shard in SHARDS}
    assert any("4 in progress" in line for line in simulation.said)
    assert any("success: 4 landed; queued 5 s, 240 runner-seconds" in line for line in simulation.said)


def test_shard_is_yielded_when_its_manifest_lands(simulation: Simulation) -> None:
    following = simulation.following()
    simulation.seconds_to_compute = 3600
    run_ids: list[int] = []

    def land_one() -> None:
        if not run_ids:
            run_ids.extend(simulation.fake.runs)
            simulation.put_manifest("02")

    simulation.each_time = land_one
    first = next(following)
    assert (first.shard, first.landed) == ("02", True)
    assert simulation.fake.runs[run_ids[0]].status != "completed"


def test_only_a_missing_shard_is_launched_again(simulation: Simulation) -> None:
    simulation.follow()
    assert [outcome.landed for outcome in simulation.follow()] == [True] * 4
    simulation.fake.asked.clear()
    obstore.delete(simulation.store, manifest_name(MODEL, "01"))
    assert len(simulation.follow()) == 4
    assert simulation.fake.runs[max(simulation.fake.runs)].inputs["shards"] == "01"


def test_only_failed_shards_are_retried_with_their_reasons(simulation: Simulation) -> None:
    simulation.fails = {"01": 1, "03": 2}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert all(outcome.landed for outcome in outcomes.values())
    assert [run.inputs["shards"] for run in simulation.fake.runs.values()] == ["00-03", "01,03", "03"]
    assert [len(simulation.computed[shard]) for shard in SHARDS] == [1, 2, 1, 3]
    assert outcomes["03"].facts["attempt"] == 3
    third = _execution(simulation, 3).intent
    assert len(third.reasons["03"]) == 2
    assert "its job ended (failure)" in third.reasons["03"][0]


def test_shard_over_the_failure_limit_is_computed_once(simulation: Simulation) -> None:
    """A model quarantines the same molecules again. Who asks again has them computed again, as on this machine."""
    simulation.quarantined = {"02": 9}
    for runs in (1, 2):
        outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
        assert [shard for shard in SHARDS if not outcomes[shard].landed] == ["02"]
        assert "quarantined" in outcomes["02"].failure
        assert len(simulation.computed["02"]) == len(simulation.fake.runs) == runs
        assert shards_to_retry(simulation.store, MODEL) == {}

    simulation.quarantined, simulation.fails = {}, {"02": 1}
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.computed["02"]) == 4, "a job that broke is retried, whatever an earlier run has left"


@pytest.mark.parametrize(("models_fault", "runs"), [(True, 1), (False, 3)])
def test_failure_is_retried_unless_it_is_the_models(simulation: Simulation, *, models_fault: bool, runs: int) -> None:
    def report() -> None:
        outcome = ShardOutcome("01", failure="it answers no molecule", models_fault=models_fault)
        _execution(simulation, len(simulation.fake.runs)).report(outcome)

    simulation.fails, simulation.each_time = {"01": 3}, report
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert outcomes["01"].failure.startswith(f"shard 01 of {MODEL}: it answers no molecule")
    assert (outcomes["01"].models_fault, len(simulation.computed["01"])) == (models_fault, runs)


def test_execution_of_a_library_with_more_shards_settles(simulation: Simulation) -> None:
    library = simulation.library
    shards = {**library.shards, "07": library.shards["00"]}
    execution = _open(simulation, "07")
    run_id = simulation.fake.dispatch("main", {"model-id": MODEL, "key": execution.key})
    execution.run.put(Run(run_id=run_id, url=""))
    assert execution.take(Run(run_id=run_id, url=""))
    simulation.fake.end_run(run_id, "success")
    put_manifest(simulation.store, library.model_copy(update={"shards": shards}), MODEL, "07")
    settled = step(simulation.engine(), execution)
    assert isinstance(settled, Settled)
    assert settled.failures.keys() == {"07"}


def test_shard_that_fails_three_times_names_all_its_reasons(simulation: Simulation) -> None:
    simulation.fails = {"02": 99}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert [outcome.landed for outcome in outcomes.values()].count(True) == 3
    assert len(simulation.fake.runs) == 3
    assert "attempt 3; before: its job ended (failure)" in outcomes["02"].failure
    assert outcomes["02"].failure.count("/job/") == 3
    assert shards_to_retry(simulation.store, MODEL) == {}


def test_following_again_gives_three_more_attempts(simulation: Simulation) -> None:
    simulation.fails = {"02": 3}
    simulation.follow()
    assert all(outcome.landed for outcome in simulation.follow())


def test_shard_without_time_goes_on_and_uses_no_attempt(simulation: Simulation) -> None:
    simulation.no_time = {"00": 5, "01": 1}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert all(outcome.landed for outcome in outcomes.values())
    assert len(simulation.fake.runs) == 6
    assert outcomes["00"].facts["attempt"] == 1


def test_shard_that_never_finishes_a_batch_is_given_up(simulation: Simulation) -> None:
    simulation.no_time = dict.fromkeys(SHARDS, 99)
    simulation.writes_parts = False
    outcomes = simulation.follow()
    assert all("no time to finish a batch" in outcome.failure for outcome in outcomes)
    assert len(simulation.fake.runs) == 3


def test_manifest_outweighs_how_the_job_ended(simulation: Simulation) -> None:
    simulation.wrong_jobs = True
    simulation.fails = {"00": 99}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert outcomes["01"].landed
    assert "its job ended (success) without raw predictions" in outcomes["00"].failure


def test_shard_whose_job_vanishes_has_failed(simulation: Simulation) -> None:
    simulation.fails = {"03": 1}
    simulation.vanishing = {"03"}
    assert all(outcome.landed for outcome in simulation.follow())
    assert "without a job for it" in _settled(simulation).failures["03"]


def test_run_that_vanishes_is_launched_again(simulation: Simulation) -> None:
    following = simulation.following()
    simulation.at(30, lambda: simulation.fake.faults["list_runs"].extend([NOT_FOUND] * 3))
    simulation.at(30, simulation.fake.runs.clear)
    with pytest.raises(RefusedError):
        list(following)
    simulation.fake.faults.clear()
    assert all(outcome.landed for outcome in simulation.follow())
    assert _settled(simulation).conclusion == "vanished"
    assert _execution(simulation, 2).intent.attempt("00") == 2


@pytest.mark.parametrize(("times", "lands"), [(2, True), (3, False)])
def test_run_that_github_ends_counts_as_an_attempt(simulation: Simulation, times: int, *, lands: bool) -> None:
    def end() -> None:
        for run in list(simulation.fake.runs.values())[:times]:
            if run.status == "in_progress":
                simulation.fake.cancel(run.id, force=False)

    simulation.each_time = end
    outcomes = simulation.follow()
    assert [outcome.landed for outcome in outcomes] == [lands] * len(SHARDS)
    assert all(lands or outcome.failure.count("its job ended (cancelled)") == ATTEMPTS for outcome in outcomes)
    assert len(simulation.fake.runs) == ATTEMPTS
    assert _settled(simulation).conclusion == "cancelled"


def _stop_following(simulation: Simulation) -> None:
    """Follow for half a minute, as a Dagster run does that is interrupted."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    simulation.at(30, interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulation.follow()


def test_interruption_leaves_the_run_at_work(simulation: Simulation) -> None:
    _stop_following(simulation)
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def _cancel(simulation: Simulation) -> None:
    cancel(simulation.engine(), followed(simulation.store, MODEL, ""))


@pytest.mark.parametrize("stubborn", [False, True])
def test_stubborn_run_is_cancelled_by_force(simulation: Simulation, *, stubborn: bool) -> None:
    simulation.fake.stubborn = stubborn
    simulation.seconds_to_compute = 3600
    _stop_following(simulation)
    _cancel(simulation)
    assert ("force_cancel" in simulation.fake.asked) == stubborn
    assert _settled(simulation).conclusion == CANCELLED
    assert simulation.fake.runs[1001].conclusion == "cancelled"
    assert shards_to_retry(simulation.store, MODEL) == {}


def test_run_of_a_cancelled_dispatch_computes_nothing(simulation: Simulation) -> None:
    simulation.fake.faults["dispatch"].append(Fault(502, "Server Error", done=True))
    simulation.fake.list_lag = timedelta(hours=1)
    simulation.seconds_to_begin = 60
    _stop_following(simulation)
    _cancel(simulation)
    assert _settled(simulation).conclusion == "not launched"
    simulation.sleep(600)
    assert simulation.fake.runs[1001].status == "completed"
    assert simulation.computed == {}


def test_cancelling_outweighs_how_the_run_ends(simulation: Simulation) -> None:
    simulation.fake.stubborn = True
    simulation.fails = {"01": 1}
    simulation.no_time = {"02": 1}
    _stop_following(simulation)
    _cancel(simulation)
    settled = _settled(simulation)
    assert (settled.conclusion, settled.landed, settled.unfinished) == (CANCELLED, ("00", "03"), ())
    assert settled.failures["02"] == "it was cancelled"
    assert simulation.fake.runs[1001].conclusion == "failure"
    assert shards_to_retry(simulation.store, MODEL) == {}


def test_kill_while_cancelling_does_not_lose_the_wish() -> None:
    for n in count():
        simulation = Simulation()
        simulation.seconds_to_compute = 3600
        _stop_following(simulation)
        [execution] = unsettled(simulation.store, MODEL)
        reached = [""]
        if not _is_killed_at(simulation, n, reached):
            break
        if execution.cancellation.read():
            while not isinstance(step(simulation.engine(), execution), Settled):
                simulation.sleep(30)
            assert _settled(simulation).conclusion == CANCELLED
            assert simulation.fake.runs[1001].conclusion == "cancelled"
            assert shards_to_retry(simulation.store, MODEL) == {}
        else:
            assert reached == ["", f"before executions/{execution.key}/cancel.json"]
    assert {"before cancel", "after cancel"} <= set(reached)


def _is_killed_at(simulation: Simulation, n: int, reached: list[str]) -> bool:
    """Cancel in a process that is killed at its n-th point; return whether there was such a point."""

    def point(name: str) -> None:
        reached.append(name)
        if len(reached) == n + 2:
            raise CrashError

    try:
        with simulation.watched(point):
            _cancel(simulation)
    except CrashError:
        return True
    return False


def test_next_follower_continues_the_attempts(simulation: Simulation) -> None:
    simulation.fails = {"01": 3}
    for _ in range(3):
        with pytest.raises(CrashError), simulation.watched(_die_after_run_record()):
            simulation.follow()
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert len(simulation.fake.runs) == 3
    assert "attempt 3" in outcomes["01"].failure


def test_attempts_of_an_earlier_follower_count(simulation: Simulation) -> None:
    simulation.fails = {"01": 3}
    execution = _open(simulation, *SHARDS)
    while not isinstance(step(simulation.engine(), execution), Settled):
        simulation.sleep(15)
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert len(simulation.fake.runs) == ATTEMPTS
    assert "attempt 3" in outcomes["01"].failure


def _die_after_run_record():
    def point(name: str) -> None:
        if name.startswith("after") and name.endswith("run.json"):
            raise CrashError

    return point


def test_unsettled_execution_is_followed_before_any_outcome(
    simulation: Simulation,
) -> None:
    with pytest.raises(CrashError), simulation.watched(_die_after_run_record()):
        simulation.follow()
    simulation.end_all_runs()

    following = simulation.following(dagster_run="next")
    assert next(following).facts["run"] == "https://github.com/ersilia-os/precalc/actions/runs/1001"
    assert _execution(simulation).follower.read() == Follower(dagster_run="next")
    assert len(list(following)) == len(SHARDS) - 1
    assert _settled(simulation).landed == SHARDS


def test_running_shards_are_followed_and_the_rest_launched(simulation: Simulation) -> None:
    _open(simulation, "01", "02")
    assert all(outcome.landed for outcome in simulation.follow())
    assert [run.inputs["shards"] for run in simulation.fake.runs.values()] == ["01-02", "00,03"]


def test_no_shard_is_in_two_unsettled_executions(simulation: Simulation) -> None:
    first, second = _open(simulation, "00", "01"), _open(simulation, "01", "02")
    assert (first.intent.shards, second.intent.shards) == (("00", "01"), ("02",))
    assert open_execution(simulation.store, MODEL, "library", ["00", "02"], compute="github") is None


def test_rate_limit_of_one_execution_binds_all(simulation: Simulation) -> None:
    engine, first, second = simulation.engine(), _open(simulation, "00"), _open(simulation, "01")
    simulation.fake.faults["get_run"].append(TOO_MANY)
    met = Waiting(simulation.time + timedelta(seconds=30), TOO_MANY.message)
    assert step(engine, first) == met
    simulation.fake.asked.clear()
    simulation.time += timedelta(seconds=29)
    assert step(engine, first) == step(engine, second) == met
    assert simulation.fake.asked == []
    simulation.time += timedelta(seconds=1)
    assert isinstance(step(engine, second), RunStatus)


@pytest.mark.parametrize("stubborn", [False, True])
def test_rate_limit_is_respected_while_cancelling(simulation: Simulation, *, stubborn: bool) -> None:
    simulation.fake.stubborn = stubborn
    simulation.seconds_to_compute = 3600

    _stop_following(simulation)
    simulation.fake.asked.clear()
    simulation.fake.faults["get_run"].extend([TOO_MANY] * 3)
    _cancel(simulation)
    assert simulation.fake.asked.count("get_run") < 6
    assert len(simulation.fake.asked) < 12
    assert _settled(simulation).conclusion == CANCELLED


@pytest.mark.parametrize("endpoint", ["get_run", "list_jobs"])
@pytest.mark.parametrize("fault", [BAD_GATEWAY, TOO_MANY])
def test_following_outlasts_passing_faults(simulation: Simulation, endpoint: str, fault: Fault) -> None:
    simulation.fake.faults[endpoint].extend([fault] * 3)
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_expired_token_ends_only_the_following(simulation: Simulation) -> None:
    simulation.fake.faults["get_run"].append(UNAUTHORIZED)
    with pytest.raises(RefusedError, match="Bad credentials"):
        simulation.follow()
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_run_that_is_not_shown_yet_is_waited_for(simulation: Simulation) -> None:
    simulation.fake.show_lag = simulation.fake.list_lag = timedelta(seconds=40)
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_shard_of_another_library_is_computed_again(simulation: Simulation) -> None:
    simulation.follow()
    shards = {**simulation.library.shards, "01": simulation.library.shards["01"].model_copy(update={"digest": "new"})}
    simulation.library = simulation.library.model_copy(update={"digest": "new", "shards": shards})
    assert all(outcome.landed for outcome in simulation.follow())
    assert simulation.fake.runs[max(simulation.fake.runs)].inputs["shards"] == "01"


def test_damaged_manifest_fails_the_shard(simulation: Simulation) -> None:
    obstore.put(simulation.store, manifest_name(MODEL, "01"), b"{")
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert "manifest.json is damaged" in outcomes["01"].failure
    assert outcomes["00"].landed


def test_settled_execution_tells_what_to_retry(simulation: Simulation) -> None:
    simulation.fails = {"01": 1}
    simulation.no_time = {"02": 1}
    execution = _open(simulation, *SHARDS)
    while not isinstance(step(simulation.engine(), execution), Settled):
        simulation.sleep(15)
    again = shards_to_retry(simulation.store, MODEL)
    assert list(again) == ["02", "01"]
    assert again["02"] == ()
    assert "its job ended (failure)" in again["01"][0]
    open_execution(simulation.store, MODEL, simulation.library.digest, list(again), compute="github", reasons=again)
    assert shards_to_retry(simulation.store, MODEL) == {}


@pytest.mark.parametrize(("models_fault", "error"), [(False, ExecutionError), (True, ModelError)])
def test_failed_canary_says_why_and_is_not_retried(
    simulation: Simulation, *, models_fault: bool, error: type[Exception]
) -> None:
    def fail() -> None:
        for run in simulation.fake.runs.values():
            if run.status == "in_progress":
                outcome = ShardOutcome("sample", failure="estimate: too slow", models_fault=models_fault)
                _execution(simulation).report(outcome)

    simulation.each_time = fail
    with pytest.raises(error, match=f"the canary of {MODEL}: estimate: too slow"):
        follow_sample(simulation.engine(), MODEL, 50)
    assert [run.inputs.get("sample-only") for run in simulation.fake.runs.values()] == ["50"]


def test_run_started_by_hand_becomes_an_execution(simulation: Simulation) -> None:
    run_id = simulation.fake.dispatch("main", {"model-id": MODEL, "shards": "00-03"})
    run, other = Run(run_id=run_id, url=""), Run(run_id=7, url="")
    first, again, another = (
        claim_own(simulation.store, each, MODEL, simulation.library.digest, SHARDS) for each in (run, run, other)
    )
    assert first is not None
    assert again is not None
    assert (first.key, another) == (again.key, None)
    simulation.fake.runs[run_id].inputs["key"] = first.key
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_bad_records_and_keys_are_named(simulation: Simulation) -> None:
    key = f"{MODEL}-0001"
    obstore.put(simulation.store, f"executions/{key}/intent.json", json.dumps({"key": key}).encode())
    with pytest.raises(ExecutionError, match=r"executions/eos9abc-0001/intent.json is damaged \(model: Field required"):
        _ = _execution(simulation).intent
    with pytest.raises(ExecutionError, match="there is no execution eos9abc-0009 in this store"):
        _execution(simulation, 9).take(Run(run_id=1, url=""))
    with pytest.raises(ExecutionError, match="is not the key of an execution"):
        Execution(simulation.store, "../eos9abc")


def test_claim_is_for_one_run_until_it_is_settled(simulation: Simulation) -> None:
    execution = _open(simulation, "00")
    first, second = (Run(run_id=1, url=f"slurm://{cluster}/1") for cluster in ("ours", "theirs"))
    assert execution.take(first)
    assert not execution.take(second)
    assert execution.take(first)
    assert execution.settled.create(Settled(conclusion="x", settled_at=simulation.time))
    assert not execution.take(first)


def test_requests_are_met_once(simulation: Simulation) -> None:
    store = simulation.store
    first = put_request(store, MODEL)
    second = put_request(store, "eos9abd", sample=10)
    obstore.put(store, "requests/by-hand.json", b'{"id": "by-hand", "model": "x y", "requested_at": 0}')
    assert set(pending_requests(store)) == {first.id, second.id, "by-hand"}
    assert read_request(store, second.id) == second
    with pytest.raises(ExecutionError, match=r"is damaged .*not a model id"):
        read_request(store, "by-hand")
    meet_request(store, first.id)
    meet_request(store, first.id)
    assert set(pending_requests(store)) == {second.id, "by-hand"}
    assert read_request(store, first.id) is None
