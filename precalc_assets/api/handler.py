"""Lambda's way in: API Gateway REST proxy events, and what a Lambda may send back. The local server makes such events.

`PRECALC_TABLES_URL` and `PRECALC_STORE_URL` are the settings; they are read here, since a Lambda has no `.env` and
pydantic-settings would be one package more to carry. Without a store there are no links to files.
"""

import base64
import gzip
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from precalc_assets.api.caching import add_validators, add_vary, mark_compressed
from precalc_assets.api.documents import add_documents
from precalc_assets.api.files import FileLinks, add_file_routes, open_links
from precalc_assets.api.legacy import add_legacy_routes
from precalc_assets.api.pages import add_pages
from precalc_assets.api.problems import Problem, add_problems, internal_error
from precalc_assets.api.resolver import Resolver
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

_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|x-gzip)\s*(?:;\s*q=(?P<q>[01](?:\.\d{0,3})?)\s*)?(?=,|$)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_log = logging.getLogger(__name__)


def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one event of API Gateway."""
    try:
        return answer(_app(), event, context)
    except Exception:  # noqa: BLE001 - nobody is above us but Lambda, which would answer without an explanation
        _log.exception("unexpected error")
        return internal_error().event()


def make_app(tables: KeyValueStore, links: FileLinks | None = None) -> Resolver:
    """Return the resolver of API Gateway's events for these tables, and for the files that links can be made to.

    `POST /inchikeys` is not among its routes: it is a Lambda of its own, and `add_inchikey_routes` adds it elsewhere.
    Call `sealed` when there is nothing more to add.
    """
    app = Resolver()
    models = ServedModels(tables)
    add_routes(app, models)
    add_legacy_routes(app, models)
    add_file_routes(app, models, links)
    add_pages(app, models)
    add_documents(app)
    add_problems(app)
    return app


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


@cache
def _app() -> Resolver:
    url = os.environ.get("PRECALC_TABLES_URL")
    if not url:
        raise UsageError("PRECALC_TABLES_URL is not set; set it to the tables that are served")
    store = os.environ.get("PRECALC_STORE_URL")
    return make_app(open_tables(url), open_links(store) if store else None).sealed()


def _header(event: Mapping[str, Any], name: str) -> str:
    headers: Mapping[str, str] = event.get("headers") or {}
    return next((value for key, value in headers.items() if key.lower() == name and value), "")


# While a Lambda starts it has a whole core, so the tables are opened now; what fails is told by the first answer.
with suppress(PrecalcError):
    _app()
