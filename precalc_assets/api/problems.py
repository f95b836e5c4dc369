"""Errors as the API reports them: a status, a code for programs and a sentence for people.

Problems that several routes share are defined here. Routes raise them and the OpenAPI document shows them, so both have
the same sentences.
"""

import json
import logging
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from precalc_assets.platform_errors import TableError

_LONGEST = 40
"""Characters of a request that a message repeats; an InChIKey has 27."""

_LONGEST_MESSAGE = 320

_NAMED = 5
"""Unknown models that a message names; the others are counted."""

_RETRY_AFTER = {HTTPStatus.TOO_MANY_REQUESTS: "5", HTTPStatus.SERVICE_UNAVAILABLE: "10"}
"""Seconds after which a client may try again."""

_log = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - most are mistakes in the request, not errors of ours
    """The request cannot be answered. The reader gets the status, the code and the message."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        # The message may repeat long parts of the request.
        self.message = message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 1]}…"
        self.headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
        if status in _RETRY_AFTER:
            self.headers["Retry-After"] = _RETRY_AFTER[status]

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The body of the answer: `{"error": {"code", "message"}}`."""
        return {"error": {"code": self.code, "message": self.message}}

    def response(self) -> Response:
        """Return the answer."""
        return Response(json.dumps(self.body), self.status, self.headers, "application/json")


# Problems that are always alike. Each call returns a new one, since an exception keeps its traceback.
unknown_route = partial(
    Problem, HTTPStatus.NOT_FOUND, "unknown_route", "there is no such route; GET /models is one that there is"
)
invalid_json = partial(Problem, HTTPStatus.BAD_REQUEST, "invalid_json", "the body is not JSON in UTF-8")
unsupported_media_type = partial(
    Problem,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unsupported_media_type",
    "the body has to be JSON, and the header content-type: application/json",
)
request_timeout = partial(
    Problem,
    HTTPStatus.REQUEST_TIMEOUT,
    "request_timeout",
    "the body has not arrived in time; send it again",
    {"Connection": "close"},
)
too_many = partial(Problem, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
body_too_large = partial(too_many, "body_too_large", "the body is larger than 10 MB; ask for less at a time")
answer_too_large = partial(
    too_many, "answer_too_large", "the answer is too large; ask for fewer at a time, or accept gzip"
)
unknown_column = partial(Problem, HTTPStatus.NOT_FOUND, "unknown_column")
not_acceptable = partial(
    Problem, HTTPStatus.NOT_ACCEPTABLE, "not_acceptable", "answers come as application/json or text/csv"
)
bad_query = partial(Problem, HTTPStatus.BAD_REQUEST, "bad_query")
internal_error = partial(
    Problem, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "something went wrong here; it is in our log"
)


class ErrorDetail(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """Every error, whatever its status."""

    error: ErrorDetail


def refusals(*problems: Problem) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of these problems: the responses by status, with an example for each code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({problem.status for problem in problems}):
        examples = {problem.code: {"value": problem.body} for problem in problems if problem.status == status}
        responses[status.value] = {
            "model": ErrorAnswer,
            "description": f"{status.phrase}: {', '.join(f'`{code}`' for code in examples)}",
            "content": {"application/json": {"examples": examples}},
        }
    return responses


def body_refusals(*problems: Problem) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route with a body: these problems, and those of any body."""
    missing = Problem(HTTPStatus.BAD_REQUEST, "bad_request", "body.inchikeys: Field required")
    return refusals(*problems, invalid_json(), missing, unsupported_media_type(), body_too_large())


def unknown_model(*models: str) -> Problem:
    """Return the problem of models that are not served, or whose ids are malformed."""
    more = f" and {len(models) - _NAMED:,} more" if len(models) > _NAMED else ""
    names = ", ".join(map(shortened, models[:_NAMED])) + more
    message = f"no predictions of {names} are served; GET /models lists the models that are"
    return Problem(HTTPStatus.NOT_FOUND, "unknown_model", message)


def malformed_inchikey(text: str) -> Problem:
    """Return the problem of a text that is no InChIKey."""
    message = f"{text} is not an InChIKey; it has 27 characters, like BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
    return Problem(HTTPStatus.BAD_REQUEST, "malformed_inchikey", message)


def unavailable(error: TableError | None = None, model: str = "") -> Problem:
    """Log the error, and return the problem of a table that cannot be read. The message names the model if given."""
    if error:
        # The error's own message is for maintainers: it may name files and commands.
        _log.error("%s", error)
    which, way = (f" of {model}", "name other models, or ") if model else ("", "")
    message = f"the predictions{which} cannot be read at the moment; {way}try again later"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message)


def shortened(text: str) -> str:
    """Return a text of the request as messages repeat it: quoted and cut."""
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


EVERYWHERE = refusals(
    Problem(HTTPStatus.FORBIDDEN, "invalid_api_key", "send a key that is valid in the header x-api-key"),
    request_timeout(),
    Problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", "too many requests at a time; try again in a second"),
    Problem(HTTPStatus.TOO_MANY_REQUESTS, "quota_exceeded", "the key has used up its requests of this month"),
    internal_error(),
)
"""The problems of every route."""
