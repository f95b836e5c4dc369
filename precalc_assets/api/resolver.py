"""Powertools' resolver of API Gateway's events, made safe for several threads.

Powertools keeps the event that it answers, and what it finds out about it, in attributes of the class: in a Lambda
there is one event at a time. The same routes also answer the local server, where there are many. So each thread has
these to itself, the way that Powertools' own `HttpResolverLocal` gives them to each task.
"""

import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler.api_gateway import Route
    from aws_lambda_powertools.utilities.typing import LambdaContext


class _Current(threading.local):
    """What a thread is at work on."""

    event: APIGatewayProxyEvent | None = None
    lambda_context: Any = None

    def __init__(self) -> None:
        self.context: dict[str, Any] = {}
        self.frames: list[str] = []


class Resolver(APIGatewayRestResolver):
    """Finds the route that an event asks for, and calls it. May be used by several threads once it is `sealed`."""

    def __init__(self) -> None:
        self._current = _Current()
        super().__init__(
            enable_validation=True,
            # An answer of ours that is not what it should be is a defect, and not the reader's.
            response_validation_error_http_code=HTTPStatus.INTERNAL_SERVER_ERROR,
            # Whatever POWERTOOLS_DEV says: debugging would print events and answer with stack traces.
            debug=False,
        )

    @property
    def routes(self) -> "list[Route]":
        """All routes, in the order in which they are tried."""
        return self._static_routes + self._dynamic_routes

    @property
    def base_path(self) -> str:
        """What the current request's path had before that of the route: `/v1` for a stage of API Gateway, or empty."""
        return self._get_base_path()

    def sealed(self) -> "Resolver":
        """Return the resolver with its routes ready, as each of them would otherwise make itself at its first call."""
        for route in self.routes:
            route._build_middleware_stack(self._router_middlewares, self)
        return self

    def resolve(self, event: Mapping[str, Any], context: "LambdaContext | None") -> dict[str, Any]:
        """Answer one event."""
        self.current_event = cast(APIGatewayProxyEvent, self._to_proxy_event(dict(event)))
        self._current.lambda_context = context
        return super().resolve(event, cast("LambdaContext", context))

    @property  # type: ignore[override]
    def current_event(self) -> APIGatewayProxyEvent:
        """The event that this thread answers."""
        return cast(APIGatewayProxyEvent, self._current.event)

    @current_event.setter
    def current_event(self, event: APIGatewayProxyEvent) -> None:
        self._current.event = event

    @property
    def lambda_context(self) -> "LambdaContext":
        """What Lambda says of the call."""
        return cast("LambdaContext", self._current.lambda_context)

    @lambda_context.setter
    def lambda_context(self, context: "LambdaContext") -> None:
        self._current.lambda_context = context

    @property
    def context(self) -> dict[str, Any]:
        """The route of this thread's event, and the path's parameters."""
        return self._current.context

    @context.setter
    def context(self, context: dict[str, Any]) -> None:
        self._current.context = context

    @property
    def processed_stack_frames(self) -> list[str]:
        """The middlewares that this thread has gone through."""
        return self._current.frames

    @processed_stack_frames.setter
    def processed_stack_frames(self, frames: list[str]) -> None:
        self._current.frames = frames
