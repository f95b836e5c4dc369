"""The latency and cost of reading: `python -m benchmarks.api`.

- `answer`: 1,000 molecules of a model with 10 columns, each on a different page, from API Gateway's event to the answer
  that Lambda gets: the body, and what gzip and base64 add. In process, with SQLite and warm directories; each page is
  read once, so that none is in SQLite's cache.
- `plain`: the baseline for `answer`. The same values are one item per molecule with a list of Decimal, read by boto3's
  resource with `batch_get_item` in hundreds, and turned into JSON. Both read from the same ministack. Also with 200
  columns, where other molecules on a page matter less.
- `get`: `precalc get` with a file of 100,000 molecules, from the local tables to a CSV file, as a process.
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
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from fastapi import FastAPI

from benchmarks.command import end, size
from benchmarks.invented import MODEL, REGION, Shape, floats, load_all, put_plainly
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
CLIENTS = size(64, 4)
LOAD_SECONDS = size(30, 1)

ANSWER_MS = 30
PLAIN_RATIO = 5
GET_RATE = 50_000
LAMBDA_SECONDS = 1.0
ASSET_BYTES = 10_000_000

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
    print(f"api      {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
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
        met = [measure_answer(tables, questions)]
        with run_ministack(folder) as ministack:
            os.environ |= ministack.environment
            met.append(measure_plain(tables, shape, MODEL, questions[0]))
            wide = floats("200 floats", 200, 2 * ASKED)
            load_all(tables, wide, 1, WIDE)
            measure_plain(tables, wide, WIDE, rng.sample(wide.rows.column("inchikey").to_pylist(), ASKED))
            met.append(measure_lambda(folder, url, questions[0], ministack))
        met.append(measure_get(folder, url, listed))
        tables.close()
        met.append(measure_load(folder, url, listed))
    end([] if all(met) else ["what is marked above"])


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


def cpu_ms(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return 1e3 * (time.process_time() - started)


def asked_for(keys: Sequence[str], model: str = MODEL, **headers: str) -> dict[str, Any]:
    route = f"/models/{model}/predictions"
    return event("POST", route, json.dumps({"inchikeys": list(keys)}), {"content_type": "application/json"} | headers)


def answer(app: FastAPI, asked: dict[str, Any]) -> dict[str, Any]:
    return answer_event(lambda: app, asked, None)


def checked(response: dict[str, Any], found: int = ASKED) -> dict[str, Any]:
    if response["statusCode"] != 200 or f'"found":{found},' not in response["body"]:
        raise SystemExit(f"unexpected answer: {response['statusCode']} {response['body'][:300]}")
    return response


def told(what: str, figure: str, target: str, met: bool) -> bool:
    print(f"  {what:<52}{figure:>34}   target: {target}{'' if met else '   MISSED'}", flush=True)
    return met


def measure_answer(tables: KeyValueStore, questions: list[list[str]]) -> bool:
    app = make_app(tables)
    reader = TableReader(tables, MODEL)
    warm, *fresh = questions
    body = checked(answer(app, asked_for(warm)))["body"]
    reader.get(warm)
    zipped = {"accept_encoding": "gzip"}
    plain = min(cpu_ms(lambda keys=keys: answer(app, asked_for(keys))) for keys in fresh)
    compressed = min(cpu_ms(lambda keys=keys: answer(app, asked_for(keys, **zipped))) for keys in fresh)
    rows = min(cpu_ms(lambda keys=keys: reader.get(keys)) for keys in fresh)
    print(f"answer, {ASKED:,} molecules on {ASKED:,} pages, 10 columns, SQLite: {len(body):,} bytes of JSON")
    print(f"  of which reading rows {rows:.1f} ms; gzip and base64 add {compressed - plain:.1f} ms")
    return told("to finished JSON", f"{plain:.1f} ms CPU", f"under {ANSWER_MS}", plain < ANSWER_MS)


def measure_plain(tables: KeyValueStore, shape: Shape, model: str, keys: list[str]) -> bool:
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
    pairs = [(cpu_ms(lambda: answer(app, asked)), cpu_ms(plain)) for _ in range(ROUNDS)]
    local = make_app(tables)
    answer(local, asked)
    in_sqlite = min(cpu_ms(lambda: answer(local, asked)) for _ in range(ROUNDS))
    store.close()
    ours_ms, plain_ms = (min(times) for times in zip(*pairs, strict=True))
    ratio = plain_ms / ours_ms
    print(f"plain, {shape.name}, from ministack: ours {ours_ms:.1f} ms CPU, the plain way {plain_ms:.1f}; ", end="")
    print(f"ours from SQLite {in_sqlite:.1f}")
    return told("plain / ours", f"{ratio:.1f} times less CPU", f"at least {PLAIN_RATIO}", ratio >= PLAIN_RATIO)


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


def measure_lambda(folder: Path, sqlite: str, keys: list[str], ministack: Emulator) -> bool:
    asset = build_asset(folder / "asset", READER, THIS_PYTHON)
    size = packed_bytes(build_asset(folder / "deployed", READER, LAMBDA))
    # As in Lambda, boto3 comes after the asset on the path.
    installed = str(Path(boto3.__file__).parents[1])
    asked = json.dumps(event("GET", f"{ROUTE}/{keys[0]}", None, {}))
    tables = {"SQLite": {}, "DynamoDB": ministack.environment}
    urls = {"SQLite": sqlite, "DynamoDB": f"dynamodb://{REGION}/bench"}
    walls = {}
    print("lambda, from the start of Python's own work to the first answer")
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
        walls[name] = min(entry["wall"] for entry in times)
        cpu = min(entry["cpu"] for entry in times)
        figure = f"{walls[name]:.2f} s, {cpu:.2f} s CPU"
        told(f"import and first answer, {name}", figure, f"under {LAMBDA_SECONDS} s", walls[name] < LAMBDA_SECONDS)
    small = told("asset, zipped", f"{size / 1e6:.1f} MB", f"under {ASSET_BYTES / 1e6:.0f}", size < ASSET_BYTES)
    return small and all(wall < LAMBDA_SECONDS for wall in walls.values())


def packed_bytes(asset: Path) -> int:
    archive = asset.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in asset.rglob("*"):
            file.write(path, path.relative_to(asset))
    return archive.stat().st_size


def measure_get(folder: Path, url: str, listed: list[str]) -> bool:
    files = {"one": listed[:1], "all": listed}
    for name, keys in files.items():
        (folder / f"{name}.csv").write_text("\n".join(["smiles", *keys, ""]))
    seconds = {name: min(child_seconds(folder, url, name) for _ in range(STARTS)) for name in files}
    written = (folder / "all.out.csv").read_text().count("\n") - 1
    if written != len(listed):
        raise SystemExit(f"precalc get wrote {written} rows of {len(listed)}")
    rate = len(listed) / max(0.01, seconds["all"] - seconds["one"])
    print(f"get, {len(listed):,} molecules of {MOLECULES:,}: {seconds['all']:.2f} s CPU, ", end="")
    print(f"{len(listed) / seconds['all']:,.0f} molecules/s with the start; one alone {seconds['one']:.2f} s")
    return told("beyond the start", f"{rate:,.0f} molecules/s", f"at least {GET_RATE:,}", rate >= GET_RATE)


def child_seconds(folder: Path, url: str, name: str) -> float:
    """Return the CPU seconds of a `precalc get` and its children."""
    output = folder / f"{name}.out.csv"
    output.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [precalc(), "get", MODEL, "-i", str(folder / f"{name}.csv"), "-o", str(output)]
    done = subprocess.run(command, env=settings(folder, url), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def precalc() -> str:
    return str(Path(sys.executable).parent / "precalc")


def settings(folder: Path, url: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PRECALC_", "AWS_"))}
    return inherited | {"PRECALC_TABLES_URL": url, "PRECALC_STORE_URL": (folder / "store").as_uri()}


@dataclass(frozen=True)
class Request:
    """A client's request, and the expected status."""

    name: str
    content: bytes
    status: int


@dataclass
class Seen:
    """The clients' results: latencies in seconds by request, and errors."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


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


def measure_load(folder: Path, url: str, listed: list[str]) -> bool:
    asked = requests(listed)
    singles = [request for request in asked if request.name == "GET one"]
    with running_api(folder, url) as (server, port):
        expected = asyncio.run(ask_once(port, asked))
        alone = asyncio.run(ask_for_a_while(port, singles, expected[: len(singles)]))
        before = cpu_of(server)
        started, clients_cpu = time.perf_counter(), time.process_time()
        seen = asyncio.run(ask_for_a_while(port, asked, expected))
        wall, clients = time.perf_counter() - started, time.process_time() - clients_cpu
        cpu = cpu_of(server) - before
    times = [seconds for each in seen.seconds.values() for seconds in each]
    print(
        f"load, {CLIENTS} clients for {wall:.0f} s: {len(times):,} requests, {len(times) / wall:,.0f} a second; ",
        end="",
    )
    print(f"the server took {cpu:.0f} s CPU, the clients {clients:.0f}")
    rate = len(alone.seconds["GET one"]) / LOAD_SECONDS
    print(f"  before that, one molecule a request: {rate:,.0f} requests a second")
    for name, each in [*seen.seconds.items(), ("all", times)]:
        p50, p99 = percentiles(each)
        print(f"  {name:<20}{len(each):>8,} requests   p50 {1e3 * p50:>7.1f} ms   p99 {1e3 * p99:>7.1f} ms")
    errors = [*alone.errors, *seen.errors]
    for error in errors[:5]:
        print(f"  {error}")
    return told("errors", f"{len(errors):,}", "none", not errors)


def percentiles(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return cuts[49], cuts[98]


@contextmanager
def running_api(folder: Path, url: str) -> Iterator[tuple[int, int]]:
    """Run `precalc api`; yield its process and port."""
    command = [precalc(), "api", "--port", "0"]
    with subprocess.Popen(command, env=settings(folder, url), cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        greeting = process.stdout.readline()
        try:
            yield process.pid, int(urlsplit(greeting.split()[0]).port or 0)
        finally:
            process.terminate()


def cpu_of(process: int) -> float:
    """Return the CPU of a process, from Linux's `/proc/<pid>/stat`."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


async def ask_for_a_while(port: int, asked: list[Request], expected: list[bytes]) -> Seen:
    seen = Seen({request.name: [] for request in asked})
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
                seen.errors.append(f"{asked[at].name}: {error!r}")
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            seen.seconds[asked[at].name].append(time.perf_counter() - started)
            if status != asked[at].status or body != expected[at]:
                seen.errors.append(f"{asked[at].name}: {status} {body[:100]!r}")
        writer.close()

    await asyncio.gather(*map(client, range(CLIENTS)))
    return seen


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> tuple[int, bytes]:
    writer.write(request.content)
    answered = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(answered[9:12]), await reader.readexactly(length)


if __name__ == "__main__":
    main()
