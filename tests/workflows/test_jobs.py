"""`precalc jobs`: splitting shards over jobs, and each command, without a workflow."""

import json
import subprocess

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from warm_commands import run_command

from precalc_assets.cards.model_card import find_card
from precalc_assets.cli.jobs_commands import split_shards, wanted_jobs
from precalc_assets.executions.records import Execution, Settled, open_execution
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.predictions.canary_report import RunEstimate
from precalc_assets.sharding import parse_shards, shard_keys

MODEL = "eos9abc"
SHARDS = shard_keys(4)


@pytest.fixture
def library(world) -> LibraryManifest:
    world.write_model()
    return world.build_library()


def jobs(world, *arguments: str, run: int = 7, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a job of this workflow run."""
    runner = {"PRECALC_RUN_ID": str(run), "PRECALC_RUN_URL": f"https://github.example/a/b/actions/runs/{run}"}
    variables = {**world.environment, **runner, **{f"PRECALC_{name.upper()}": text for name, text in settings.items()}}
    return run_command(["jobs", *arguments], variables=variables, folder=world.root)


def outputs(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@given(st.lists(st.integers(0, 2), max_size=300), st.integers(1, 256))
def test_shards_are_split_over_jobs_that_all_have_molecules(counts: list[int], workers: int):
    rows = dict(zip(shard_keys(len(counts)), counts, strict=True))

    split = [parse_shards(part, len(rows)) for part in split_shards(rows, workers)]

    assert [shard for part in split for shard in part] == list(rows)
    filled = [sum(rows[shard] > 0 for shard in part) for part in split]
    assert len(split) == min(workers, max(1, sum(count > 0 for count in counts)), len(counts))
    assert max(filled, default=0) - min(filled, default=0) <= 1


@pytest.mark.parametrize(
    ("hours", "molecules", "jobs"),
    [(0, 100, 1), (0.9, 100, 1), (1.0, 100, 1), (1.1, 100, 2), (56, 100, 50), (56, 10, 6), (5, 0, 1)],
)
def test_jobs_take_about_an_hour_each(hours: float, molecules: int, jobs: int):
    estimate = RunEstimate(molecules=100, machines=1, runner_hours=hours, wall_hours=hours, dollars=0)
    assert wanted_jobs(estimate, molecules, 50) == jobs


def test_without_an_estimate_there_are_as_many_jobs_as_may_be():
    assert wanted_jobs(None, 100, 50) == 50


def test_empty_shards_get_no_jobs_of_their_own(world):
    world.write_model()
    world.build_library(["CCO", "CCN"])
    key = outputs(jobs(world, "plan", MODEL))["key"]

    predict = json.loads(outputs(jobs(world, "split", key))["predict"])

    assert len(predict) <= 2
    assert [shard for part in predict for shard in parse_shards(part, 4)] == SHARDS
    for part in predict:
        assert jobs(world, "predict", key, "--shards", part, "--until", "1h").returncode == 0
    assert jobs(world, "report", key).stdout.startswith("**eos9abc-0001**: 4 of 4 shards")


def test_more_jobs_than_github_makes_are_cut_to_what_it_makes(world, library: LibraryManifest):
    key = outputs(jobs(world, "plan", MODEL))["key"]
    assert json.loads(outputs(jobs(world, "split", key, "--workers", "1000"))["predict"]) == SHARDS


def test_a_sample_has_no_jobs_that_predict(world, library: LibraryManifest):
    key = outputs(jobs(world, "plan", MODEL, "--sample", "5"))["key"]
    assert outputs(jobs(world, "split", key)) == {"predict": "[]", "load": "[]"}


@pytest.mark.slow
def test_a_fast_models_shards_are_one_job(world, library: LibraryManifest):
    key = outputs(jobs(world, "plan", MODEL))["key"]
    assert jobs(world, "canary", key).returncode == 0
    assert json.loads(outputs(jobs(world, "split", key))["predict"]) == ["00-03"]


def test_second_run_leaves_a_claim_and_a_second_attempt_keeps_it(world, library: LibraryManifest):
    first = outputs(jobs(world, "plan", MODEL, "--shards", "00-01"))
    second = jobs(world, "plan", MODEL, run=8)
    third = jobs(world, "plan", MODEL, run=9)

    assert Execution(world.store, first["key"]).intent.shards == ("00", "01")
    assert Execution(world.store, outputs(second)["key"]).intent.shards == ("02", "03")
    assert outputs(third) == {"key": ""}
    assert "another run computes or has computed this" in third.stderr
    assert outputs(jobs(world, "plan", MODEL, "--shards", "00-01")) == first


def test_rerun_of_a_settled_executions_job_computes_nothing(world, library: LibraryManifest):
    execution = open_execution(world.store, MODEL, library.digest, SHARDS, compute="github")
    planned = outputs(jobs(world, "plan", MODEL, "--key", execution.key))
    execution.settled.create(Settled(conclusion="cancelled", settled_at=execution.intent.created_at))

    again = jobs(world, "predict", planned["key"], "--shards", "00", "--until", "1h")

    assert again.returncode == 0
    assert "nothing to do here" in again.stderr
    assert not world.calls()


@pytest.mark.slow
def test_the_report_publishes_what_the_load_jobs_loaded(world, library: LibraryManifest):
    world.write_model(answer="import random\nreturn f'{random.random()},1,x'")
    key = outputs(jobs(world, "plan", MODEL))["key"]
    assert jobs(world, "canary", key).returncode == 0
    world.predict()
    assert jobs(world, "load", key, "--shards", "00-03").returncode == 0
    assert find_card(world.tables, MODEL) is None
    assert jobs(world, "report", key).returncode == 0
    card = find_card(world.tables, MODEL)
    assert (card.covered, card.deterministic, card.varying) == (True, False, ("score",))


def test_the_report_names_a_damaged_manifest(world, library: LibraryManifest):
    key = outputs(jobs(world, "plan", MODEL))["key"]
    world.predict()
    obstore.put(world.store, f"raw/model={MODEL}/shard=02/manifest.json", b"{}")

    served = jobs(world, "load", key, "--shards", "00-03")
    report = jobs(world, "report", key)

    assert served.returncode == 0
    assert "skipping shards without usable raw predictions: 02" in served.stderr
    assert report.returncode == 1
    assert "shards 02: raw/model=eos9abc/shard=02/manifest.json is damaged" in report.stdout


@pytest.mark.slow
def test_shards_for_which_there_was_no_time_are_told(world, library: LibraryManifest):
    world.write_model(answer="time.sleep(0.2)\nreturn '1.0,1,x'")
    key = outputs(jobs(world, "plan", MODEL))["key"]

    predicted = jobs(world, "predict", key, "--shards", "00-03", "--until", "4s")
    served = jobs(world, "load", key, "--shards", "00-03")
    report = jobs(world, "report", key)

    assert predicted.returncode == 0
    assert "time budget spent" in predicted.stderr
    assert Execution(world.store, key).shard_report("03").read().unfinished
    assert served.returncode == 0
    assert "skipping shards without usable raw predictions" in served.stderr
    assert report.returncode == 1
    assert "03: the time budget ran out" in report.stdout
    assert "Traceback" not in report.stderr


def test_unusable_model_is_recorded_as_every_shards_reason(world, library: LibraryManifest):
    world.write_model(run=None)
    key = outputs(jobs(world, "plan", MODEL))["key"]

    assert jobs(world, "predict", key, "--shards", "00-01", "--until", "1h").returncode == 1

    execution = Execution(world.store, key)
    assert "run.sh" in execution.shard_report("01").read().failure
    assert execution.shard_report("02").read() is None
    assert "shards 02-03: its job recorded no reason" in jobs(world, "report", key).stdout

    assert jobs(world, "canary", key).returncode == 1
    assert execution.shard_report("02").read().models_fault


@pytest.mark.slow
def test_a_release_that_has_passed_its_canary_is_not_tried_again(world, library: LibraryManifest):
    key = outputs(jobs(world, "plan", MODEL))["key"]
    assert jobs(world, "canary", key).returncode == 0
    asked = len(world.calls())

    assert "has passed it" in jobs(world, "canary", key).stderr
    assert len(world.calls()) == asked

    world.write_model(release="v2.0.0")
    assert jobs(world, "canary", key).returncode == 0
    assert len(world.calls()) > asked


def test_what_is_not_set_up_is_named(world, library: LibraryManifest):
    no_store = jobs(world, "plan", MODEL, store_url="")
    assert (no_store.returncode, no_store.stdout) == (2, "")
    assert "PRECALC_STORE_URL" in no_store.stderr
    assert "docs/github.md" in no_store.stderr

    on_a_laptop = jobs(world, "plan", MODEL, run=0)
    assert on_a_laptop.returncode == 2
    assert "use `precalc predict` here" in on_a_laptop.stderr
