"""FastAPI as our routes use it: with our middleware, and our form of the requests that FastAPI itself refuses.

All Lambdas build on it, so it imports neither tables, RDKit nor Arrow.
"""

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from precalc_assets.api.middleware import AnswerMiddleware
from precalc_assets.api.problems import (
    EVERYWHERE,
    Problem,
    bad_query,
    invalid_json,
    shortened,
    unknown_route,
    unsupported_media_type,
)
from precalc_assets.frozen_record import plain_reason


def new_app(origins: Sequence[str] = ()) -> FastAPI:
    """Return an application without routes. Web pages of these origins may call it; "*" is any origin."""
    app = FastAPI(
        telemetry={"tracing": False, "metrics": False, "logs": False},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        responses=EVERYWHERE,
        exception_handlers={HTTPException: _refuse, RequestValidationError: _refuse},
    )
    app.router.route_class = _CheckedRoute
    app.add_middleware(AnswerMiddleware)
    if origins:
        app.add_middleware(
            _CorsMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("content-type", "if-none-match", "x-api-key"),
            expose_headers=("content-disposition", "etag", "precalc-provenance", "retry-after"),
        )
    return app


class _CorsMiddleware(CORSMiddleware):
    """Starlette's middleware, but it refuses a preflight in our form."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a preflight."""
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        return Problem(HTTPStatus.BAD_REQUEST, "bad_preflight", bytes(response.body).decode()).response()


class _Request(Request):
    """A request whose body is JSON as in RFC 8259; Python's own parser also takes UTF-16 and lone surrogates."""

    async def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body. Raises ValueError if it is not JSON."""
        return from_json(await self.body())


class _CheckedRoute(APIRoute):
    """A route that refuses unknown and repeated query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        answer = super().get_route_handler()
        known = sorted(field.alias for field in self.dependant.query_params)

        async def checked(request: Request) -> Response:
            if known and request.scope["query_string"]:
                _check_query(request, known)
            return await answer(_Request(request.scope, request.receive))

        return checked


def _check_query(request: Request, known: Sequence[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise bad_query(f"the parameter {shortened(name)} is not known; this route takes {' and '.join(known)}")
        if names.count(name) > 1:
            raise bad_query(f"the parameter {name} is given {names.count(name):,} times; give it once")


async def _refuse(request: Request, error: Exception) -> NoReturn:
    """Raise the problem of a request that FastAPI itself refuses."""
    if isinstance(error, RequestValidationError):
        raise _invalid(error)
    if isinstance(error, HTTPException):
        raise _unroutable(request, error)
    raise error


def _invalid(error: RequestValidationError) -> Problem:
    """Return the problem of the first invalid parameter, or field of the body."""
    first = error.errors()[0]
    source, *place = map(str, first["loc"])
    if source == "query":
        expected = first.get("ctx", {}).get("expected", "").replace("'", "")
        return bad_query(f"{place[0]}={shortened(str(first['input']))} is not known; write {place[0]}={expected}")
    if isinstance(error.body, bytes):
        return unsupported_media_type()
    if first["type"] == "missing" and not place:
        return invalid_json()
    return Problem(HTTPStatus.BAD_REQUEST, "bad_request", f"{'.'.join(['body', *place])}: {plain_reason(first['msg'])}")


def _unroutable(request: Request, error: HTTPException) -> Problem:
    """Return the problem of a request without a route, or with a body that cannot be parsed."""
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return invalid_json()
    if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return unknown_route()
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    methods = {m for route in routes if route.matches(request.scope)[0] != Match.NONE for m in route.methods or ()}
    # HEAD is answered by the route for GET.
    allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    message = f"this route takes {allowed}"
    return Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", message, {"Allow": allowed})
