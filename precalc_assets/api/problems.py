"""What a reader is told when there is no answer: a status, a code for programs and a sentence for people."""

import json
import logging
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver
from aws_lambda_powertools.event_handler.content_types import APPLICATION_JSON
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from precalc_assets.errors import TableError

_LONGEST = 40
"""Characters of a request that a message repeats; an InChIKey has 27."""

_log = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - most of them are the request's, not errors of ours
    """The request cannot be answered; what it holds is sent to the reader as it is."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    @property
    def body(self) -> str:
        """The JSON that is sent, `{"error": {"code", "message"}}`."""
        return json.dumps({"error": {"code": self.code, "message": self.message}})

    def response(self) -> Response[Any]:
        """Return what the resolver sends."""
        return Response(self.status, APPLICATION_JSON, self.body, headers={"Cache-Control": "no-store"})


def unknown_model(model: str) -> Problem:
    """Return the problem of a model that nothing is served of, or that is no model id at all."""
    message = f"no predictions of {shortened(model)} are served; GET /models lists the models that are"
    return Problem(HTTPStatus.NOT_FOUND, "unknown_model", message)


def internal_error() -> Problem:
    """Return the problem of a defect of ours, which is logged and not shown."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "something went wrong here; it is in our log")


def shortened(text: str) -> str:
    """Return a text of the request as a message may repeat it: quoted, and not at any length."""
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def add_problems(app: ApiGatewayResolver) -> None:
    """Make a resolver tell of all that goes wrong in our form; of a fault of ours, no more than that there is one."""
    app.exception_handler(Problem)(Problem.response)
    app.exception_handler(NotFoundError)(lambda _: _unknown_route().response())
    app.exception_handler(TableError)(_unavailable)
    app.exception_handler(Exception)(_defect)


def _unknown_route() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown_route", "there is no such route; GET /models is one that there is")


def _unavailable(error: TableError) -> Response[Any]:
    # Its message is for those who look after the tables: it may name files and commands.
    _log.error("%s", error)
    message = "the predictions cannot be read at the moment; try again later"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message).response()


def _defect(error: Exception) -> Response[Any]:
    _log.error("unexpected error", exc_info=error)
    return internal_error().response()
