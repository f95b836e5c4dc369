"""What DynamoDB costs, in CPU and in dollars: `python -m benchmarks.dynamodb [FILE]`, a CSV of molecules with a header.

Ours is `load_shard` into `DynamoDBStore`, from record batches to the flip of the directory, all requests included. The
baseline is the plain way: one item per molecule, its numbers a list of Decimal, by boto3's batch writer. Both go to a
server on loopback, once to a stub that does no more than remember items and count their units, and once to ministack.

Counted is the CPU of the process that loads, with all its threads; the servers are processes of their own. Each runs
ROUNDS times, and the best counts. Units are those that the servers count, and for the baseline those of the documented
rules, since the batch writer does not ask for them. Values are random doubles, the worst case, and for the counts the
output of the built-in model on the file's molecules. At last a million molecules of one float are loaded into SQLite,
which counts units by the same rules, in 50 shards as the default has it.
"""

import base64
import json
import multiprocessing
import os
import platform
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import uuid4

import boto3
import numpy as np
import pyarrow as pa
from rdkit import Chem

from benchmarks.pages import DEFAULT, baseline_units, in_table_order, run_model
from precalc_assets.columns import Column, read_columns
from precalc_assets.settings import BUILT_IN_MODELS
from precalc_assets.sharding import HASH_SPACE, key_digests, shard_keys
from precalc_assets.tables import Item, KeyValueStore, open_tables
from precalc_assets.tables.dynamodb import DynamoDBStore, TableOptions
from precalc_assets.tables.loader import LoadResult, load_shard
from precalc_assets.tables.prices import DOLLARS_PER_GB_MONTH, DOLLARS_PER_WRITE_UNIT, GB, ITEM_OVERHEAD_BYTES
from precalc_assets.tables.store import write_units
from tests.aws_emulator import run_ministack

REGION = "us-east-1"
MODEL = "eos0zzz"
COUNTS = "eos0bbb"
ROUNDS = 3
BASELINE_CELLS = 50_000
"""Numbers that the baseline writes: its last molecule takes as long as its first."""
MILLION = 1_000_000
MILLION_TARGET = 20_000
"""Write units that a million molecules of one float may take."""


@dataclass(frozen=True)
class Shape:
    """Molecules of one shard, in the order of the table, and their columns."""

    name: str
    columns: tuple[Column, ...]
    rows: pa.RecordBatch


@dataclass(frozen=True)
class Figures:
    """Of one shape at one server: molecules per CPU second, and write units per molecule."""

    ours: float
    baseline: float
    our_units: float
    baseline_units: float
    page_bytes: float


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if not source.exists():
        raise SystemExit(f"{source}: there is no such file; name a CSV of molecules")
    shapes = [
        floats("1 float", 1, 28_000),
        floats("10 floats", 10, 28_000),
        floats("200 floats", 200, 2_000),
        counts(source),
        floats("3,200 floats", 3_200, 300),
    ]
    print(f"dynamodb  best of {ROUNDS}; {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ministack = stack.enter_context(run_ministack(Path(folder)))
        os.environ |= ministack.environment
        for name, endpoint in (("stub", stack.enter_context(stub_endpoint())), ("ministack", ministack.endpoint)):
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            figures = {shape.name: measure(shape) for shape in shapes}
            report(name, figures)
    report_dollars(figures)
    sys.exit(not report_million())


def floats(name: str, n_columns: int, n_rows: int) -> Shape:
    columns = tuple(Column(f"value_{i}", "float", "", "") for i in range(n_columns))
    keys = sorted_keys(n_rows)[0]
    values = np.random.default_rng(1).standard_normal((n_columns, n_rows))
    names = ["inchikey", *(column.name for column in columns)]
    return Shape(name, columns, pa.record_batch([pa.array(keys), *map(pa.array, values)], names=names))


def counts(source: Path) -> Shape:
    columns = read_columns(BUILT_IN_MODELS / COUNTS / "model" / "framework" / "columns" / "run_columns.csv")
    keys = [Chem.MolToInchiKey(Chem.MolFromSmiles(text)) for text in source.read_text().splitlines()[1:]]
    with tempfile.TemporaryDirectory() as folder:
        rows = in_table_order(keys, run_model(COUNTS, columns, source, Path(folder)))
    return Shape(f"{len(columns):,} counts", columns, rows)


def sorted_keys(n: int) -> tuple[list[str], np.ndarray]:
    """Return texts in the form of InChIKeys in the order of their hashes, and the hashes."""
    letters = np.array(list(string.ascii_uppercase), "S1")[np.random.default_rng(2).integers(26, size=(n, 25))]
    texts = [f"{text[:14]}-{text[14:24]}-{text[24]}" for text in letters.view("S25").ravel().astype(str).tolist()]
    hashes = np.frombuffer(key_digests(texts), ">u8").astype(np.uint64)
    order = np.argsort(hashes)
    return [texts[i] for i in order.tolist()], hashes[order]


def measure(shape: Shape) -> Figures:
    n_rows = shape.rows.num_rows
    sample = shape.rows.slice(0, min(n_rows, BASELINE_CELLS // len(shape.columns)))
    ours, baseline = [], []
    for _ in range(ROUNDS):
        store = DynamoDBStore(REGION, f"bench-{uuid4().hex}", options=TableOptions(write_units=float("inf")))
        store.create_table(MODEL)
        seconds, result = cpu_seconds(lambda store=store: load(store, shape, "00", 1))
        ours.append(seconds / n_rows)
        store.close()
        baseline.append(cpu_seconds(lambda: run_baseline(sample))[0] / sample.num_rows)
    return Figures(
        ours=1 / min(ours),
        baseline=1 / min(baseline),
        our_units=result.consumed.write_units / n_rows,
        baseline_units=baseline_units(sample, shape.columns) / sample.num_rows,
        page_bytes=(result.page_bytes + result.n_pages * ITEM_OVERHEAD_BYTES) / n_rows,
    )


def load(store: KeyValueStore, shape: Shape, shard: str, n_shards: int) -> LoadResult:
    identity = {"columns": shape.columns, "n_shards": n_shards, "release": "", "shard_digest": "", "built_from": ""}
    batches = [shape.rows.slice(at, 1_000) for at in range(0, shape.rows.num_rows, 1_000)]
    return load_shard(store, MODEL, shard, lambda: iter(batches), **identity)


def run_baseline(rows: pa.RecordBatch) -> None:
    name = f"bench-{uuid4().hex}"
    boto3.client("dynamodb", region_name=REGION).create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with boto3.resource("dynamodb", region_name=REGION).Table(name).batch_writer() as writer:
        for key, *values in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            writer.put_item(Item={"key": key, "value": [Decimal(repr(value)) for value in values]})


def cpu_seconds(run: Callable[[], LoadResult | None]) -> tuple[float, LoadResult | None]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def report(server: str, figures: dict[str, Figures]) -> None:
    print(f"\n{server:<14}{'molecules per second and core':^32}{'write units per molecule':^32}")
    print(f"{'':<14}{'ours':>12}{'baseline':>12}{'ratio':>8}{'ours':>12}{'baseline':>12}{'ratio':>8}")
    for name, f in figures.items():
        print(
            f"{name:<14}{f.ours:>12,.0f}{f.baseline:>12,.0f}{f.ours / f.baseline:>8.1f}"
            f"{f.our_units:>12.4f}{f.baseline_units:>12.2f}{f.baseline_units / f.our_units:>8.1f}",
            flush=True,
        )


def report_dollars(figures: dict[str, Figures]) -> None:
    print(f"\ndollars per million molecules, at ${1e6 * DOLLARS_PER_WRITE_UNIT} per million write units and")
    print(f"${DOLLARS_PER_GB_MONTH} per GB and month (us-east-1, on demand, November 2026)")
    print(f"{'':<14}{'ours':>12}{'baseline':>12}{'storage of ours, a month':>28}")
    for name, f in figures.items():
        ours, baseline = (1e6 * units * DOLLARS_PER_WRITE_UNIT for units in (f.our_units, f.baseline_units))
        print(f"{name:<14}{ours:>12.3f}{baseline:>12.3f}{1e6 * f.page_bytes / GB * DOLLARS_PER_GB_MONTH:>28.4f}")


def report_million() -> bool:
    """Load a million molecules, and return whether that took no more units than it may."""
    keys, hashes = sorted_keys(MILLION)
    values = pa.array(np.random.default_rng(3).standard_normal(MILLION))
    rows = pa.record_batch([pa.array(keys), values], names=["inchikey", "score"])
    shards = shard_keys(50)
    bounds = [-(-HASH_SPACE * i // len(shards)) for i in range(1, len(shards))]
    starts = [0, *np.searchsorted(hashes, np.array(bounds, np.uint64)).tolist(), MILLION]
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        store = open_tables(f"sqlite:///{folder}/tables.db")
        units = 0.0
        for shard, start, stop in zip(shards, starts[:-1], starts[1:], strict=True):
            shape = Shape(shard, (Column("score", "float", "", ""),), rows.slice(start, stop - start))
            units += load(store, shape, shard, len(shards)).consumed.write_units
        store.close()
    seconds = time.process_time() - started
    print(f"\n{MILLION:,} molecules of one float in {len(shards)} shards: {units:,.0f} write units, ", end="")
    print(f"${units * DOLLARS_PER_WRITE_UNIT:.4f}, {seconds:.0f} s CPU (target: under {MILLION_TARGET:,} units)")
    if units >= MILLION_TARGET:
        print(f"MISSED: {units:,.0f}, the target is {MILLION_TARGET:,}")
    return units < MILLION_TARGET


class Stub(BaseHTTPRequestHandler):
    """Remembers the items of tables, which are there without being made, and answers with the units of writing them."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    tables: dict[str, dict[str, dict[str, dict[str, str]]]] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        answer = json.dumps(getattr(self, operation)(request)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def CreateTable(self, _request: dict) -> dict:  # noqa: N802
        return {"TableDescription": {"TableStatus": "ACTIVE"}}

    def DescribeTable(self, _request: dict) -> dict:  # noqa: N802
        return {"Table": {"TableStatus": "ACTIVE"}}

    def BatchWriteItem(self, request: dict) -> dict:  # noqa: N802
        ((table, writes),) = request["RequestItems"].items()
        units = sum(self.put(table, write["PutRequest"]["Item"]) for write in writes)
        return {"UnprocessedItems": {}, "ConsumedCapacity": [{"TableName": table, "CapacityUnits": units}]}

    def PutItem(self, request: dict) -> dict:  # noqa: N802
        table = request["TableName"]
        units = self.put(table, request["Item"])
        return {"ConsumedCapacity": {"TableName": table, "CapacityUnits": units}}

    def BatchGetItem(self, request: dict) -> dict:  # noqa: N802
        ((table, asked),) = request["RequestItems"].items()
        items = self.tables.get(table, {})
        found = [items[key["key"]["S"]] for key in asked["Keys"] if key["key"]["S"] in items]
        return {"Responses": {table: found}, "UnprocessedKeys": {}}

    def put(self, table: str, item: dict[str, dict[str, str]]) -> float:
        self.tables.setdefault(table, {})[item["key"]["S"]] = item
        if "B" not in item["value"]:
            return 0  # The baseline's list of numbers; its writer does not ask.
        value = base64.b64decode(item["value"]["B"])
        return write_units(Item(item["key"]["S"], value, item.get("version", {}).get("S", "")))

    def log_message(self, *arguments: object) -> None:
        pass


def answer_requests(port: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def stub_endpoint() -> Iterator[str]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer_requests, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()
