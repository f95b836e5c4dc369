"""One event of API Gateway's proxy integration, answered by a resolver: what both Lambdas and the local server share.

What is the same for every answer belongs here: HEAD, validators, compression, and how large an answer may be.
"""

import base64
import gzip
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from precalc_assets.api.caching import add_validators, add_vary, mark_compressed
from precalc_assets.api.problems import Problem
from precalc_assets.api.resolver import Resolver

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

MAX_ANSWER_BYTES = 6 * 1024 * 1024 - 16 * 1024
"""What a Lambda may answer with, "Lambda quotas" in the AWS Lambda Developer Guide, less room for the headers."""

_MIN_GZIP_BYTES = 1024
_GZIP_LEVEL = 5
"""1,000 rows of 10 floats take 8 ms, and 97 rows of 2,048 counts 10; with level 9 the latter take 740, for a tenth
less to send. So Powertools' own compression, which is always level 9, is not used."""

_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|x-gzip)\s*(?:;\s*q=(?P<q>[01](?:\.\d{0,3})?)\s*)?(?=,|$)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def answer(app: Resolver, event: Mapping[str, Any], context: "LambdaContext | None") -> dict[str, Any]:
    """Answer one event by a resolver, compressed if that is accepted, and no larger than a Lambda may answer.

    HEAD is answered by the route for GET, without a body. May be called by several threads.
    """
    method = event["httpMethod"].upper()
    head = method == "HEAD"
    if _CONTROL.search(event["path"]):
        # A pattern's end is also before a line feed, so a route might be found for it.
        response = Problem(HTTPStatus.NOT_FOUND, "unknown_route", "there is no such route").event()
    else:
        response = app.resolve({**event, "httpMethod": "GET"} if head else event, context)
    response["body"] = response["body"] or ""
    if response["statusCode"] in {HTTPStatus.OK, HTTPStatus.NOT_MODIFIED}:
        # Of a small answer too, which might be a large one the next time.
        add_vary(response, "Accept-Encoding")
    if method in {"GET", "HEAD"}:
        response = add_validators(response, _header(event, "if-none-match"))
    response["multiValueHeaders"]["X-Content-Type-Options"] = ["nosniff"]
    _compress(response, _header(event, "accept-encoding"))
    # As JSON, quotes and everything beyond ASCII take more than a byte; most answers are far from where that matters.
    if len(response["body"]) > MAX_ANSWER_BYTES // 6 and len(json.dumps(response["body"])) > MAX_ANSWER_BYTES:
        message = "the answer is too large; ask for fewer at a time, or accept gzip"
        response = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "answer_too_large", message).event()
    return {**response, "body": "", "isBase64Encoded": False} if head else response


def _compress(response: dict[str, Any], accepted: str) -> None:
    if response["statusCode"] != HTTPStatus.OK or response["isBase64Encoded"]:
        return
    wanted = _GZIP.search(accepted)
    if len(response["body"]) < _MIN_GZIP_BYTES or wanted is None or float(wanted["q"] or 1) == 0:
        return
    content = gzip.compress(response["body"].encode(), _GZIP_LEVEL, mtime=0)
    response["body"] = base64.b64encode(content).decode()
    response["isBase64Encoded"] = True
    response["multiValueHeaders"]["Content-Encoding"] = ["gzip"]
    mark_compressed(response)


def _header(event: Mapping[str, Any], name: str) -> str:
    headers: Mapping[str, str] = event.get("headers") or {}
    return next((value for key, value in headers.items() if key.lower() == name and value), "")
