"""What all answers share: HEAD, validators, compression, the largest size, and the form of errors.

Pure ASGI, around the routes of all Lambdas and of the local server. What a single route answers does not belong here.
"""

import gzip
import json
import logging
import re
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precalc_assets.api.problems import Problem, answer_too_large, internal_error, unavailable, unknown_route
from precalc_assets.platform_errors import TableError

MAX_ANSWER_BYTES = 6 * 1024 * 1024 - 16 * 1024
"""The most that a Lambda may return, "Lambda quotas" in the AWS Lambda Developer Guide, less room for the headers."""

FRESH = "private, max-age=60"
"""An answer may be a minute old when it is made, see `CACHE_SECONDS`, so two at most. Private: readers need a key."""

_MIN_GZIP_BYTES = 1024
_GZIP_LEVEL = 5
"""1,000 rows of 10 floats take 8 ms, and 97 rows of 2,048 counts 10; with level 9 the latter take 740, for a tenth
less to send."""

_ACCEPTS_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|x-gzip)\s*(?:;\s*q=(?P<q>[01](?:\.\d{0,3})?)\s*)?(?=,|$)", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_GZIPPED = "-gzip"
"""Suffix of the compressed form's tag, since its bytes differ."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

VALIDATED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {
        "headers": {
            "ETag": {"description": "A digest of the answer.", "schema": {"type": "string"}},
            "Cache-Control": {"description": "How long the answer may be cached.", "schema": {"type": "string"}},
        }
    },
    HTTPStatus.NOT_MODIFIED.value: {"description": "The reader has this answer: `If-None-Match` names it."},
}
"""What OpenAPI says of an answer with validators."""

_log = logging.getLogger(__name__)


class AnswerMiddleware:
    """Answers HEAD as GET without the body, adds validators, compresses, and turns exceptions into our errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        head = scope["method"] == "HEAD"
        answer = _Answer()
        try:
            # A route's pattern would also match a path that ends in a line feed.
            if _CONTROL.search(scope["path"]):
                raise unknown_route()
            await self._app({**scope, "method": "GET"} if head else scope, receive, answer.receive)
        except Problem as problem:
            answer.replace(problem)
        except TableError as error:
            answer.replace(unavailable(error))
        except Exception as error:  # noqa: BLE001 - only the server is above us, and it would answer in another form
            _log.error("unexpected error: %r", error, exc_info=error)
            answer.replace(internal_error())
        finish = partial(answer.finish, asked, validated=scope["method"] in {"GET", "HEAD"})
        if len(answer.body) < _MIN_GZIP_BYTES:
            finish()
        else:
            await run_sync(finish)
        await answer.send(send, head=head)


@dataclass
class _Answer:
    """A whole answer, its headers by name in small letters. Files are sent past it: they may be large."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def receive(self, message: Message) -> None:
        """Take what a route sends."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")

    def replace(self, problem: Problem) -> None:
        """Become the answer for a problem."""
        response = problem.response()
        self.status, self.headers, self.body = response.status_code, dict(response.headers), bytes(response.body)

    def finish(self, asked: Headers, *, validated: bool) -> None:
        """Add what every answer has, compress it if the request accepts that, and check its size."""
        if self.status == HTTPStatus.OK:
            # For a small answer too, which may be a large one next time.
            self.headers["vary"] = ", ".join(filter(None, (self.headers.get("vary"), "Accept-Encoding")))
            if validated and "no-store" not in self.headers.get("cache-control", ""):
                self._add_validators(asked.get("if-none-match", ""))
        self.headers["x-content-type-options"] = "nosniff"
        compressed = self._compress(asked.get("accept-encoding", ""))
        if self._size_in_lambda(compressed=compressed) > MAX_ANSWER_BYTES:
            self.replace(answer_too_large())

    async def send(self, send: Send, *, head: bool) -> None:
        """Send the answer, to HEAD without its body."""
        bodiless = self.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
        if not bodiless:
            self.headers["content-length"] = str(len(self.body))
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head or bodiless else self.body})

    def _add_validators(self, if_none_match: str) -> None:
        """Add the answer's ETag; become a 304 if the reader has this answer already.

        The tag is a digest of the answer. The generation of a shard would do for its rows, but an answer also holds
        what the card says of the model, and the SMILES of another table: only the digest is exact.
        """
        self.headers.setdefault("cache-control", FRESH)
        tag = sha256(self.body).hexdigest()[:32]
        known = set(_TAG.findall(if_none_match))
        held = next((t for t in (tag, tag + _GZIPPED) if t in known), tag if if_none_match.strip() == "*" else None)
        if held is not None:
            kept = {name: self.headers[name] for name in ("cache-control", "vary")}
            self.status, self.headers, self.body = HTTPStatus.NOT_MODIFIED.value, kept, b""
        self.headers["etag"] = f'"{held or tag}"'

    def _compress(self, accepted: str) -> bool:
        wanted = _ACCEPTS_GZIP.search(accepted)
        if self.status != HTTPStatus.OK or len(self.body) < _MIN_GZIP_BYTES:
            return False
        if wanted is None or float(wanted["q"] or 1) == 0:
            return False
        self.body = gzip.compress(self.body, _GZIP_LEVEL, mtime=0)
        self.headers["content-encoding"] = "gzip"
        if "etag" in self.headers:
            self.headers["etag"] = f'{self.headers["etag"][:-1]}{_GZIPPED}"'
        return True

    def _size_in_lambda(self, *, compressed: bool) -> int:
        """Return the bytes of the body in a Lambda's answer: in base64 if it is compressed, else as a text in JSON."""
        # In JSON a byte takes up to six; most answers are far from where that matters.
        if len(self.body) * 6 <= MAX_ANSWER_BYTES:
            return len(self.body)
        return len(self.body) * 4 // 3 if compressed else len(json.dumps(self.body.decode()))
