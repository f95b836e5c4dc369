"""The API on this machine: the routes of all Lambdas, served by uvicorn.

For a store in a folder it also sends its files, by Starlette, which supports ranges.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import uvicorn
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precalc_assets.api.answers import CSV
from precalc_assets.api.application import make_app
from precalc_assets.api.drawings import add_drawing_route
from precalc_assets.api.files import FolderLinks, open_links
from precalc_assets.api.inchikeys import add_inchikey_routes
from precalc_assets.api.limits import ImpatientProtocol, Limits
from precalc_assets.api.problems import Problem
from precalc_assets.api.row_reading import add_row_reading
from precalc_assets.api.screens import Screen
from precalc_assets.platform_errors import UsageError
from precalc_assets.tables import KeyValueStore

LOOPBACK = "127.0.0.1"

_BACKLOG = 1024
_GRACE_SECONDS = 5
"""How long running requests may take after the server is told to stop."""


def make_local_app(
    tables: KeyValueStore,
    store_url: str | None = None,
    origins: Sequence[str] = (),
    screen: Screen | None = None,
) -> ASGIApp:
    """Return the API for these tables and the store at a URL, within `Limits`.

    Web pages of these origins may call it. `screen` answers screens.
    """
    links = open_links(store_url) if store_url else None
    app = make_app(tables, links, origins, screen)
    add_inchikey_routes(app)
    add_row_reading(app)
    add_drawing_route(app)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_get = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        file = links.find(scope["path"]) if is_get and isinstance(links, FolderLinks) else None
        if file:
            await _send_file(file, scope, receive, send)
        else:
            await app(scope, receive, send)

    return Limits(answer)


async def _send_file(file: Path, scope: Scope, receive: Receive, send: Send) -> None:
    refused: list[Message] = []

    async def send_if_good(message: Message) -> None:
        if refused or message.get("status", HTTPStatus.OK) >= HTTPStatus.BAD_REQUEST:
            refused.append(message)
        else:
            await send(message)

    headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    kind = CSV if file.suffix == ".csv" else "application/vnd.apache.parquet"
    await FileResponse(file, media_type=kind, headers=headers)(scope, receive, send_if_good)
    if refused:
        # Starlette sends the error as plain text.
        status = HTTPStatus(refused[0]["status"])
        size = {"Content-Range": f"bytes */{file.stat().st_size}"} if status != HTTPStatus.BAD_REQUEST else None
        problem = Problem(status, "bad_range", "the file has no such range; write range: bytes=0-1023", size)
        await problem.response()(scope, receive, send)


def serve(app: ASGIApp, port: int, announce: Callable[[str], None]) -> None:
    """Serve an application on loopback until the process is told to stop; port 0 is any free port.

    `announce` is called with the URL once the server accepts connections. Raises UsageError for an unusable port.
    """
    # Only errors are logged: a line for each request would take longer than many an answer.
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=_BACKLOG,
    )
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
            listening.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise UsageError(
                f"port {port} cannot be used: {reason}; choose another one, or 0 for any that is free"
            ) from None
        announce(f"http://{LOOPBACK}:{listening.getsockname()[1]}")
        # After the last answer, uvicorn raises the signal that stopped it.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
