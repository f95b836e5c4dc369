"""The main job on S3 and DynamoDB over HTTP, from the command line, changing only the environment."""

import csv
import io

import obstore
import polars as pl
import pytest
from aws_emulator import tables_url

from precalc_assets.sharding import shard_keys
from precalc_assets.storage import list_sizes, open_store, predictions
from precalc_assets.tables import LIBRARY, REGISTRY, open_tables

pytestmark = pytest.mark.slow

MODEL, N_SHARDS = "eos9abc", 4
MOLECULES = tuple("C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl"))


def test_library_and_tables_are_the_same_on_aws_and_on_disk(world, aws):
    world.write_model()
    world.root.joinpath("library.smi").write_text("\n".join(MOLECULES) + "\n")
    bucket, tables = aws.make_bucket(), tables_url()
    answers = {}
    for place in ({}, {"store_url": f"s3://{bucket}/platform", "tables_url": tables}):
        for command in (("library", "build", "library.smi"), ("predict", MODEL), ("load", MODEL), ("status", MODEL)):
            done = world.precalc(*command, **place)
            assert done.returncode == 0, done.stderr
        answers[bool(place)] = world.precalc("get", MODEL, "-i", "library.smi", **place)
    assert answers[True].returncode == 0, answers[True].stderr
    assert answers[True].stdout == answers[False].stdout

    rows = list(csv.DictReader(io.StringIO(answers[True].stdout)))
    assert [row["label"] for row in rows] == list(MOLECULES)
    store = open_store(f"s3://{bucket}/platform")
    assert {predictions(MODEL, shard) for shard in shard_keys(N_SHARDS)} <= list_sizes(store, "predictions").keys()
    parquet = [pl.read_parquet(bytes(obstore.get(store, predictions(MODEL, s)).bytes())) for s in shard_keys(N_SHARDS)]
    assert sorted(pl.concat(parquet)["label"]) == sorted(MOLECULES)
    assert open_tables(tables).list_tables() == sorted([LIBRARY, MODEL, REGISTRY])
    assert not (world.root / "data").exists()

    again = world.precalc("load", MODEL, store_url=f"s3://{bucket}/platform", tables_url=tables)
    assert again.returncode == 0
    dropped = world.precalc("drop", MODEL, "--yes", store_url=f"s3://{bucket}/platform", tables_url=tables)
    assert dropped.returncode == 0
    assert open_tables(tables).list_tables() == [LIBRARY, REGISTRY]


def test_a_missing_bucket_is_an_error_of_one_line(world, aws):
    world.write_model()
    failed = world.precalc("predict", MODEL, store_url="s3://no-such-bucket")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: PRECALC_STORE_URL='s3://no-such-bucket' cannot be read: ")
    assert failed.stderr.count("\n") == 1
