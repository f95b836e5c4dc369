"""What one client may take from the local server: API Gateway bounds the same before it asks a Lambda.

Bodies have a largest size, and a time by which they have to be whole; so have headers, and the reading of answers. All
bodies together have a largest size too. A client that has left is not answered.
"""

import asyncio
import re
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from precalc_assets.api.problems import Problem, body_too_large, request_timeout

MAX_BODY_BYTES = 10 * 1024 * 1024
"""What API Gateway takes ("Amazon API Gateway quotas", payload size)."""

ALL_BODIES_BYTES = 8 * MAX_BODY_BYTES
"""What the bodies of all requests may take of memory. Most have less than 100 KB."""

BODY_SECONDS = 30.0
"""What a body may take to arrive: API Gateway waits 29 s for an answer."""

HEADER_SECONDS = 10.0
"""What a request's headers may take to arrive."""

READ_SECONDS = 60.0
"""How long a client may leave its answer unread."""

THREADS = 16
"""Answers that are made at the same time, while others wait for DynamoDB; to make them keeps one core busy."""

_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)
"""What a browser may call this machine. Any other name that leads here is one that the owner of some web page made lead
here, so that the page may read what this server answers (DNS rebinding)."""


class Limits:
    """Lets requests through to an application, within bounds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._bodies_bytes = 0
        self._threads = asyncio.Semaphore(THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            _check_host(scope)
            async with asyncio.timeout(BODY_SECONDS):
                whole = await self._read(scope, receive, body)
            if whole:
                await self._answer(scope, body, receive, send)
        except TimeoutError:
            await request_timeout().response()(scope, receive, send)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        finally:
            self._bodies_bytes -= len(body)

    async def _answer(self, scope: Scope, body: bytearray, receive: Receive, send: Send) -> None:
        messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_whole() -> Message:
            return messages.pop() if messages else await receive()

        waits = self._threads.locked()
        async with self._threads:
            if not (waits and await _has_left(receive)):
                await self._app(scope, receive_whole, send)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Read the body, and return whether the client has sent all of it. Raises Problem if it is too large.

        Most clients read no answer before they have sent all, and lose it when the connection is closed meanwhile. So
        a body that is too large is taken off the line up to a limit, and not kept; but not from a client that waits
        for the server's word to go on.
        """
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        size = int(declared) if declared.isdigit() else 0
        too_large = size > MAX_BODY_BYTES
        if too_large and (size > _DISCARDED_BYTES or b"expect" in headers):
            raise body_too_large()
        size, more = 0, True
        while more and size <= _DISCARDED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            too_large = too_large or size > MAX_BODY_BYTES
            self._keep(b"" if too_large else part, body)
        if too_large:
            raise body_too_large()
        return True

    def _keep(self, part: bytes, body: bytearray) -> None:
        if self._bodies_bytes + len(part) > ALL_BODIES_BYTES:
            message = "others are sending too much at the moment; try again later"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message)
        body += part
        self._bodies_bytes += len(part)


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end to the patience for headers that do not arrive and answers that are not read."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request's headers, unless its body is what arrives."""
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._wait(HEADER_SECONDS)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Leave the body to `Limits`."""
        self._stop_waiting()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._wait(READ_SECONDS)

    def resume_writing(self) -> None:
        """Go on writing."""
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


def _check_host(scope: Scope) -> None:
    """Raise Problem unless a request names this machine as its host, and no other one."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if not hosts or not all(map(_HOST.fullmatch, hosts)):
        message = "this server is for this machine alone; ask it by the name localhost or 127.0.0.1"
        raise Problem(HTTPStatus.MISDIRECTED_REQUEST, "unknown_host", message)


async def _has_left(receive: Receive) -> bool:
    """Return whether the client has closed its connection."""
    try:
        async with asyncio.timeout(0):
            return bool((await receive())["type"] == "http.disconnect")
    except TimeoutError:
        return False
