"""Commands against a real `precalc api`, through a proxy that cuts and refuses, and killed in the middle."""

import gzip
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import inchikeys, serve

from precalc_assets.columns import Column
from precalc_assets.storage import predictions

pytestmark = pytest.mark.slow

MODEL = "eos3b5e"
N = 30_000
COLUMNS = tuple(Column(f"c{i}", "float", "", "") for i in range(10))


@pytest.fixture
def large(world):
    """A world in which a model of 30,000 molecules is served, and its files are in the store."""
    chance = random.Random(7)
    keys = [key for key, _ in zip(inchikeys(), range(N), strict=False)]
    rows = {key: tuple(chance.random() for _ in COLUMNS) for key in keys}
    files = {}
    for shard in ("00", "01", "02", "03"):
        path = world.path(predictions(MODEL, shard))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": pa.array(chance.randbytes(8) for _ in range(400_000))}), path)
        files[shard] = path.read_bytes()
    serve(world.tables, rows, columns=COLUMNS, files=files)
    (world.root / "molecules.csv").write_text("inchikey\n" + "\n".join(chance.sample(keys, N)) + "\n")
    return world


@contextmanager
def served_at(world) -> Iterator[str]:
    with subprocess.Popen(
        world.command("api", "--port", "0"), env=world.environment, cwd=world.root, stdout=subprocess.PIPE, text=True
    ) as process:
        said = process.stdout.readline()
        try:
            yield re.search(r"http://[\d.:]+", said)[0]
        finally:
            process.terminate()


class _Proxy(BaseHTTPRequestHandler):
    """Passes requests on, each after a pause; with a fault in their turn: a status, "drop", or "cut"."""

    upstream: str
    faults: list[str]
    pause: float
    lock = threading.Lock()

    def _pass_on(self) -> None:
        with self.lock:
            fault = self.faults.pop(0) if self.faults else ""
        time.sleep(self.pause)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.close_connection = True
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.isdigit():
            self.send_response(int(fault))
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            self._answer(body, cut=fault == "cut")

    def _answer(self, body: bytes, *, cut: bool) -> None:
        connection = HTTPConnection(self.upstream)
        names = ("content-type", "accept", "accept-encoding", "range")
        connection.request(self.command, self.path, body, {n: self.headers[n] for n in names if n in self.headers})
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name in ("content-type", "content-encoding", "content-range"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        content = content[: len(content) // 2] if cut else content
        for at in range(0, len(content), 1 << 18):
            self.wfile.write(content[at : at + (1 << 18)])
            time.sleep(self.pause)

    do_GET = _pass_on  # noqa: N815 - the name that the server calls
    do_POST = _pass_on  # noqa: N815

    def log_message(self, *_args: object) -> None:
        pass

    def handle(self) -> None:
        # Whom we have killed does not read on.
        with suppress(OSError):
            super().handle()


@contextmanager
def proxy(url: str, faults: list[str], pause: float = 0.0) -> Iterator[str]:
    """Stand between the client and a server."""
    handler = type("Proxy", (_Proxy,), {"upstream": url.removeprefix("http://"), "faults": faults, "pause": pause})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


FAULTS = ["", "429", "", "503", "", "", "cut", "", "", "502", "", "", "drop"]


def start(world, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        world.command(*arguments), env=world.environment, cwd=world.root, stderr=subprocess.PIPE, text=True
    )


def kill_when(process: subprocess.Popen[str], path: Path, size: int) -> bool:
    """Kill a command when a file it writes has grown to a size; return whether it was still at work."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if sum(each.stat().st_size for each in path.parent.glob(path.name)) >= size:
            break
        time.sleep(0.005)
    at_work = process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return at_work


def test_through_faults_and_from_the_tables_the_file_is_the_same(large) -> None:
    assert large.precalc("get", MODEL, "-i", "molecules.csv", "-o", "local.csv").returncode == 0
    with (
        served_at(large) as url,
        proxy(url, FAULTS) as faulty,
        proxy(url, ["", "cut", "503", "drop", "cut"]) as faulty_too,
    ):
        done = large.precalc("get", MODEL, "-i", "molecules.csv", "-o", "api.csv", "--api", faulty)
        assert done.returncode == 0, done.stderr
        done = large.precalc("download", MODEL, "-o", "files", "--api", faulty_too)
        assert done.returncode == 0, done.stderr
    assert (large.root / "api.csv").read_bytes() == (large.root / "local.csv").read_bytes()
    assert_downloaded(large)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".jsonl"])
def test_killed_get_continues_and_ends_with_the_same_file(large, suffix: str) -> None:
    out = f"out{suffix}"
    assert large.precalc("get", MODEL, "-i", "molecules.csv", "-o", f"whole{suffix}").returncode == 0
    with served_at(large) as url, proxy(url, [], pause=0.05) as slow:
        killed = 0
        for size in (200_000, 1_200_000):
            process = start(large, "get", MODEL, "-i", "molecules.csv", "-o", out, "--api", slow)
            killed += kill_when(process, large.root / f".{out}.partial", size)
            assert not (large.root / out).exists()
        assert killed == 2
        process = start(large, "get", MODEL, "-i", "molecules.csv", "-o", out, "--api", slow)
        said = process.stderr.read()
        assert process.wait() == 0, said
    assert f"{out}: continuing after row " in said
    whole, parts = large.root / f"whole{suffix}", large.root / out
    if suffix == ".parquet":
        assert pq.read_table(parts).equals(pq.read_table(whole))
    elif suffix == ".csv.gz":
        assert gzip.decompress(parts.read_bytes()) == gzip.decompress(whole.read_bytes())
    else:
        assert parts.read_bytes() == whole.read_bytes()
    assert not list(large.root.glob(".out*"))


def test_killed_download_continues_and_ends_with_whole_files(large) -> None:
    with served_at(large) as url, proxy(url, [], pause=0.05) as slow:
        killed = 0
        for share in (0.2, 0.5):
            process = start(large, "download", MODEL, "-o", "files", "--api", slow)
            name = large.root / "files" / ".shard=03*.partial"
            killed += kill_when(process, name, int(share * large.path(predictions(MODEL, "03")).stat().st_size))
        assert killed == 2
        before = sum(path.stat().st_size for path in (large.root / "files").glob(".shard=*.partial"))
        assert before > 0
        done = large.precalc("download", MODEL, "-o", "files", "--api", slow)
        assert done.returncode == 0, done.stderr
    assert_downloaded(large)
    assert "30,000 molecules of eos3b5e v1.0.0, library " in done.stderr


def test_ctrl_c_ends_at_once_and_says_how_to_continue(large) -> None:
    with served_at(large) as url, proxy(url, [], pause=0.2) as slow:
        process = start(large, "get", MODEL, "-i", "molecules.csv", "-o", "out.csv", "--api", slow)
        deadline = time.monotonic() + 30
        while not list(large.root.glob(".out.csv.partial")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130
        assert time.monotonic() - began < 5
    assert "the same command continues" in said
    assert "Traceback" not in said


def test_a_server_that_is_not_there_is_told_within_seconds(large) -> None:
    began = time.monotonic()
    done = large.precalc("get", MODEL, "CCO", "--api", "http://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "does not answer" in done.stderr
    assert time.monotonic() - began < 20


def assert_downloaded(world) -> None:
    for shard in ("00", "01", "02", "03"):
        there = (world.root / "files" / f"shard={shard}.parquet").read_bytes()
        assert sha256(there).digest() == sha256(world.path(predictions(MODEL, shard)).read_bytes()).digest()
    left = [path.name for path in (world.root / "files").iterdir() if path.name.startswith(".shard")]
    assert left == []
