"""Limits of the local server for its clients. API Gateway enforces its own before it calls a Lambda.

Bodies have a largest size, each and all together. Headers, bodies and the reading of answers have timeouts. A request
whose client has disconnected is dropped.
"""

import asyncio
import re
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from precalc_assets.api.problems import Problem, body_too_large, request_timeout

MAX_BODY_BYTES = 10 * 1024 * 1024
"""API Gateway's limit ("Amazon API Gateway quotas", payload size)."""

ALL_BODIES_BYTES = 8 * MAX_BODY_BYTES
"""The most memory for all bodies together; most bodies have less than 100 KB."""

BODY_SECONDS = 30.0
"""Timeout of a body. API Gateway waits 29 s for an answer."""

HEADER_SECONDS = 10.0
"""Timeout of a request's headers."""

READ_SECONDS = 60.0
"""Timeout of reading what was written of an answer."""

THREADS = 16
"""Requests that are handled at the same time: some wait for DynamoDB while others keep one core busy."""

_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)
"""The names of this machine. A web page can make its own name lead here, to read the answers (DNS rebinding): such
requests are refused."""


class Limits:
    """Middleware that refuses or drops what exceeds the limits."""

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
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if not hosts or not all(map(_HOST.fullmatch, hosts)):
                message = "this server is for this machine alone; ask it by the name localhost or 127.0.0.1"
                raise Problem(HTTPStatus.MISDIRECTED_REQUEST, "unknown_host", message)
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    is_whole = await self._read(scope, receive, body)
            except TimeoutError:
                raise request_timeout() from None
            if is_whole:
                await self._answer(scope, body, receive, send)
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
        """Read the body, and return False if the client disconnects. Raises Problem if there is no room for the body.

        Most clients read no answer before they have sent the whole body, and lose it if the connection is closed. So a
        refused body is read and discarded up to a limit, unless the client waits for a 100 Continue.
        """
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        declared = int(length) if length.isdigit() else 0
        refusal = body_too_large() if declared > MAX_BODY_BYTES else None
        if refusal and (declared > _DISCARDED_BYTES or b"expect" in headers):
            raise refusal
        size, more = 0, True
        while more and size <= _DISCARDED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            refusal = refusal or self._refusal(size, len(part))
            if refusal:
                self._bodies_bytes -= len(body)
                body.clear()
            else:
                self._bodies_bytes += len(part)
                body += part
        if refusal:
            raise refusal
        return True

    def _refusal(self, size: int, more: int) -> Problem | None:
        """Return the problem of a body of this size, or of this many bytes more in memory."""
        if size > MAX_BODY_BYTES:
            return body_too_large()
        if self._bodies_bytes + more > ALL_BODIES_BYTES:
            message = "the server holds too many large bodies; try again in a few seconds"
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message)
        return None


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with timeouts for headers that do not arrive and answers that are not read."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request's headers."""
        super().connection_made(transport)
        self._wait(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Start the timeout of the next request's headers."""
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._wait(HEADER_SECONDS)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Stop the timeout; `Limits` has one for the body."""
        self._stop_waiting()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Start the timeout of reading."""
        super().pause_writing()
        self._wait(READ_SECONDS)

    def resume_writing(self) -> None:
        """Stop the timeout of reading."""
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop any timeout."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


async def _has_left(receive: Receive) -> bool:
    """Return whether the client has closed its connection."""
    try:
        async with asyncio.timeout(0):
            return bool((await receive())["type"] == "http.disconnect")
    except TimeoutError:
        return False
