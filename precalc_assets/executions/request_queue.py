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
from pydantic import Field

from precalc.identifiers import check_model_id
from precalc_assets import storage
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.json_records import ModelId, Slot
from precalc_assets.platform_errors import ExecutionError


class Request(FrozenRecord):
    """A model that somebody asks for; with `sample`, only its canary on that many molecules."""

    id: str
    model: ModelId
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
    for entry in sorted(storage.list_folder(store, storage.REQUESTS)["objects"], key=lambda e: e["path"]):
        yield entry["path"].rpartition("/")[2].removesuffix(".json")


def read_request(store: ObjectStore, request_id: str) -> Request | None:
    """Return a request, or None if it was met meanwhile. Raises ExecutionError if it is malformed."""
    return _slot(store, request_id).read()


def meet_request(store: ObjectStore, request_id: str) -> None:
    """Mark a request as met. A request that was met before stays as it is."""
    try:
        obstore.rename(store, _slot(store, request_id).name, f"{storage.REQUESTS}/met/{request_id}.json")
    except FileNotFoundError:
        return


def _slot(store: ObjectStore, request_id: str) -> Slot[Request]:
    return Slot(store, f"{storage.REQUESTS}/{request_id}.json", Request, ExecutionError, "delete it")
