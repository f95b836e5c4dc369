"""What one client can take from the local server: no more than its share of time and memory."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
import uvicorn

from precalc_assets.api import limits
from precalc_assets.api.limits import ImpatientProtocol, Limits

pytestmark = pytest.mark.anyio
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]
SCOPE = {"type": "http", "method": "POST", "path": "/predictions", "headers": HEADERS}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client:
    """Sends the parts of a body when the test says so, and keeps what comes back."""

    def __init__(self, app: Limits) -> None:
        self.sent: list[dict] = []
        self._messages: asyncio.Queue[dict] = asyncio.Queue()
        self.done = asyncio.ensure_future(app(SCOPE, self._messages.get, self._take))

    def send(self, body: bytes, *, more: bool = False) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def _take(self, message: dict) -> None:
        self.sent.append(message)

    async def status(self) -> int:
        await asyncio.wait_for(self.done, 5)
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


class Echo:
    """An application that answers with the body, once the test opens the gate."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope, receive, send) -> None:
        self.asked += 1
        body = (await receive())["body"]
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def test_whole_body_reaches_the_application():
    client = Client(Limits(Echo()))
    client.send(b"a" * 10, more=True)
    client.send(b"b" * 10)
    assert await client.status() == 200
    assert client.sent[1]["body"] == b"a" * 10 + b"b" * 10


async def test_body_that_stalls_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    app = Echo()
    client = Client(Limits(app))
    client.send(b"a", more=True)
    assert await client.status() == 408
    assert client.headers["connection"] == "close"
    assert app.asked == 0


async def test_all_bodies_together_have_a_largest_size(monkeypatch):
    monkeypatch.setattr(limits, "ALL_BODIES_BYTES", 1_000)
    app = Limits(Echo())
    first, second = Client(app), Client(app)
    first.send(b"a" * 900, more=True)
    await asyncio.sleep(0)
    second.send(b"a" * 900)
    assert await second.status() == 503
    assert int(second.headers["retry-after"]) > 0
    first.send(b"a" * 100)
    assert await first.status() == 200
    third = Client(app)
    third.send(b"a" * 1_000)
    assert await third.status() == 200


async def test_client_that_leaves_its_body_is_dropped():
    app = Echo()
    client = Client(Limits(app))
    client.send(b"a", more=True)
    client.leave()
    await asyncio.wait_for(client.done, 5)
    assert (app.asked, client.sent) == (0, [])


async def test_client_that_leaves_the_queue_is_dropped(monkeypatch):
    monkeypatch.setattr(limits, "THREADS", 1)
    app = Echo()
    app.gate.clear()
    bounded = Limits(app)
    clients = [Client(bounded) for _ in range(3)]
    for client in clients:
        client.send(b"a")
    await asyncio.sleep(0.01)
    assert app.asked == 1
    clients[1].leave()
    app.gate.set()
    await asyncio.wait_for(clients[1].done, 5)
    assert clients[1].sent == []
    assert [await clients[0].status(), await clients[2].status(), app.asked] == [200, 200, 2]


@contextmanager
def serving(app) -> Iterator[tuple[uvicorn.Server, int]]:
    config = uvicorn.Config(app, http=ImpatientProtocol, ws="none", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


async def large(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64000000")]})
    await send({"type": "http.response.body", "body": b"x" * 64_000_000})


def connections_after(server: uvicorn.Server, seconds: float) -> int:
    until = time.monotonic() + seconds
    while server.server_state.connections and time.monotonic() < until:
        time.sleep(0.02)
    return len(server.server_state.connections)


@pytest.mark.parametrize("beginning", [b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_headers_that_never_end_close_the_connection(monkeypatch, beginning):
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.2)
    with serving(large) as (server, port), closing(socket.create_connection(("127.0.0.1", port), 5)) as connection:
        connection.sendall(beginning)
        assert connection.recv(1) == b""
        assert connections_after(server, 5) == 0


@pytest.mark.parametrize("then", ["keep-alive", "close"])
def test_answer_that_is_not_read_closes_the_connection(monkeypatch, then):
    monkeypatch.setattr(limits, "READ_SECONDS", 0.2)
    with serving(large) as (server, port), closing(socket.create_connection(("127.0.0.1", port), 5)) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {then}\r\n\r\n".encode())
        time.sleep(0.1)
        assert len(server.server_state.connections) == 1
        assert connections_after(server, 5) == 0


@pytest.mark.slow
def test_slow_client_that_goes_on_is_answered(monkeypatch):
    monkeypatch.setattr(limits, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(limits, "READ_SECONDS", 10.0)
    with serving(large) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        with client.stream("GET", "/") as answer:
            size = 0
            for chunk in answer.iter_bytes(4_000_000):
                size += len(chunk)
                time.sleep(0.1)
        assert size == 64_000_000
        time.sleep(1.2)
        assert len(client.get("/").content) == 64_000_000
