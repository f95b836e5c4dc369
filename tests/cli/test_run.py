"""`precalc run`: materializing the graph from the terminal, on the UI's instance."""

import csv
import shutil
import signal
import subprocess
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

MODEL = "eos9abc"
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def home(world) -> Path:
    folder = world.root / "dagster_home"
    folder.mkdir()
    shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", folder)
    return folder


def recorded(home: Path, asset: str) -> set[str]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return set(instance.get_materialized_partitions(dg.AssetKey(asset)))


def library_versions(home: Path) -> list[str]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        records = instance.fetch_materializations(dg.AssetKey("reference_library"), limit=10).records
        return [record.asset_materialization.tags["dagster/data_version"] for record in records]


@pytest.mark.slow
def test_a_run_does_everything_and_records_it(world, home):
    world.write_model()
    source = world.root / "molecules.smi"
    source.write_text("CCO\nCCN\nCCC\nCCCl\n")
    world.precalc("library", "build", source)

    done = world.precalc("run", MODEL)

    assert done.returncode == 0, done.stderr
    assert recorded(home, "prediction_table") == {f"{MODEL}|{shard}" for shard in ("00", "01", "02", "03")}
    (row,) = csv.DictReader(world.precalc("get", MODEL, "CCO").stdout.splitlines())
    assert (row["status"], row["score"]) == ("found", "1.0")
    assert "50/50" not in world.precalc("models").stdout
    assert "4/4" in world.precalc("models").stdout


@pytest.mark.slow
def test_a_run_after_the_library_changed_records_the_new_one(world, home):
    world.write_model()
    source = world.root / "molecules.smi"
    for molecules in ("CCO\nCCN\n", "CCO\nCCN\nCCCl\n"):
        source.write_text(molecules)
        world.precalc("library", "build", source)
        assert world.precalc("run", MODEL).returncode == 0

    assert len(set(library_versions(home))) == 2
    assert world.precalc("get", MODEL, "CCCl").stdout.splitlines()[1].startswith("HRYZWHHZPQKTII-UHFFFAOYSA-N,CCCl,")


@pytest.mark.slow
def test_a_failed_shard_is_named_and_the_others_are_served(world, home):
    world.write_model()
    source = world.root / "molecules.smi"
    source.write_text("\n".join("C" * n + end for n in range(1, 9) for end in "ON"))
    world.precalc("library", "build", source)
    assert world.precalc("run", MODEL, "--shards", "00").returncode == 0
    world.library_shard("02").write_bytes(b"damaged")

    done = world.precalc("run", MODEL)

    assert done.returncode == 1
    assert f"{MODEL}|02: " in done.stderr
    assert "Traceback" not in done.stderr
    assert recorded(home, "prediction_table") == {f"{MODEL}|{shard}" for shard in ("00", "01", "03")}


def test_run_never_rebuilds_a_library_with_other_shards(world, home):
    world.write_model()
    world.build_library()

    done = world.precalc("run", MODEL, n_shards="7")

    assert done.returncode == 1
    assert "the reference library has 4 shards, but PRECALC_N_SHARDS is 7" in done.stderr


def test_folder_without_an_instance_is_refused_with_advice(world):
    world.write_model()

    done = world.precalc("run", MODEL)

    assert done.returncode == 2
    assert "is not a Dagster instance: it has no dagster.yaml; set DAGSTER_HOME" in done.stderr


@pytest.mark.slow
def test_a_killed_run_has_failed_as_soon_as_the_next_begins(world, home):
    world.build_library()
    world.write_model(answer="time.sleep(600)")
    with subprocess.Popen(
        world.command("run", MODEL), cwd=world.root, env=world.environment, stderr=subprocess.DEVNULL
    ) as killed:
        while not world.calls():
            assert killed.poll() is None
            time.sleep(0.2)
        killed.kill()
    assert "STARTED" in run_statuses(home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.event_log_storage.get_concurrency_info("inference").active_slot_count == 1

    world.write_model()
    assert world.precalc("run", MODEL).returncode == 0
    statuses = run_statuses(home)
    assert statuses.count("FAILURE") == 1
    assert set(statuses) == {"SUCCESS", "FAILURE"}


def run_statuses(home: Path) -> list[str]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return [run.status.value for run in instance.get_runs()]


def test_damaged_records_of_dagster_are_an_error_of_one_line(world, home):
    world.build_library()
    world.write_model()
    for name, words in {
        "history/runs.db": "history cannot be used: (sqlite3.DatabaseError) file is not a database; if",
        "dagster.yaml": "dagster.yaml cannot be used: ",
    }.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("run_storage: [not a database" * 100)
        done = world.precalc("run", MODEL)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_waits_for_its_pool_says_so_and_ends_by_an_interrupt(world, home):
    world.write_model()
    world.build_library()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        holder = create_run_for_test(instance, "job", status=dg.DagsterRunStatus.STARTED).run_id
        instance.event_log_storage.set_concurrency_slots("inference", 1)
        assert instance.event_log_storage.claim_concurrency_slot("inference", holder, "step").is_claimed

    with subprocess.Popen(
        world.command("run", MODEL), cwd=world.root, env=world.environment, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert f"sample_predictions {MODEL}: waits for a slot of the pool inference, in use by run {holder}\n" in (
            iter(waiting.stderr.readline, "")
        )
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(20) == 130

    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.event_log_storage.get_concurrency_run_ids() == {holder}
        instance.report_run_failed(instance.get_run_by_id(holder))
    assert world.precalc("run", MODEL).returncode == 0
