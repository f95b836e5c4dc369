"""The workflow run by act: results in store and tables, by hand and with a key, with failures and without."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pytest
from aws_emulator import tables_url

from precalc_assets.executions.records import Execution, Settled, open_execution
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import read_shard
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.shard_manifest import require_manifest
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store
from precalc_assets.tables import KeyValueStore, TableReader, open_tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = "eos9abc"
ENDS = ("", "O", "N", "Cl", "F", "Br", "S", "P")
FEW = ["C" * n + end for n in range(1, 16) for end in ENDS[:4]]
MANY = ["C" * n + end for n in range(1, 51) for end in ENDS]


def smiles_of(workshop, shard: str) -> list[str]:
    return read_shard(workshop.world.store, workshop.library, shard)["smiles"].to_pylist()


def refuse(smiles: Iterable[str]) -> str:
    """Return the body of a model that fails on these molecules."""
    return f"assert smiles not in {set(smiles)!r}\nreturn f'{{len(smiles) / 3!r}},{{len(smiles)}},x'"


def assert_served(workshop, shards: Iterable[str], tables: KeyValueStore | None = None) -> None:
    """Assert that the table holds exactly the molecules of these shards."""
    reader = TableReader(tables or workshop.world.tables, MODEL)
    assert sorted(reader.directories()) == sorted(shards)
    for shard in shards:
        molecules = read_shard(workshop.world.store, workshop.library, shard)
        rows = reader.get(molecules["inchikey"].to_pylist())
        assert [row[1] for row in rows] == [len(smiles) for smiles in molecules["smiles"].to_pylist()]


def settle(workshop, key: str) -> None:
    settled = Settled(conclusion="failure", settled_at=datetime.now(UTC))
    assert Execution(workshop.world.store, key).settled.create(settled)


def test_failed_shard_is_reported_and_succeeds_when_relaunched(new_workshop):
    workshop = new_workshop(5, FEW)
    store, shards = workshop.world.store, shard_keys(5)
    workshop.world.write_model(answer=refuse(smiles_of(workshop, "04")))
    workshop.take_hours(5)
    first = open_execution(store, MODEL, workshop.library.digest, shards, compute="github")

    done = workshop.run(model_id=MODEL, key=first.key, n_workers="50")

    assert done.returncode == 1, done.stdout
    assert workshop.landed() == shards[:4]
    assert_served(workshop, shards[:4])
    assert "answers no molecule" in first.shard_report("04").read().failure
    assert "4 of 5 shards" in done.stdout
    assert "- shards 04: " in done.stdout
    assert first.claim.read().run.run_id == 1001

    asked = len(workshop.world.calls())
    again = workshop.run(model_id=MODEL, key=first.key)

    assert again.returncode == 0, again.stdout
    assert len(workshop.world.calls()) == asked
    assert "another run computes or has computed this" in again.stdout
    assert "Canary" not in again.stdout

    settle(workshop, first.key)
    workshop.world.write_model()
    second = open_execution(store, MODEL, workshop.library.digest, ["04"], compute="github")
    last = workshop.run(model_id=MODEL, key=second.key)

    assert last.returncode == 0, last.stdout
    assert workshop.landed() == shards
    assert_served(workshop, shards)
    assert {smiles for call in workshop.world.calls()[asked:] for smiles in call} == set(smiles_of(workshop, "04"))


def test_run_by_hand_with_only_a_model_computes_all_shards(new_workshop):
    workshop = new_workshop(5, FEW[:40])
    shards = shard_keys(5)
    refused = smiles_of(workshop, "02")
    workshop.world.write_model(answer=refuse(refused))
    workshop.take_hours(5)
    good = [shard for shard in shards if shard != "02"]

    done = workshop.run(model_id=MODEL)

    assert done.returncode == 1, done.stdout
    assert workshop.landed() == shards
    assert_served(workshop, good)
    rows = sum(require_manifest(workshop.world.store, MODEL, shard).rows for shard in good)
    assert rows == workshop.library.molecules - len(refused)
    assert done.stdout.count("Set up job\n") >= 1 + 1 + 5 + 5 + 1
    assert "4 of 5 shards" in done.stdout
    assert f"{len(refused)} of {len(refused)} molecules quarantined" in done.stdout


def test_shards_land_and_are_claimed_on_s3_and_dynamodb(new_workshop, aws):
    workshop = new_workshop(5, FEW)
    url, tables = f"s3://{aws.make_bucket()}/platform", tables_url()
    workshop.variables |= {"PRECALC_STORE_URL": url, "PRECALC_TABLES_URL": tables}
    store = open_store(url)
    library = build_library(store, workshop.world.root / "library.smi", n_shards=5, processes=1)
    execution = open_execution(store, MODEL, library.digest, shard_keys(5), compute="github")

    done = workshop.run(model_id=MODEL, key=execution.key, n_workers="2")
    asked = len(workshop.world.calls())
    again = workshop.run(model_id=MODEL, key=execution.key)

    assert done.returncode == 0, done.stdout
    assert again.returncode == 0, again.stdout
    assert len(workshop.world.calls()) == asked
    assert execution.claim.read().run.run_id == 1001
    assert sorted(TableReader(open_tables(tables), MODEL).directories()) == shard_keys(5)


def test_a_sample_is_the_canary_and_nothing_else(new_workshop):
    workshop = new_workshop(5, FEW)

    done = workshop.run(model_id=MODEL, sample_only="12")

    assert done.returncode == 0, done.stdout
    assert find_report(workshop.world.store, MODEL).molecules == 12
    assert workshop.landed() == []
    assert not workshop.world.tables.has_table(MODEL)


def test_a_model_that_fails_its_canary_gets_no_fifty_jobs(new_workshop):
    workshop = new_workshop(5, FEW)
    workshop.world.write_model(answer="return 'high,1,x'")
    execution = open_execution(workshop.world.store, MODEL, workshop.library.digest, shard_keys(5), compute="github")

    done = workshop.run(model_id=MODEL, key=execution.key)

    assert done.returncode == 1
    assert "/Predict" not in done.stdout
    assert "score is 'high'" in execution.shard_report("03").read().failure


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"model_id": "eos9abc; touch x"}, "is not a model id"),
        ({"model_id": "eos9abc\neos9abc"}, "is not a model id"),
        ({"model_id": MODEL, "key": "eos1abc-0001"}, "is not a key of eos9abc"),
        ({"model_id": MODEL, "key": "eos9abc-0001"}, "there is no execution eos9abc-0001"),
        ({"model_id": MODEL, "shards": "00-77"}, "there is no shard 77"),
        ({"model_id": MODEL, "n_workers": "0"}, "n-workers is 0, not a number from 1"),
        ({"model_id": MODEL, "n_workers": "many"}, "n-workers is many, not a number from 1"),
        ({"model_id": MODEL, "sample_only": "all"}, "'all' is not a valid integer"),
    ],
)
def test_wrong_inputs_end_the_run_before_anything_is_claimed(new_workshop: Callable, inputs: dict[str, str], said: str):
    workshop = new_workshop(5, FEW)

    done = workshop.run(**inputs)

    assert done.returncode == 1
    assert said in " ".join(done.stdout.split())
    assert not workshop.world.objects("executions")
    assert "Canary" not in done.stdout


def test_model_that_only_a_git_remote_has_is_fetched_and_served(new_workshop):
    workshop = new_workshop(2, FEW)
    workshop.variables["PRECALC_HUB_URL"] = workshop.world.move_to_hub(MODEL, "v1.0.1")

    done = workshop.run(model_id=MODEL)

    assert done.returncode == 0, done.stdout
    assert f"fetching {MODEL} v1.0.1" in done.stdout
    shards = shard_keys(2)
    assert_served(workshop, shards)
    assert {require_manifest(workshop.world.store, MODEL, shard).release for shard in shards} == {"v1.0.1"}
