"""Handlers of botocore's events that check a DynamoDB store's requests, answer them, or withhold items."""

import io
import json
from collections.abc import Callable

from botocore.awsrequest import AWSRequest, AWSResponse

from precalc_assets.tables.dynamodb import DynamoDBStore

Answer = tuple[int, dict[str, object]]


def register(store: DynamoDBStore, event: str, operation: str, handler: Callable[..., object]) -> None:
    """Call a handler at an event of each of an operation's requests (botocore, "Event system")."""
    store._client.meta.events.register(f"{event}.dynamodb.{operation}", handler)


def check_batches(store: DynamoDBStore) -> None:
    """Refuse requests that AWS refuses and moto accepts: too many items, too many bytes, and duplicate keys."""

    def check_writes(params, **_):
        (requests,) = params["RequestItems"].values()
        keys = [
            (r["PutRequest"]["Item"] if "PutRequest" in r else r["DeleteRequest"]["Key"])["key"]["S"] for r in requests
        ]
        assert 1 <= len(keys) == len(set(keys)) <= 25
        assert len(json.dumps(requests, default=lambda value: value.hex())) < 16 << 20

    def check_reads(params, **_):
        (request,) = params["RequestItems"].values()
        keys = [key["key"]["S"] for key in request["Keys"]]
        assert 1 <= len(keys) == len(set(keys)) <= 100

    register(store, "before-parameter-build", "BatchWriteItem", check_writes)
    register(store, "before-parameter-build", "BatchGetItem", check_reads)


def answer(store: DynamoDBStore, operation: str, choose: Callable[[AWSRequest], Answer | None]) -> None:
    """Answer requests in AWS's place with a status and a body; None forwards them."""

    def respond(request, **_):
        chosen = choose(request)
        if chosen is None:
            return None
        status, body = chosen
        headers = {"content-type": "application/x-amz-json-1.0"}
        return AWSResponse(request.url, status, headers, _Raw(json.dumps(body).encode()))

    register(store, "before-send", operation, respond)


def error(status: int, code: str) -> Answer:
    return status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": f"a test says {code}"}


def leave_half(store: DynamoDBStore) -> None:
    """Process half of each batch of two or more and report the rest as unprocessed, as DynamoDB does at its limits.

    No emulator does.
    """

    def withhold(params, context, **_):
        ((table, request),) = params["RequestItems"].items()
        is_read = isinstance(request, dict)
        entries = request["Keys"] if is_read else request
        kept, rest = entries[: max(1, len(entries) // 2)], entries[max(1, len(entries) // 2) :]
        context["left"] = {table: {**request, "Keys": rest} if is_read else rest} if rest else {}
        return {**params, "RequestItems": {table: {**request, "Keys": kept} if is_read else kept}}

    def admit(parsed, context, **_):
        parsed["UnprocessedKeys" if "Responses" in parsed else "UnprocessedItems"] = context["left"]

    for operation in ("BatchWriteItem", "BatchGetItem"):
        register(store, "provide-client-params", operation, withhold)
        register(store, "after-call", operation, admit)


class _Raw(io.BytesIO):
    """A body as urllib3 gives it."""

    def stream(self, *_args, **_options):
        while chunk := self.read():
            yield chunk
