"""Events of API Gateway, answered by an ASGI application through Mangum: the entrance of all Lambdas."""

import binascii
import logging
import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from mangum import Mangum
from starlette.types import ASGIApp, Receive, Scope, Send

from precalc_assets.api.problems import Problem, internal_error, invalid_json
from precalc_assets.platform_errors import UsageError

_PREFIX = re.compile(r"(/[\w.~-]+)*", re.ASCII)

_log = logging.getLogger(__name__)


def answer_event(find_app: Callable[[], ASGIApp], event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer one event in our form, even if it is malformed or there is no application."""
    try:
        app = find_app()

        async def staged(scope: Scope, receive: Receive, send: Send) -> None:
            prefix = _stage_prefix(event, scope["path"])
            await app({**scope, "root_path": prefix, "path": prefix + scope["path"]}, receive, send)

        # API Gateway adds its own.
        return Mangum(staged, lifespan="off", exclude_headers=["content-length"])(event, context)  # type: ignore[arg-type]
    except binascii.Error:
        return _refused(invalid_json())
    except Exception:  # noqa: BLE001 - only Lambda is above us, and it would answer without an explanation
        _log.exception("unexpected error")
        return _refused(internal_error())


def required_setting(name: str) -> str:
    """Return an environment variable. Raises UsageError if it is not set."""
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set; set it to what this Lambda serves")
    return value


def cors_origins() -> list[str]:
    """Return the origins in PRECALC_CORS_ORIGINS."""
    return [origin for origin in os.environ.get("PRECALC_CORS_ORIGINS", "").split(",") if origin]


def _stage_prefix(event: dict[str, Any], path: str) -> str:
    """Return the part of the browser's URL before our routes: a stage's `/v1`, or nothing.

    API Gateway removes the stage from the event's path; the request's context has the whole path, encoded.
    """
    known = unquote(str(event["requestContext"].get("path") or ""))
    prefix = known.rstrip("/").removesuffix(path.rstrip("/"))
    return prefix if known.rstrip("/") == prefix + path.rstrip("/") and _PREFIX.fullmatch(prefix) else ""


def _refused(problem: Problem) -> dict[str, Any]:
    response = problem.response()
    return {
        "statusCode": response.status_code,
        "headers": dict(response.headers),
        "multiValueHeaders": {},
        "body": bytes(response.body).decode(),
        "isBase64Encoded": False,
    }
