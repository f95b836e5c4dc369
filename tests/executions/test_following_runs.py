"""Following: what lands, what is tried again, what is given up, and what is left to whoever comes next."""

import json
from datetime import timedelta
from itertools import count

import obstore
import pytest
from fake_github import BAD_GATEWAY, NOT_FOUND, TOO_MANY, UNAUTHORIZED, Fault
from simulation import MODEL, SHARDS, CrashError, Simulation

from precalc_assets.errors import ExecutionError
from precalc_assets.executions import records
from precalc_assets.executions.following import ATTEMPTS, cancel, follow_sample, shards_to_try_again
from precalc_assets.executions.github import RefusedError
from precalc_assets.executions.launch import Waiting
from precalc_assets.executions.records import CANCELLED, Follower, find_settled, read_intent
from precalc_assets.executions.settling import Underway, step
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions import manifest_name


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


def _settled(simulation: Simulation, number: int = 1) -> records.Settled:
    settled = find_settled(simulation.store, f"{MODEL}-{number:04d}")
    assert settled is not None
    return settled


def test_all_shards_land_with_links_and_times(simulation: Simulation) -> None:
    outcomes = simulation.follow()
    assert [outcome.shard for outcome in outcomes if outcome.landed] == list(SHARDS)
    facts = outcomes[0].facts
    assert str(facts["run"]).endswith("/1001")
    assert "/jobs/" in str(facts["job"])
    assert (facts["attempt"], facts["queue_seconds"], facts["runner_seconds"]) == (1, 0.0, 60.0)
    settled = _settled(simulation)
    assert (settled.conclusion, settled.landed) == ("success", SHARDS)
    assert (settled.queue_seconds, settled.runner_seconds) == (5.0, 240.0)
    assert {job.shards for job in settled.jobs} == {(shard,) for shard in SHARDS}
    assert any("4 in progress" in line for line in simulation.said)
    assert any("success: 4 landed; queued 5 s, 240 runner-seconds" in line for line in simulation.said)


def test_a_shard_is_told_of_when_its_manifest_lands_and_not_when_the_run_ends(simulation: Simulation) -> None:
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


def test_what_is_there_is_not_launched_again(simulation: Simulation) -> None:
    simulation.follow()
    assert [outcome.landed for outcome in simulation.follow()] == [True] * 4
    simulation.fake.asked.clear()
    obstore.delete(simulation.store, manifest_name(MODEL, "01"))
    assert len(simulation.follow()) == 4
    assert simulation.fake.runs[max(simulation.fake.runs)].inputs["shards"] == "01"


def test_only_failed_shards_are_tried_again_and_their_reasons_are_kept(simulation: Simulation) -> None:
    simulation.fails = {"01": 1, "03": 2}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert all(outcome.landed for outcome in outcomes.values())
    assert [run.inputs["shards"] for run in simulation.fake.runs.values()] == ["00-03", "01,03", "03"]
    assert [len(simulation.computed[shard]) for shard in SHARDS] == [1, 2, 1, 3]
    assert outcomes["03"].facts["attempt"] == 3
    third = read_intent(simulation.store, f"{MODEL}-0003")
    assert len(third.reasons["03"]) == 2
    assert "its job ended (failure)" in third.reasons["03"][0]


def test_a_shard_that_fails_three_times_names_all_its_reasons_and_holds_no_other_back(simulation: Simulation) -> None:
    simulation.fails = {"02": 99}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert [outcome.landed for outcome in outcomes.values()].count(True) == 3
    assert len(simulation.fake.runs) == 3
    assert "attempt 3; before: its job ended (failure)" in outcomes["02"].failure
    assert outcomes["02"].failure.count("/jobs/") == 3
    assert shards_to_try_again(simulation.store, MODEL) == {}


def test_a_person_who_asks_again_gets_three_more_attempts(simulation: Simulation) -> None:
    simulation.fails = {"02": 3}
    simulation.follow()
    assert all(outcome.landed for outcome in simulation.follow())


def test_shards_without_time_go_on_and_that_is_no_attempt(simulation: Simulation) -> None:
    simulation.no_time = {"00": 5, "01": 1}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert all(outcome.landed for outcome in outcomes.values())
    assert len(simulation.fake.runs) == 6
    assert outcomes["00"].facts["attempt"] == 1


def test_runs_that_never_finish_a_batch_are_not_paid_for_for_ever(simulation: Simulation) -> None:
    simulation.no_time = dict.fromkeys(SHARDS, 99)
    simulation.writes_parts = False
    outcomes = simulation.follow()
    assert all("no time to finish a batch" in outcome.failure for outcome in outcomes)
    assert len(simulation.fake.runs) == 3


def test_a_manifest_wins_over_a_failed_job_and_a_green_job_without_one_has_failed(simulation: Simulation) -> None:
    simulation.wrong_jobs = True
    simulation.fails = {"00": 99}
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert outcomes["01"].landed
    assert "its job ended (success) without raw predictions" in outcomes["00"].failure


def test_a_job_that_vanishes_is_a_failed_shard(simulation: Simulation) -> None:
    simulation.fails = {"03": 1}
    simulation.vanishing = {"03"}
    assert all(outcome.landed for outcome in simulation.follow())
    assert "without a job for it" in _settled(simulation).failures["03"]


def test_a_run_that_vanishes_is_launched_again_and_only_when_github_shows_others(simulation: Simulation) -> None:
    following = simulation.following()
    simulation.at(30, lambda: simulation.fake.faults["list_runs"].extend([NOT_FOUND] * 3))
    simulation.at(30, simulation.fake.runs.clear)
    with pytest.raises(RefusedError):
        list(following)
    simulation.fake.faults.clear()
    assert all(outcome.landed for outcome in simulation.follow())
    assert _settled(simulation).conclusion == "vanished"
    assert read_intent(simulation.store, f"{MODEL}-0002").attempt("00") == 2


@pytest.mark.parametrize(("times", "lands"), [(2, True), (3, False)])
def test_a_run_that_github_ends_counts_as_an_attempt(simulation: Simulation, times: int, *, lands: bool) -> None:
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


def test_an_interruption_alone_leaves_the_run_at_work(simulation: Simulation) -> None:
    _stop_following(simulation)
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def _cancel(simulation: Simulation) -> None:
    cancel(simulation.runners(), simulation.library, records.followed(simulation.store, MODEL, ""))


@pytest.mark.parametrize("stubborn", [False, True])
def test_cancelling_ends_the_run_by_force_if_need_be(simulation: Simulation, *, stubborn: bool) -> None:
    simulation.fake.stubborn = stubborn
    simulation.seconds_to_compute = 3600
    _stop_following(simulation)
    _cancel(simulation)
    assert ("force_cancel" in simulation.fake.asked) == stubborn
    assert _settled(simulation).conclusion == CANCELLED
    assert simulation.fake.runs[1001].conclusion == "cancelled"
    assert shards_to_try_again(simulation.store, MODEL) == {}


def test_cancelling_before_there_is_a_run_lets_none_compute(simulation: Simulation) -> None:
    simulation.fake.faults["dispatch"].append(Fault(502, "Server Error", done=True))
    simulation.fake.list_lag = timedelta(hours=1)
    simulation.seconds_to_begin = 60
    _stop_following(simulation)
    _cancel(simulation)
    assert _settled(simulation).conclusion == "not launched"
    simulation.sleep(600)
    assert simulation.fake.runs[1001].status == "completed"
    assert simulation.computed == {}


def test_cancelling_outweighs_how_the_run_ends_by_itself(simulation: Simulation) -> None:
    simulation.fake.stubborn = True
    simulation.fails = {"01": 1}
    simulation.no_time = {"02": 1}
    _stop_following(simulation)
    _cancel(simulation)
    settled = _settled(simulation)
    assert (settled.conclusion, settled.landed, settled.unfinished) == (CANCELLED, ("00", "03"), ())
    assert settled.failures["02"] == "it was cancelled"
    assert simulation.fake.runs[1001].conclusion == "failure"
    assert shards_to_try_again(simulation.store, MODEL) == {}


def test_a_kill_while_cancelling_forgets_no_wish() -> None:
    for n in count():
        simulation = Simulation()
        simulation.seconds_to_compute = 3600
        _stop_following(simulation)
        [intent] = records.unsettled(simulation.store, MODEL)
        reached = [""]
        if not _is_killed_at(simulation, n, reached):
            break
        if records.find_cancel(simulation.store, intent.key):
            while not isinstance(step(simulation.runners(), simulation.library, intent), records.Settled):
                simulation.sleep(30)
            assert _settled(simulation).conclusion == CANCELLED
            assert simulation.fake.runs[1001].conclusion == "cancelled"
            assert shards_to_try_again(simulation.store, MODEL) == {}
        else:
            assert reached == ["", f"before executions/{intent.key}/cancel.json"]
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


def test_a_dead_follower_is_followed_by_the_next_one_and_attempts_go_on(simulation: Simulation) -> None:
    simulation.fails = {"01": 3}
    for _ in range(3):
        with pytest.raises(CrashError), simulation.watched(_die_after_run_record()):
            simulation.follow()
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert len(simulation.fake.runs) == 3
    assert "attempt 3" in outcomes["01"].failure


def _die_after_run_record():
    def point(name: str) -> None:
        if name.startswith("after") and name.endswith("run.json"):
            raise CrashError

    return point


def test_who_finds_everything_landed_follows_what_is_not_settled_before_telling_anybody(
    simulation: Simulation,
) -> None:
    with pytest.raises(CrashError), simulation.watched(_die_after_run_record()):
        simulation.follow()
    simulation.end_all_runs()

    following = simulation.following(dagster_run="next")
    assert next(following).facts["run"] == "https://github.com/runs/1001"
    assert records.find_follower(simulation.store, f"{MODEL}-0001") == Follower(dagster_run="next")
    assert len(list(following)) == len(SHARDS) - 1
    assert _settled(simulation).landed == SHARDS


def test_who_wants_other_shards_follows_what_runs_and_launches_the_rest(simulation: Simulation) -> None:
    opened = records.open_execution(simulation.store, MODEL, simulation.library.digest, ["01", "02"])
    assert opened is not None
    assert all(outcome.landed for outcome in simulation.follow())
    assert [run.inputs["shards"] for run in simulation.fake.runs.values()] == ["01-02", "00,03"]


def test_two_who_ask_at_the_same_time_never_get_the_same_shard(simulation: Simulation) -> None:
    first = records.open_execution(simulation.store, MODEL, "library", ["00", "01"])
    second = records.open_execution(simulation.store, MODEL, "library", ["01", "02"])
    assert first is not None
    assert second is not None
    assert (first.shards, second.shards) == (("00", "01"), ("02",))
    assert records.open_execution(simulation.store, MODEL, "library", ["00", "02"]) is None


def test_a_limit_that_one_has_met_is_waited_for_by_all(simulation: Simulation) -> None:
    runners, library = simulation.runners(), simulation.library
    first, second = (records.open_execution(simulation.store, MODEL, library.digest, [s]) for s in ("00", "01"))
    assert first is not None
    assert second is not None
    simulation.fake.faults["get_run"].append(TOO_MANY)
    met = Waiting(simulation.time + timedelta(seconds=30), TOO_MANY.message)
    assert step(runners, library, first) == met
    simulation.fake.asked.clear()
    simulation.time += timedelta(seconds=29)
    assert step(runners, library, first) == step(runners, library, second) == met
    assert simulation.fake.asked == []
    simulation.time += timedelta(seconds=1)
    assert isinstance(step(runners, library, second), Underway)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_limit_is_waited_for_while_a_run_is_cancelled(simulation: Simulation, *, stubborn: bool) -> None:
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
def test_following_outlasts_what_passes(simulation: Simulation, endpoint: str, fault: Fault) -> None:
    simulation.fake.faults[endpoint].extend([fault] * 3)
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_a_token_that_expires_ends_the_following_and_nothing_else(simulation: Simulation) -> None:
    simulation.fake.faults["get_run"].append(UNAUTHORIZED)
    with pytest.raises(RefusedError, match="Bad credentials"):
        simulation.follow()
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_a_run_that_is_not_shown_yet_is_waited_for(simulation: Simulation) -> None:
    simulation.fake.show_lag = simulation.fake.list_lag = timedelta(seconds=40)
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_shards_of_another_version_of_the_library_are_computed_again(simulation: Simulation) -> None:
    simulation.follow()
    shards = {**simulation.library.shards, "01": simulation.library.shards["01"].model_copy(update={"digest": "new"})}
    simulation.library = simulation.library.model_copy(update={"digest": "new", "shards": shards})
    assert all(outcome.landed for outcome in simulation.follow())
    assert simulation.fake.runs[max(simulation.fake.runs)].inputs["shards"] == "01"


def test_a_damaged_manifest_is_a_failed_shard_that_says_so(simulation: Simulation) -> None:
    obstore.put(simulation.store, manifest_name(MODEL, "01"), b"{")
    outcomes = {outcome.shard: outcome for outcome in simulation.follow()}
    assert "manifest.json is damaged" in outcomes["01"].failure
    assert outcomes["00"].landed


def test_what_a_sensor_settles_says_what_to_try_again(simulation: Simulation) -> None:
    simulation.fails = {"01": 1}
    simulation.no_time = {"02": 1}
    intent = records.open_execution(simulation.store, MODEL, simulation.library.digest, SHARDS)
    assert intent is not None
    while not isinstance(step(simulation.runners(), simulation.library, intent), records.Settled):
        simulation.sleep(15)
    again = shards_to_try_again(simulation.store, MODEL)
    assert list(again) == ["02", "01"]
    assert again["02"] == ()
    assert "its job ended (failure)" in again["01"][0]
    records.open_execution(simulation.store, MODEL, simulation.library.digest, list(again), reasons=again)
    assert shards_to_try_again(simulation.store, MODEL) == {}


def test_a_canary_that_fails_says_why_and_is_not_tried_again(simulation: Simulation) -> None:
    def fail() -> None:
        for run in simulation.fake.runs.values():
            if run.status == "in_progress":
                records.report_shard(
                    simulation.store, run.inputs["key"], run.id, ShardOutcome("sample", failure="estimate: too slow")
                )

    simulation.each_time = fail
    with pytest.raises(ExecutionError, match=f"the canary of {MODEL}: estimate: too slow"):
        follow_sample(simulation.runners(), simulation.library, MODEL, 50)
    assert [run.inputs.get("sample-only") for run in simulation.fake.runs.values()] == ["50"]


def test_a_run_started_on_github_becomes_an_execution_that_is_followed(simulation: Simulation) -> None:
    run_id = simulation.fake.dispatch("main", {"model-id": MODEL, "shards": "00-03"})
    run = records.Run(run_id=run_id, url="https://github.com/runs/1001")
    opened = records.claim_own(simulation.store, run, MODEL, simulation.library.digest, SHARDS)
    assert opened is not None
    assert records.claim_own(simulation.store, run, MODEL, simulation.library.digest, SHARDS) == opened
    other = records.Run(run_id=7, url="")
    assert records.claim_own(simulation.store, other, MODEL, simulation.library.digest, SHARDS) is None
    simulation.fake.runs[run_id].inputs["key"] = opened.key
    assert all(outcome.landed for outcome in simulation.follow())
    assert len(simulation.fake.runs) == 1


def test_who_follows_is_on_record_and_a_damaged_record_is_named(simulation: Simulation) -> None:
    list(simulation.following("run-1"))
    key = f"{MODEL}-0001"
    assert records.find_follower(simulation.store, key) == Follower(dagster_run="run-1")
    obstore.put(simulation.store, f"executions/{key}/intent.json", json.dumps({"key": key}).encode())
    with pytest.raises(ExecutionError, match=r"executions/eos9abc-0001/intent.json is damaged \(model: Field required"):
        read_intent(simulation.store, key)
    with pytest.raises(ExecutionError, match="there is no execution eos9abc-0009 in this store"):
        records.claim(simulation.store, f"{MODEL}-0009", 1)
    with pytest.raises(ExecutionError, match="is not the key of an execution"):
        read_intent(simulation.store, "../eos9abc")


def test_a_claim_is_for_one_run_and_ends_when_the_execution_is_settled(simulation: Simulation) -> None:
    intent = records.open_execution(simulation.store, MODEL, "library", ["00"])
    assert intent is not None
    assert records.claim(simulation.store, intent.key, 1)
    assert not records.claim(simulation.store, intent.key, 2)
    assert records.claim(simulation.store, intent.key, 1)
    records.put_settled(simulation.store, intent.key, records.Settled(conclusion="x", settled_at=simulation.time))
    assert not records.claim(simulation.store, intent.key, 1)


def test_requests_are_met_once(simulation: Simulation) -> None:
    store = simulation.store
    first = records.put_request(store, MODEL)
    second = records.put_request(store, "eos9abd", sample=10)
    obstore.put(store, "requests/by-hand.json", b'{"id": "by-hand", "model": "x y", "requested_at": 0}')
    assert set(records.pending_requests(store)) == {first.id, second.id, "by-hand"}
    assert records.read_request(store, second.id) == second
    with pytest.raises(ExecutionError, match="'x y', which is no model id"):
        records.read_request(store, "by-hand")
    records.meet_request(store, first.id)
    records.meet_request(store, first.id)
    assert set(records.pending_requests(store)) == {second.id, "by-hand"}
    assert records.read_request(store, first.id) is None
