"""Lambda's way in: API Gateway REST proxy events, and what a Lambda may send back.

`PRECALC_TABLES_URL` is the one setting; it is read here, since a Lambda has no `.env` and pydantic-settings would be
one package more to carry.
"""

import base64
import gzip
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.event_handler import APIGatewayRestResolver

from precalc_assets.api.problems import Problem, internal_error
from precalc_assets.api.routes import add_routes
from precalc_assets.api.served import ServedModels
from precalc_assets.errors import PrecalcError, UsageError
from precalc_assets.tables import KeyValueStore, open_tables

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

MAX_ANSWER_BYTES = 6 * 1024 * 1024 - 16 * 1024
"""What a Lambda may answer with, "Lambda quotas" in the AWS Lambda Developer Guide, less room for the headers."""

_MIN_GZIP_BYTES = 1024
_GZIP_LEVEL = 5
"""1,000 rows of 10 floats take 8 ms, and 97 rows of 2,048 counts 10; with level 9 the latter take 740, for a tenth
less to send. So Powertools' own compression, which is always level 9, is not used."""

_log = logging.getLogger(__name__)


def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one event of API Gateway."""
    try:
        return answer(_app(), event, context)
    except Exception:  # noqa: BLE001 - nobody is above us but Lambda, which would answer without an explanation
        _log.exception("unexpected error")
        return _sent(internal_error())


def make_app(tables: KeyValueStore) -> APIGatewayRestResolver:
    """Return the resolver of API Gateway's events for these tables."""
    app = APIGatewayRestResolver(
        enable_validation=True,
        # An answer of ours that is not what it should be is a defect, and not the reader's.
        response_validation_error_http_code=HTTPStatus.INTERNAL_SERVER_ERROR,
        # Whatever POWERTOOLS_DEV says: debugging would print events and answer with stack traces.
        debug=False,
    )
    add_routes(app, ServedModels(tables))
    return app


def answer(app: APIGatewayRestResolver, event: Mapping[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one event by a resolver, compressed if that is accepted, and no larger than a Lambda may answer."""
    response = app.resolve(event, context)
    body = response["body"] or ""
    if len(body) >= _MIN_GZIP_BYTES and "gzip" in _header(event, "accept-encoding").lower():
        content = gzip.compress(body.encode(), _GZIP_LEVEL, mtime=0)
        response["body"] = base64.b64encode(content).decode()
        response["isBase64Encoded"] = True
        response["multiValueHeaders"]["Content-Encoding"] = ["gzip"]
    # As JSON, quotes and everything beyond ASCII take more than a byte; most answers are far from where that matters.
    if len(response["body"]) > MAX_ANSWER_BYTES // 6 and len(json.dumps(response["body"])) > MAX_ANSWER_BYTES:
        message = "the answer is too large; ask for fewer InChIKeys at a time, or accept gzip"
        return _sent(Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "answer_too_large", message))
    return response


@cache
def _app() -> APIGatewayRestResolver:
    url = os.environ.get("PRECALC_TABLES_URL")
    if not url:
        raise UsageError("PRECALC_TABLES_URL is not set; set it to the tables that are served")
    return make_app(open_tables(url))


def _header(event: Mapping[str, Any], name: str) -> str:
    headers: Mapping[str, str] = event.get("headers") or {}
    return next((value for key, value in headers.items() if key.lower() == name and value), "")


def _sent(problem: Problem) -> dict[str, Any]:
    return {
        "statusCode": problem.status.value,
        "body": problem.body,
        "isBase64Encoded": False,
        "multiValueHeaders": {"Content-Type": ["application/json"], "Cache-Control": ["no-store"]},
    }


# While a Lambda starts it has a whole core, so the tables are opened now; what fails is told by the first answer.
with suppress(PrecalcError):
    _app()
