"""What a reader is told when there is no answer: a status, a code for programs and a sentence for people."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver
from aws_lambda_powertools.event_handler.content_types import APPLICATION_JSON
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from precalc_assets.errors import TableError

_LONGEST = 40
"""Characters of a request that a message repeats; an InChIKey has 27."""

_LONGEST_MESSAGE = 320

_log = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - most of them are the request's, not errors of ours
    """The request cannot be answered; what it holds is sent to the reader as it is."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        # However long what it repeats of the request may be.
        self.message = message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 1]}…"
        self.headers = {**(headers or {}), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

    @property
    def body(self) -> str:
        """The JSON that is sent, `{"error": {"code", "message"}}`."""
        return json.dumps({"error": {"code": self.code, "message": self.message}})

    def response(self) -> Response[Any]:
        """Return what the resolver sends."""
        return Response(self.status, APPLICATION_JSON, self.body, headers=self.headers)

    def event(self) -> dict[str, Any]:
        """Return what a Lambda answers with."""
        return {
            "statusCode": self.status.value,
            "body": self.body,
            "isBase64Encoded": False,
            "multiValueHeaders": {n: [v] for n, v in {"Content-Type": APPLICATION_JSON, **self.headers}.items()},
        }


def unknown_model(model: str) -> Problem:
    """Return the problem of a model that nothing is served of, or that is no model id at all."""
    message = f"no predictions of {shortened(model)} are served; GET /models lists the models that are"
    return Problem(HTTPStatus.NOT_FOUND, "unknown_model", message)


def unavailable(error: TableError, model: str = "") -> Problem:
    """Return the problem of a table that cannot be read, which is logged. It names the model if there were several."""
    # Its message is for those who look after the tables: it may name files and commands.
    _log.error("%s", error)
    which, way = (f" of {model}", "name other models, or ") if model else ("", "")
    message = f"the predictions{which} cannot be read at the moment; {way}try again later"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message)


def internal_error() -> Problem:
    """Return the problem of a defect of ours, which is logged and not shown."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "something went wrong here; it is in our log")


def shortened(text: str) -> str:
    """Return a text of the request as a message may repeat it: quoted, and not at any length."""
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def add_problems(app: ApiGatewayResolver) -> None:
    """Make a resolver tell of all that goes wrong in our form; of a fault of ours, no more than that there is one."""
    app.exception_handler(Problem)(Problem.response)
    app.exception_handler(NotFoundError)(lambda _: _unknown_route(app).response())
    app.exception_handler(TableError)(lambda error: unavailable(error).response())
    app.exception_handler(Exception)(_defect)


def _unknown_route(app: ApiGatewayResolver) -> Problem:
    path: str = app.context["_path"]
    methods = {route.method for route in app._static_routes + app._dynamic_routes if route.rule.fullmatch(path)}
    if methods:
        # Those who ask for the head are answered by the route for GET.
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        message = f"this route is asked by {allowed}"
        return Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", message, {"Allow": allowed})
    return Problem(HTTPStatus.NOT_FOUND, "unknown_route", "there is no such route; GET /models is one that there is")


def _defect(error: Exception) -> Response[Any]:
    _log.error("unexpected error: %r", error, exc_info=error)
    return internal_error().response()
