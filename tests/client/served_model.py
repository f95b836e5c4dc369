"""A model of made-up predictions, and the API for them: in this process, with faults between if one likes."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NoReturn

import httpx
from httpx_retries import Retry
from made_up import inchikeys, rows_of, serve
from starlette.types import ASGIApp

from precalc.remote import RemoteSource, retries
from precalc_assets.api.server import make_local_app
from precalc_assets.columns import Column
from precalc_assets.screening.engine import open_engine
from precalc_assets.storage import open_store
from precalc_assets.tables import LIBRARY, KeyValueStore

SMILES = (Column("smiles", "string", "", "The molecule"),)
URL = "http://127.0.0.1:8000"

KEYS = tuple(islice(inchikeys(), 60))
UNKNOWN = next(islice(inchikeys(), 1_000, None))
ROWS = rows_of(KEYS, ["CCO", "", "naïve ☃", 'a "quoted", text', "two\nlines", "=1+1", "'=1", None])


def load_smiles(tables: KeyValueStore, smiles: dict[str, str]) -> None:
    """Load the library's own table."""
    serve(tables, {key: (text,) for key, text in smiles.items()}, model=LIBRARY, columns=SMILES, release="")


class InProcess(httpx.BaseTransport):
    """Takes requests to an ASGI application in this process, which runs in a thread of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._inner = httpx.ASGITransport(app)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return asyncio.run_coroutine_threadsafe(self._answer(request), self._loop).result(30)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        content = b"".join([chunk async for chunk in answer.stream])
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(content))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


Fault = Callable[[httpx.Request, Callable[[], httpx.Response]], httpx.Response]


class Faulty(httpx.BaseTransport):
    """Lets a fault have each request first; `None` is no fault, and there is none when all have had their turn."""

    def __init__(self, inner: httpx.BaseTransport, faults: Sequence[Fault | None] = ()) -> None:
        self._inner = inner
        self._faults = list(faults)
        self._lock = threading.Lock()
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            fault = self._faults.pop(0) if self._faults else None
        if fault is None:
            return self._inner.handle_request(request)
        return fault(request, lambda: self._inner.handle_request(request))


def refused(status: int, **headers: str) -> Fault:
    """An answer that is only a status, as a router in front of the API gives it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _request, _answer: httpx.Response(status, headers=named, content=b"<html>no</html>")


def dropped(_request: httpx.Request, _answer: Callable[[], httpx.Response]) -> NoReturn:
    """A connection that is closed instead of an answer."""
    raise httpx.RemoteProtocolError("Server disconnected without sending a response.")


class _CutStream(httpx.SyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.ReadError("connection reset")


def cut(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
    """An answer that breaks off in the middle."""
    whole = answer()
    content = b"".join(whole.stream)
    return httpx.Response(whole.status_code, headers=whole.headers, stream=_CutStream(content[: len(content) // 2]))


def impatient() -> Retry:
    """Return the client's own retries without their waits, but for those that an API asks for."""
    return retries().copy_with(backoff_factor=0.0)


def remote(tables: KeyValueStore, faults: Sequence[Fault | None] = (), *, store_url: str | None = None) -> RemoteSource:
    """Return the API for these tables as the client reads it. `source.transport` has what was requested."""
    screen = open_engine(open_store(store_url), tables).answer if store_url else None
    transport = Faulty(InProcess(make_local_app(tables, store_url, screen=screen)), faults)
    source = RemoteSource(URL, transport=transport, retry=impatient())
    source.transport = transport
    return source
