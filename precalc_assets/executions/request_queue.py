"""The queue of requests: models that people ask for. Each is an object in the store.

A request is renamed when it is met, so listing the queue costs what is in it.

    requests/<id>.json        a request that waits    whoever asks, once
    requests/met/<id>.json    the same, met           the sensor `precalculation_requests`
"""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

import obstore
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict, Field

from precalc.identifiers import check_model_id, is_model_id
from precalc_assets import storage
from precalc_assets.json_records import Slot
from precalc_assets.platform_errors import ExecutionError


class Request(BaseModel):
    """A model that somebody asks for; with `sample`, only its canary on that many molecules."""

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    sample: int | None = Field(default=None, ge=1)
    requested_at: datetime


def put_request(store: ObjectStore, model: str, sample: int | None = None) -> Request:
    """Ask for all shards of a model, or for its canary. Raises UsageError for a malformed model id."""
    now = datetime.now(UTC)
    request_id = f"{now:%Y%m%dT%H%M%S}-{check_model_id(model)}-{secrets.token_hex(4)}"
    request = Request(id=request_id, model=model, sample=sample, requested_at=now)
    _slot(store, request_id).create(request)
    return request


def pending_requests(store: ObjectStore) -> Iterator[str]:
    """Yield the ids of the requests that wait, oldest first."""
    for entry in sorted(obstore.list_with_delimiter(store, storage.REQUESTS)["objects"], key=lambda e: e["path"]):
        yield entry["path"].rpartition("/")[2].removesuffix(".json")


def read_request(store: ObjectStore, request_id: str) -> Request | None:
    """Return a request, or None if it was met meanwhile. Raises ExecutionError if it is malformed."""
    slot = _slot(store, request_id)
    request = slot.read()
    if request and not is_model_id(request.model):
        raise ExecutionError(f"{slot.name} asks for {request.model!r}, which is not a model id; {slot.remedy}")
    return request


def meet_request(store: ObjectStore, request_id: str) -> None:
    """Mark a request as met. A request that was met before stays as it is."""
    try:
        obstore.rename(store, storage.request(request_id), storage.met_request(request_id))
    except FileNotFoundError:
        return


def _slot(store: ObjectStore, request_id: str) -> Slot[Request]:
    return Slot(store, storage.request(request_id), Request, ExecutionError, "delete it")
