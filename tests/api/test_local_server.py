"""`precalc api`: the answers of a Lambda over HTTP, to parallel clients, from start to shutdown."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from made_up import MODEL, serve
from serving import KEYS, Api, predictions

from precalc_assets import storage
from precalc_assets.api.files import open_links
from precalc_assets.api.limits import MAX_BODY_BYTES
from precalc_assets.api.server import make_local_app
from precalc_assets.columns import Column
from precalc_assets.tables import LIBRARY

ROWS = predictions(KEYS)
COMMAND = [str(Path(sys.executable).parent / "precalc"), "api", "--port"]
TRUE_MODEL = "eos9abc"
SHARDS = ("00", "01", "02", "03")
KEPT = ("etag", "cache-control", "vary", "content-type", "precalc-provenance", "content-disposition")


def test_parallel_requests_get_their_own_answers(api):
    def ask(at: int) -> bool:
        key = KEYS[at % len(KEYS)]
        if at % 3 == 0:
            return api.get(f"/models/{MODEL}/predictions/{key}").json["inchikey"] == key
        if at % 3 == 1:
            return api.predictions([key, KEYS[0]]).json["inchikeys"] == [key, KEYS[0]]
        return api.get(f"/nothing/{at}").error == (404, "unknown_route")

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(400)))
    finally:
        sys.setswitchinterval(switching)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "most"),
    [
        ({}, 4 * MAX_BODY_BYTES + 2**21),
        ({"content-length": str(8 * MAX_BODY_BYTES)}, 0),
        ({"content-length": str(2 * MAX_BODY_BYTES), "expect": "100-continue"}, 0),
    ],
)
async def test_large_body_is_refused_before_all_of_it_is_read(tables, headers, most):
    taken = 0

    async def body():
        nonlocal taken
        while taken < 8 * MAX_BODY_BYTES:
            taken += 2**20
            yield b" " * 2**20

    transport = httpx.ASGITransport(make_local_app(tables))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/predictions", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert taken <= most


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("hosts", "ours"),
    [
        (["localhost"], True),
        (["127.0.0.1:8000"], True),
        (["[::1]:8000"], True),
        (["LocalHost:80"], True),
        (["evil.example:8000"], False),
        (["localhost.evil.example"], False),
        (["127.0.0.1.evil.example:8000"], False),
        (["evil.example@localhost"], False),
        (["localhost:80\n"], False),
        (["localhost", "evil.example"], False),
        (["0.0.0.0:8000"], False),
        ([""], False),
    ],
)
async def test_request_for_another_host_is_refused(tables, tmp_path, hosts, ours):
    file = tmp_path / storage.predictions(MODEL, "00")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PAR1")
    api = make_local_app(tables, f"file://{tmp_path}")
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path, answered in (("/models", b"{"), (f"/models/{MODEL}/files/shard=00.parquet", b"PAR1")):
            answer = await client.get(path, headers=[("host", host) for host in hosts])
            assert answer.status_code == (200 if ours else 421)
            assert answer.content.startswith(answered if ours else b'{"error": {"code": "unknown_host"')


@contextmanager
def running(
    environment: dict[str, str], folder: Path, port: int = 0
) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    process = subprocess.Popen(
        [*COMMAND, str(port)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first, second = process.stdout.readline(), process.stdout.readline()
        url = first.split()[0]
        assert "Ctrl-C stops it" in first
        assert second.startswith(f"{url}/docs ")
        with httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def served(served):
    """A model that really ran, with its files, its table, and the library's."""
    molecules = [row for shard in SHARDS for row in pq.read_table(served.library_shard(shard)).to_pylist()]
    smiles = {row["inchikey"]: (row["smiles"],) for row in molecules}
    serve(served.tables, smiles, model=LIBRARY, columns=[Column("smiles", "string", "", "")])
    return served


@pytest.mark.slow
def test_http_answers_equal_the_files_and_the_lambdas_answers(served):
    rows = {
        row["inchikey"]: row
        for shard in SHARDS
        for row in pq.read_table(served.path(storage.predictions(TRUE_MODEL, shard))).to_pylist()
    }
    in_process = Api(served.tables, open_links(served.environment["PRECALC_STORE_URL"]))
    keys = list(rows)
    urls = [
        "/models",
        f"/models/{TRUE_MODEL}",
        f"/models/{TRUE_MODEL}/files",
        "/openapi.json",
        "/docs",
        "/",
        f"/browse/{TRUE_MODEL}",
        *(f"/models/{TRUE_MODEL}/predictions/{key}?include=smiles" for key in keys),
        *(f"/molecules/{key}" for key in keys),
        "/nothing",
        "/models/eos9zzz",
        "/models/%00",
    ]
    with running(served.environment, served.root) as (process, client):

        def ask(url: str) -> None:
            expected = in_process.get(url.replace("%00", "\0"), accept_encoding="gzip")
            for answer in (client.get(url), client.head(url)):
                assert answer.status_code == expected.status
                headers = {name.lower(): value for name, value in expected.headers.items()}
                for name in KEPT:
                    # API Gateway's stage is part of what is told about where it is.
                    if url not in ("/openapi.json", "/docs", "/", f"/browse/{TRUE_MODEL}") or name != "etag":
                        assert answer.headers.get(name) == headers.get(name), (url, name)
            again = client.get(url, headers={"if-none-match": client.get(url).headers.get("etag", "none")})
            assert again.status_code == (304 if "ETag" in expected.headers else expected.status)

        def ask_many(seed: int) -> None:
            asked = random.Random(seed).sample(keys, len(keys))
            url = f"/models/{TRUE_MODEL}/predictions"
            answer = client.post(f"{url}?include=smiles", json={"inchikeys": asked}).json()
            names = [column["name"] for column in answer["columns"]]
            assert repr(answer["predictions"]) == repr([[rows[key][name] for name in names] for key in asked])
            assert answer["smiles"] == [rows[key]["smiles"] for key in asked]
            text = client.post(url, json={"inchikeys": asked}, headers={"accept": "text/csv"}).text
            assert text == in_process.predictions(asked, TRUE_MODEL, accept="text/csv").text
            before = client.post("/predictions", json={"modelId": TRUE_MODEL, "inputKeyArray": asked}).json()
            assert [entry["value"] for entry in before["output"]] == answer["predictions"]
            by_get = client.request("GET", "/predictions", json={"modelId": TRUE_MODEL, "inputKeyArray": asked})
            assert by_get.json() == before
            assert (client.get("/predictions").status_code, client.get("/predictions").content) == (204, b"")
            found = find_inchikeys([rows[key]["smiles"] for key in asked])
            assert (found["inchikeys"], found["errors"]) == (asked, [])

        def find_inchikeys(smiles: list[str]) -> dict:
            """Ask again while the few processes of RDKit are busy with others, as on a slow machine."""
            while (answer := client.post("/inchikeys", json={"smiles": smiles})).status_code == 429:
                time.sleep(int(answer.headers["retry-after"]))
            return answer.json()

        with ThreadPoolExecutor(32) as pool:
            assert list(pool.map(ask, urls * 2)) + list(pool.map(ask_many, range(64)))
        for file in client.get(f"/models/{TRUE_MODEL}/files").json()["files"]:
            content = client.get(file["url"]).content
            assert (len(content), sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
            part = client.get(file["url"], headers={"range": "bytes=4-9"})
            assert (part.status_code, part.content) == (206, content[4:10])
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=20)
        assert (process.returncode, printed, complaints) == (0, "", "")


@pytest.mark.slow
def test_port_in_use_is_an_error_and_shutdown_is_quiet(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, port], env=world.environment, cwd=world.root, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {port} cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1
    with running(world.environment, world.root) as (process, client):
        assert client.get("/models").json() == {"models": []}
        assert client.post("/inchikeys", json={"smiles": ["C"]}).status_code == 200
        # One who is connected does not keep the server from ending.
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.communicate(timeout=20) == ("", "")
        assert time.monotonic() - started < 6
    assert process.returncode in {0, 128 + signal.SIGTERM}
