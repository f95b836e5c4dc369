"""The API on this machine: what a Lambda answers through API Gateway, answered over HTTP by the same code.

Each request becomes the event that API Gateway would make of it. What only a folder needs, the Parquet files of a
store on disk, is sent by Starlette, which knows ranges.
"""

import base64
import logging
import re
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import anyio
import uvicorn
from anyio.to_thread import run_sync
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from precalc_assets.api.events import answer
from precalc_assets.api.files import FolderLinks, open_links
from precalc_assets.api.handler import make_app
from precalc_assets.api.inchikeys import add_inchikey_routes
from precalc_assets.api.problems import Problem, internal_error
from precalc_assets.api.resolver import Resolver
from precalc_assets.errors import UsageError
from precalc_assets.tables import KeyValueStore

LOOPBACK = "127.0.0.1"

_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)
"""What a browser may call this machine. Any other name that leads here is one that the owner of some web page made lead
here, so that the page may read what this server answers (DNS rebinding)."""

MAX_BODY_BYTES = 10 * 1024 * 1024
"""What API Gateway takes ("Amazon API Gateway quotas", payload size)."""

_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
_MAX_PARAMETERS = 100
_THREADS = 16
"""Answers that are made at the same time, while others wait for DynamoDB; to make them keeps one core busy."""
_BACKLOG = 1024
_GRACE_SECONDS = 5
"""What answers under way may take once the server is told to stop."""

_log = logging.getLogger(__name__)


class LocalApi:
    """An ASGI application: the API for these tables, and for the store at a URL if there is one."""

    def __init__(self, tables: KeyValueStore, store_url: str | None = None) -> None:
        links = open_links(store_url) if store_url else None
        app = make_app(tables, links)
        add_inchikey_routes(app)
        self._app: Resolver = app.sealed()
        self._files = links if isinstance(links, FolderLinks) else None
        self._threads: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_for_us(scope):
            message = f"this server is for this machine alone; ask it by the name localhost or {LOOPBACK}"
            await _send(scope, send, Problem(HTTPStatus.MISDIRECTED_REQUEST, "unknown_host", message).event())
            return
        file = self._files and scope["method"] in {"GET", "HEAD"} and self._files.find(scope["path"])
        if file:
            await _send_file(file, scope, receive, send)
            return
        body = await _read(scope, receive)
        if body is None:
            limit = MAX_BODY_BYTES // 1024**2
            message = f"the body is larger than {limit} MB; ask for less at a time"
            problem = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", message)
            await _send(scope, send, problem.event())
            return
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(_THREADS)
        await _send(scope, send, await run_sync(self._made, scope, body, limiter=self._threads))

    def _made(self, scope: Scope, body: bytes) -> dict[str, Any]:
        try:
            return answer(self._app, _event(scope, body), None)
        except Exception as error:  # noqa: BLE001 - nobody is above us but the server, which would answer in another form
            _log.exception("unexpected error: %r", error)
            return internal_error().event()


def serve(tables: KeyValueStore, store_url: str | None, port: int, announce: Callable[[str], None]) -> None:
    """Serve the API on loopback until the process is told to stop; 0 for a port that is free.

    `announce` is called with the URL once connections are taken. Raises UsageError for a port that cannot be used.
    """
    api = LocalApi(tables, store_url)
    # Errors alone: a line for each request would tell a person nothing, and take longer than many an answer.
    config = uvicorn.Config(
        api,
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=_BACKLOG,
    )
    with _listen(port) as listening:
        announce(f"http://{LOOPBACK}:{listening.getsockname()[1]}")
        # uvicorn ends by the signal that it was stopped with, once all is answered.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise UsageError(
            f"port {port} cannot be used: {reason}; choose another one, or 0 for any that is free"
        ) from None
    return listening


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def _is_for_us(scope: Scope) -> bool:
    """Return whether a request names this machine as its host, and no other one."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return bool(hosts) and all(map(_HOST.fullmatch, hosts))


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Return the body, None if it is too large.

    Most clients read no answer before they have sent all, and lose it when the connection is closed meanwhile. So what
    is too much is taken off the line, and forgotten, up to a limit; not from those who wait to be told to go on.
    """
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"")
    parts: list[bytes] | None = []
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        if int(declared) > _DISCARDED_BYTES or b"expect" in headers:
            return None
        parts = None
    size, more = 0, True
    while more and size <= _DISCARDED_BYTES:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if parts is not None:
            parts.append(part)
        if size > MAX_BODY_BYTES:
            parts = None
        more = message.get("more_body", False)
    return None if parts is None else b"".join(parts)


def _event(scope: Scope, body: bytes) -> dict[str, Any]:
    """Return the event that API Gateway makes of a request, see "Lambda proxy integrations" in its Developer Guide.

    A header of the request is text of whatever bytes it has; those that answers depend on are compared, not shown.
    """
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    query: dict[str, list[str]] = {}
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="replace")
    for name, value in pairs[:_MAX_PARAMETERS]:
        query.setdefault(name, []).append(value)
    path = scope["path"]
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": scope["method"],
        "headers": {name: ", ".join(values) for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "pathParameters": {"proxy": path.removeprefix("/")},
        "stageVariables": None,
        # No stage: paths here are those of the routes.
        "requestContext": {"path": path, "httpMethod": scope["method"], "stage": "$default", "identity": {}},
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


async def _send_file(file: Path, scope: Scope, receive: Receive, send: Send) -> None:
    refused: list[Message] = []

    async def send_if_good(message: Message) -> None:
        if refused or message.get("status", HTTPStatus.OK) >= HTTPStatus.BAD_REQUEST:
            refused.append(message)
        else:
            await send(message)

    headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    await FileResponse(file, media_type="application/vnd.apache.parquet", headers=headers)(scope, receive, send_if_good)
    if refused:
        # Starlette tells it as plain text.
        status = HTTPStatus(refused[0]["status"])
        size = {"Content-Range": f"bytes */{file.stat().st_size}"} if status != HTTPStatus.BAD_REQUEST else None
        problem = Problem(status, "bad_range", "the file has no such range; write range: bytes=0-1023", size)
        await _send(scope, send, problem.event())


async def _send(scope: Scope, send: Send, response: MutableMapping[str, Any]) -> None:
    status = response["statusCode"]
    # By HTTP these have no body, whatever a Lambda answers.
    bodiless = status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
    content: str = "" if bodiless else response["body"]
    body = base64.b64decode(content) if response["isBase64Encoded"] else content.encode()
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, values in response["multiValueHeaders"].items()
        for value in values
    ]
    # To HEAD, it would be the length of what is not sent.
    if not bodiless and scope["method"] != "HEAD":
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
