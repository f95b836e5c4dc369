"""The cost of DynamoDB in CPU and dollars: `python -m benchmarks.dynamodb [FILE]`, a CSV of molecules with a header.

Ours is `load_shard` into `DynamoDBStore`, from record batches to the flip of the directory, with all requests. The
baseline writes one item per molecule, its numbers a list of Decimal, by boto3's batch writer. Both write to a server on
loopback, in a process of its own: to a stub that only stores items and counts their units and the requests, and to
ministack. Measured is the CPU of the loading process.

The stub counts our units; the baseline's follow the documented rules, since the batch writer does not request them.
Values are random doubles, the worst case; counts are the built-in model's output on the file's molecules. Dollars are
by the prices of `precalc_assets.tables.store`, for a million molecules. Finally a million molecules of one float are
loaded in 50 shards, the default, into SQLite, which counts units by the same rules.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from benchmarks.command import begin, best_in_turns, cpu_seconds, end, figure, molecule_file, size
from benchmarks.invented import MODEL, REGION, Shape, floats, load, load_all, put_plainly
from benchmarks.pages import baseline_units, model_output
from benchmarks.servers import Remembering, running, used_at
from precalc_assets.settings import Settings
from precalc_assets.tables import open_tables
from precalc_assets.tables.dynamodb import DynamoDBStore
from precalc_assets.tables.store import DOLLARS_PER_GB_MONTH, DOLLARS_PER_WRITE_UNIT, GB, ITEM_OVERHEAD_BYTES
from tests.aws_emulator import run_ministack

ROUNDS = size(3, 1)
BASELINE_CELLS = 50_000
"""Numbers that the baseline writes; its time is linear in them."""
N_SHARDS = 50
MILLION = size(1_000_000, 1_000)


def main() -> None:
    source = molecule_file()
    begin(f"best of {ROUNDS}")
    shapes = [
        floats("1 float", 1, size(28_000, 200)),
        floats("10 floats", 10, size(28_000, 200)),
        floats("200 floats", 200, size(2_000, 200)),
        model_output("eos0bbb", source),
        floats("3,200 floats", 3_200, size(300, 30)),
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ministack = stack.enter_context(run_ministack(Path(folder)))
        os.environ |= ministack.environment
        stub = stack.enter_context(running(Remembering))
        for shape in shapes:
            for server, endpoint in (("stub", stub), ("ministack", ministack.endpoint)):
                os.environ["AWS_ENDPOINT_URL"] = endpoint
                measure_time(shape, server)
            os.environ["AWS_ENDPOINT_URL"] = stub
            count(shape, stub)
    load_million()
    end()


def measure_time(shape: Shape, server: str) -> None:
    sample = shape.rows.slice(0, min(shape.rows.num_rows, BASELINE_CELLS // len(shape.columns)))
    ours, baseline = best_in_turns(lambda: time_ours(shape), lambda: time_baseline(sample), ROUNDS)
    ours, baseline = 1e6 * ours / shape.rows.num_rows, 1e6 * baseline / sample.num_rows
    figure(f"{shape.name}, {server}", ours, "µs CPU a molecule", baseline=baseline)


def time_ours(shape: Shape) -> float:
    store = new_table()
    cpu = cpu_seconds(lambda: load(store, shape, "00", 1))
    store.close()
    return cpu


def time_baseline(sample: pa.RecordBatch) -> float:
    return cpu_seconds(lambda: put_plainly(f"bench-{uuid4().hex}", sample))


def new_table() -> DynamoDBStore:
    store = DynamoDBStore(REGION, f"bench-{uuid4().hex}", settings=Settings(table_write_units=1e12))
    store.create_table(MODEL)
    return store


def count(shape: Shape, stub: str) -> None:
    """State the units, requests and dollars of a load."""
    n_rows = shape.rows.num_rows
    store = new_table()
    before = used_at(stub)
    result = load(store, shape, "00", 1)
    n_requests = used_at(stub).requests - before.requests
    store.close()
    ours, baseline = result.consumed.write_units / n_rows, baseline_units(shape.rows, shape.columns) / n_rows
    figure(f"{shape.name}, units", ours, "units a molecule", baseline=baseline, counted=True)
    figure(f"{shape.name}, requests", 1_000 * n_requests / n_rows, "per 1,000 molecules", counted=True)
    dollars = 1e6 * DOLLARS_PER_WRITE_UNIT
    figure(f"{shape.name}, dollars", dollars * ours, "dollars a million", baseline=dollars * baseline)
    stored = (result.directory.page_bytes + result.directory.n_pages * ITEM_OVERHEAD_BYTES) / n_rows
    figure(f"{shape.name}, storage", 1e6 * stored / GB * DOLLARS_PER_GB_MONTH, "dollars a million, month")


def load_million() -> None:
    shape = floats("a million", 1, MILLION)
    with tempfile.TemporaryDirectory() as folder:
        store = open_tables(f"sqlite:///{folder}/tables.db")
        units = sum(result.consumed.write_units for result in load_all(store, shape, N_SHARDS))
        store.close()
    figure(f"a million of 1 float, {N_SHARDS} shards", units, "units", at_most=20_000, counted=True)


if __name__ == "__main__":
    main()
