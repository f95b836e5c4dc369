"""The latency and cost of reading: `python -m benchmarks.api`.

- `answer`: 1,000 molecules of a model with 10 columns, each on a different page, from API Gateway's event to the answer
  that Lambda gets: the body, and what gzip and base64 add. In process, with SQLite and warm directories; each page is
  read once, so that none is in SQLite's cache.
- `plain`: the baseline for `answer`. The same values are one item per molecule with a list of Decimal, read by boto3's
  resource with `batch_get_item` in hundreds, and turned into JSON. Both read from the same ministack. Also with 200
  columns, where other molecules on a page matter less.
- `get`: `precalc get` with a file of 100,000 molecules, from the local tables to a CSV file, as a process.
- `batches`: `precalc api`, and FastAPI over SQLite that holds the finished JSON of each row, both as processes, asked
  in turns for batches of random molecules, whose pages `precalc api` keeps after the first round: CPU of the server for
  a batch. Then one column of 2,048 against all of them, for each molecule of a table in random order, by an API that
  has just started.
- `load`: `precalc api` as a process, and 64 clients: for 30 seconds they request one molecule each, then for 30 seconds
  all routes in turn. An answer whose status or body differs from an earlier one is an error.
- `lambda`: a Python process with only the Lambda's asset, not precompiled, and boto3: from its start to its first
  answer.

Values are random doubles, the worst case: they do not compress, so most of the data read are other molecules on the
same pages. Measured is the user and system CPU of the process with all its threads, best of several runs; `load` and
`lambda` measure wall time, and share the cores with their clients and with other programs.
"""

import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
from fastapi import FastAPI

from benchmarks import plain_api
from benchmarks.command import begin, best_in_turns, cpu_seconds, end, figure, size, write_molecules
from benchmarks.invented import MODEL, REGION, Shape, counts, floats, load_all, put_plainly
from benchmarks.precalc_runs import PRECALC, precalc, variables
from benchmarks.servers import Remembering, running, used_at
from infra.lambda_asset import LAMBDA, READER, THIS_PYTHON, build_asset
from precalc_assets.api.application import make_app
from precalc_assets.api.gateway import answer_event
from precalc_assets.sharding import key_hash, shard_of
from precalc_assets.tables import KeyValueStore, TableReader, open_tables
from precalc_assets.tables.directory import COLUMNS_KEY
from precalc_assets.tables.pages import page_index
from tests.aws_emulator import Emulator, run_ministack
from tests.gateway_events import event

WIDE = "eos0yyy"
N_SHARDS = 50
MOLECULES = size(500_000, 5_000)
ASKED = size(1_000, 20)
LISTED = size(100_000, 4_000)
ROUNDS = size(10, 2)
STARTS = size(3, 1)
BATCHES = size(50, 2)
CLIENTS = size(64, 4)
LOAD_SECONDS = size(30, 1)

ROUTE = f"/models/{MODEL}/predictions"

FIRST_ANSWER = """
import json, sys, time
started = time.perf_counter()
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
asked = json.load(sys.stdin)
from precalc_assets.api.handler import handler
response = handler(asked, None)
seconds = time.perf_counter() - started
assert response["statusCode"] == 200, response
print(json.dumps({"wall": seconds, "cpu": time.process_time()}))
"""


def main() -> None:
    begin(f"{MOLECULES:,} molecules in {N_SHARDS} shards")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = floats("10 floats", 10, MOLECULES)
        url = f"sqlite:///{folder}/tables.db"
        tables = open_tables(url)
        load_all(tables, shape, N_SHARDS)
        keys = shape.rows.column("inchikey").to_pylist()
        rng = random.Random(1)
        listed = rng.sample(keys, LISTED)
        questions = apart(tables, keys, rng)
        measure_answer(tables, questions)
        with run_ministack(folder) as ministack, running(Remembering) as stub:
            os.environ |= ministack.environment
            measure_plain(tables, shape, MODEL, questions[0], at_least=5)
            wide = floats("200 floats", 200, 2 * ASKED)
            load_all(tables, wide, 1, WIDE)
            measure_plain(tables, wide, WIDE, rng.sample(wide.rows.column("inchikey").to_pylist(), ASKED))
            measure_lambda(folder, url, questions[0], ministack)
            os.environ["AWS_ENDPOINT_URL"] = stub
            count_read(tables, listed[:1_000], stub)
        measure_get(folder, url, listed)
        tables.close()
        measure_batches(folder)
        measure_load(folder, url, listed)
    end()


def apart(tables: KeyValueStore, keys: Sequence[str], rng: random.Random) -> list[list[str]]:
    """Return lists of molecules, all of them on different pages."""
    directories = TableReader(tables, MODEL).directories()
    taken: set[tuple[str, int]] = set()
    chosen: list[str] = []
    for key in rng.sample(keys, len(keys)):
        shard = shard_of(key, N_SHARDS)
        page = shard, page_index(key_hash(key), N_SHARDS, directories[shard].n_pages)
        if page not in taken:
            taken.add(page)
            chosen.append(key)
        if len(chosen) == ASKED * (ROUNDS + 1):
            return [chosen[at : at + ASKED] for at in range(0, len(chosen), ASKED)]
    raise SystemExit(f"{len(taken)} pages are too few")


def asked_for(keys: Sequence[str], model: str = MODEL, **headers: str) -> dict[str, Any]:
    route = f"/models/{model}/predictions"
    return event("POST", route, json.dumps({"inchikeys": list(keys)}), {"content_type": "application/json"} | headers)


def answer(app: FastAPI, asked: dict[str, Any]) -> dict[str, Any]:
    return answer_event(lambda: app, asked, None)


def checked(response: dict[str, Any], found: int = ASKED) -> dict[str, Any]:
    if response["statusCode"] != 200 or f'"counts":{{"found":{found}}}' not in response["body"]:
        raise SystemExit(f"unexpected answer: {response['statusCode']} {response['body'][:300]}")
    return response


def measure_answer(tables: KeyValueStore, questions: list[list[str]]) -> None:
    app = make_app(tables)
    reader = TableReader(tables, MODEL)
    warm, *fresh = questions
    body = checked(answer(app, asked_for(warm)))["body"]
    reader.get(warm)
    plain = least_ms(lambda keys: answer(app, asked_for(keys)), fresh)
    figure("answer, 10 floats, SQLite", plain, "ms CPU", at_most=30)
    figure("answer, of which reading rows", least_ms(reader.get, fresh), "ms CPU")
    zipped = least_ms(lambda keys: answer(app, asked_for(keys, accept_encoding="gzip")), fresh)
    figure("answer, with gzip and base64", zipped, "ms CPU")
    figure("answer, size", len(body.encode()) / ASKED, "bytes a molecule", counted=True)


def least_ms(run: Callable[[list[str]], object], questions: list[list[str]]) -> float:
    return min(1e3 * cpu_seconds(lambda keys=keys: run(keys)) for keys in questions)


def measure_plain(
    tables: KeyValueStore, shape: Shape, model: str, keys: list[str], *, at_least: float | None = None
) -> None:
    store = open_tables(f"dynamodb://{REGION}/bench")
    copy_pages(tables, store, model, keys)
    wanted = set(keys)
    put_plainly(f"plain-{model}", shape.rows.filter([key.as_py() in wanted for key in shape.rows.column("inchikey")]))
    dynamodb = boto3.resource("dynamodb", region_name=REGION)

    def plain() -> str:
        found: dict[str, list] = {}
        for at in range(0, len(keys), 100):
            asked = [{"key": key} for key in keys[at : at + 100]]
            response = dynamodb.batch_get_item(RequestItems={f"plain-{model}": {"Keys": asked}})
            found |= {item["key"]: item["value"] for item in response["Responses"][f"plain-{model}"]}
        values = [[float(value) for value in found[key]] for key in keys]
        return json.dumps({"inchikeys": keys, "predictions": values})

    app = make_app(store)
    asked = asked_for(keys, model)
    ours = json.loads(checked(answer(app, asked))["body"])
    if json.loads(plain())["predictions"] != ours["predictions"]:
        raise SystemExit("the plain way has other values")
    ours_seconds, baseline = best_in_turns(
        lambda: cpu_seconds(lambda: answer(app, asked)), lambda: cpu_seconds(plain), ROUNDS
    )
    store.close()
    what = f"answer, {shape.name}, ministack"
    figure(what, 1e3 * ours_seconds, "ms CPU", baseline=1e3 * baseline, at_least=at_least)


def count_read(tables: KeyValueStore, keys: list[str], stub: str) -> None:
    """State what an API that has just started uses to read molecules."""
    store = open_tables(f"dynamodb://{REGION}/counted")
    copy_pages(tables, store, MODEL, keys)
    before = used_at(stub)
    checked(answer(make_app(store), asked_for(keys)), len(keys))
    used = used_at(stub)
    store.close()
    figure(f"first read of {len(keys):,} molecules", used.requests - before.requests, "requests", counted=True)
    figure(f"first read of {len(keys):,} molecules, units", used.read_units - before.read_units, "units", counted=True)


def copy_pages(source: KeyValueStore, target: KeyValueStore, model: str, keys: list[str]) -> None:
    """Make a table with only the pages that hold these molecules."""
    reader = TableReader(source, model)
    directories = reader.directories()
    wanted = [COLUMNS_KEY, *directories]
    for key in keys:
        shard = shard_of(key, reader.n_shards)
        pages = directories[shard].pages
        wanted.append(pages.key(shard, page_index(key_hash(key), reader.n_shards, pages.n_pages)))
    target.create_table(model)
    target.put_many(model, source.get_many(model, wanted).values())


def measure_lambda(folder: Path, sqlite: str, keys: list[str], ministack: Emulator) -> None:
    asset = build_asset(folder / "asset", READER, THIS_PYTHON)
    # As in Lambda, boto3 comes after the asset on the path.
    installed = str(Path(boto3.__file__).parents[1])
    asked = json.dumps(event("GET", f"{ROUTE}/{keys[0]}", None, {}))
    tables = {"SQLite": {}, "DynamoDB": ministack.environment}
    urls = {"SQLite": sqlite, "DynamoDB": f"dynamodb://{REGION}/bench"}
    for name, environment in tables.items():
        times = []
        for _ in range(STARTS):
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", FIRST_ANSWER, asset, installed],
                input=asked,
                env=environment | {"PRECALC_TABLES_URL": urls[name]},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            times.append(json.loads(done.stdout))
        figure(f"lambda, first answer, {name}", min(entry["wall"] for entry in times), "s", at_most=1)
        figure(f"lambda, first answer, {name}, CPU", min(entry["cpu"] for entry in times), "s CPU")
    packed = packed_bytes(build_asset(folder / "deployed", READER, LAMBDA))
    figure("lambda, zipped", packed / 1e6, "MB", at_most=10)


def packed_bytes(asset: Path) -> int:
    archive = asset.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in asset.rglob("*"):
            file.write(path, path.relative_to(asset))
    return archive.stat().st_size


def measure_get(folder: Path, url: str, listed: list[str]) -> None:
    files = {"one": listed[:1], "all": listed}
    for name, keys in files.items():
        write_molecules(folder / f"{name}.csv", keys)
    taken = {name: min(child_seconds(folder, url, name) for _ in range(STARTS)) for name in files}
    written = (folder / "all.out.csv").read_text().count("\n") - 1
    if written != len(listed):
        raise SystemExit(f"precalc get wrote {written} rows of {len(listed)}")
    beyond = max(0.01, taken["all"] - taken["one"])
    figure("get, beyond the start", len(listed) / beyond, "molecules/s CPU", at_least=50_000)
    figure("get, with the start", len(listed) / taken["all"], "molecules/s CPU")
    figure("get, the start", taken["one"], "s CPU")


def measure_batches(folder: Path) -> None:
    url, rows = f"sqlite:///{folder}/batches.db", folder / "rows.db"
    shapes = {MODEL: floats("11 floats", 11, size(50_000, 200)), WIDE: counts("2,048 counts", 2_048, size(6_000, 200))}
    tables = open_tables(url)
    for model, shape in shapes.items():
        load_all(tables, shape, N_SHARDS, model)
        keys, *columns = (column.to_pylist() for column in shape.rows.columns)
        plain_api.fill(rows, model, zip(keys, zip(*columns, strict=True), strict=True))
    tables.close()
    plain = [sys.executable, "-m", "benchmarks.plain_api", str(rows)]
    for model, shape in shapes.items():
        keys, most = shape.rows.column("inchikey").to_pylist(), min(1_000, 200_000 // len(shape.columns))
        batches = [random.Random(i).sample(keys, min(most, len(keys))) for i in range(BATCHES)]
        with running_api(folder, url) as ours, serving(plain, Path.cwd()) as baseline:
            _, [answered] = ask_batches(*ours, model, batches[:1])
            _, [expected] = ask_batches(*baseline, model, batches[:1])
            if json.loads(answered)["predictions"] != json.loads(expected)["predictions"]:
                raise SystemExit(f"{model}: the baseline has other values")
            used = best_in_turns(
                lambda model=model, batches=batches: ask_batches(*ours, model, batches)[0],
                lambda model=model, batches=batches: ask_batches(*baseline, model, batches)[0],
                ROUNDS,
            )
            ours_each, baseline_each = (1e3 * each / BATCHES for each in used)
            what = f"batches, {most:,} × {shape.name}"
            figure(what, ours_each, "ms CPU", baseline=baseline_each, at_least=0.5)
    measure_one_column(folder, url, keys)


def measure_one_column(folder: Path, url: str, keys: list[str]) -> None:
    """Compare one column of thousands with all of them, by an API that has just started."""
    keys = random.Random(1).sample(keys, len(keys))
    used: dict[int, float] = {}
    sizes: dict[int, float] = {}
    for at_once, choice in ((97, {}), (1_000, {"columns": ["count_777"]})):
        batches = [keys[at : at + at_once] for at in range(0, len(keys), at_once)]
        with running_api(folder, url) as ours:
            ask_batches(*ours, MODEL, [])
            seconds, bodies = ask_batches(*ours, WIDE, batches, **choice)
        used[at_once] = 1e6 * seconds / len(keys)
        sizes[at_once] = sum(map(len, bodies)) / len(keys)
    figure("one column of 2,048 counts", used[1_000], "µs CPU a molecule", baseline=used[97], at_least=5)
    figure("one column of 2,048 counts, size", sizes[1_000], "bytes a molecule", baseline=sizes[97], at_least=5)


def ask_batches(
    server: psutil.Process, port: int, model: str, batches: list[list[str]], **choice: object
) -> tuple[float, list[bytes]]:
    """Return the CPU seconds that a server takes for the predictions of batches, at least 0.001, and its answers."""
    asked = []
    for keys in batches:
        body = json.dumps({"inchikeys": keys} | choice).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        asked.append(Request(model, head("POST", f"/models/{model}/predictions", headers) + body, 200))
    before = server.cpu_times()
    bodies = asyncio.run(ask_once(port, asked))
    after = server.cpu_times()
    return max(1e-3, after.user + after.system - before.user - before.system), bodies


def child_seconds(folder: Path, url: str, name: str) -> float:
    """Return the CPU seconds of a `precalc get` and its children."""
    output = folder / f"{name}.out.csv"
    output.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["get", MODEL, "-i", str(folder / f"{name}.csv"), "-o", str(output)]
    precalc(folder / "store", *arguments, PRECALC_TABLES_URL=url)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass(frozen=True)
class Request:
    """A client's request, and the expected status."""

    name: str
    content: bytes
    status: int


def requests(listed: list[str]) -> list[Request]:
    def get(name: str, path: str, status: int = 200, **headers: str) -> Request:
        return Request(name, head("GET", path, headers), status)

    def post(name: str, keys: list[str], **headers: str) -> Request:
        body = json.dumps({"inchikeys": keys}).encode()
        sent = {"content-type": "application/json", "content-length": str(len(body))} | headers
        return Request(name, head("POST", ROUTE, sent) + body, 200)

    return [
        *(get("GET one", f"{ROUTE}/{key}") for key in listed[:8]),
        get("GET one, gzip", f"{ROUTE}/{listed[8]}", accept_encoding="gzip"),
        *(post("POST 100", listed[at : at + 100]) for at in range(1_000, 1_400, 100)),
        post("POST 100, gzip", listed[1_400:1_500], accept_encoding="gzip"),
        post("POST 100, CSV", listed[1_500:1_600], accept="text/csv"),
        post("POST 1,000", listed[2_000:3_000]),
        post("POST 1,000, gzip", listed[3_000:4_000], accept_encoding="gzip"),
        get("GET models", "/models"),
        get("GET model", f"/models/{MODEL}"),
        *(get("GET molecule", f"/molecules/{key}") for key in listed[20:24]),
        get("404 molecule", f"{ROUTE}/AAAAAAAAAAAAAA-AAAAAAAAAA-N", 404),
        get("404 model", f"/models/eos9zzz/predictions/{listed[0]}", 404),
        get("404 route", "/nowhere", 404),
    ]


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def measure_load(folder: Path, url: str, listed: list[str]) -> None:
    asked = requests(listed)
    singles = [request for request in asked if request.name == "GET one"]
    with running_api(folder, url) as (server, port):
        expected = asyncio.run(ask_once(port, asked))
        alone, errors = asyncio.run(ask_for_a_while(port, singles, expected[: len(singles)]))
        before, clients_before = server.cpu_times(), time.process_time()
        times, more_errors = asyncio.run(ask_for_a_while(port, asked, expected))
        clients = time.process_time() - clients_before
        after = server.cpu_times()
    figure(f"{CLIENTS} clients, one molecule", len(alone) / LOAD_SECONDS, "requests/s")
    figure(f"{CLIENTS} clients, all routes", len(times) / LOAD_SECONDS, "requests/s")
    percentiles = statistics.quantiles(times, n=100, method="inclusive")
    figure(f"{CLIENTS} clients, all routes, median", 1e3 * percentiles[49], "ms")
    figure(f"{CLIENTS} clients, all routes, 99th percentile", 1e3 * percentiles[98], "ms")
    cpu = after.user + after.system - before.user - before.system
    figure(f"{CLIENTS} clients, CPU of the server", cpu / LOAD_SECONDS, "cores")
    figure(f"{CLIENTS} clients, CPU of the clients", clients / LOAD_SECONDS, "cores")
    errors += more_errors
    for error in errors[:5]:
        print(f"  {error}")
    figure(f"{CLIENTS} clients, errors", len(errors), "errors", at_most=0)


def running_api(folder: Path, url: str) -> AbstractContextManager[tuple[psutil.Process, int]]:
    """Run `precalc api`; yield its process and port."""
    environment = variables(folder / "store", {"PRECALC_TABLES_URL": url})
    return serving([PRECALC, "api", "--port", "0"], folder, environment)


@contextmanager
def serving(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> Iterator[tuple[psutil.Process, int]]:
    """Run a server that prints its URL; yield its process and port."""
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        greeting = process.stdout.readline()
        try:
            yield psutil.Process(process.pid), int(urlsplit(greeting.split()[0]).port or 0)
        finally:
            process.terminate()


async def ask_once(port: int, asked: list[Request]) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bodies = []
    for request in asked:
        status, body = await exchange(reader, writer, request)
        if status != request.status:
            raise SystemExit(f"{request.name}: {status} {body[:300]!r}")
        bodies.append(body)
    writer.close()
    return bodies


async def ask_for_a_while(port: int, asked: list[Request], expected: list[bytes]) -> tuple[list[float], list[str]]:
    """Return the latencies in seconds, and the errors."""
    latencies: list[float] = []
    errors: list[str] = []
    until = time.perf_counter() + LOAD_SECONDS

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        order = random.Random(number).sample(range(len(asked)), len(asked))
        for at in cycle(order):
            started = time.perf_counter()
            if started > until:
                break
            try:
                status, body = await exchange(reader, writer, asked[at])
            except (OSError, EOFError, ValueError) as error:
                errors.append(f"{asked[at].name}: {error!r}")
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            latencies.append(time.perf_counter() - started)
            if status != asked[at].status or body != expected[at]:
                errors.append(f"{asked[at].name}: {status} {body[:100]!r}")
        writer.close()

    await asyncio.gather(*map(client, range(CLIENTS)))
    return latencies, errors


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> tuple[int, bytes]:
    writer.write(request.content)
    answered = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(answered[9:12]), await reader.readexactly(length)


if __name__ == "__main__":
    main()
