"""The hub's registry: the list of all its models with their metadata, and which of them may be computed.

It is the JSON file that the hub's own tools read, by default on S3. What a model's own folder says belongs to `folder`.
"""

import hashlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from obstore.store import ObjectStore
from pydantic import Field, ValidationError, WrapValidator

from precalc_assets.adoption_record import same_major
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.frozen_record import FrozenRecord, first_fault
from precalc_assets.json_records import ModelId, ReplaceableSlot
from precalc_assets.model_metadata import ModelMetadata, or_none
from precalc_assets.models.folder import drop_empty
from precalc_assets.models.policy import metadata_warnings, online_refusal
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.settings import Settings
from precalc_assets.storage import HUB_MODELS

_MOST_BYTES = 16 << 20
"""The registry of 270 models has about 1 MB."""

_SECONDS = 30.0
"""Timeout of the download; a tick of a sensor has 60 s."""

_COMPUTABLE = ("ready", "in maintenance")
"""Statuses of models that run. The hub's others are *In progress* and *Archived*."""

_Published = Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, WrapValidator(or_none)]
"""A measurement of the hub; where there is none, its registry has -1."""


class HubModel(ModelMetadata):
    """A model in the registry. The hub measured how many seconds it takes over so many molecules, with its start."""

    identifier: ModelId = Field(alias="Identifier")
    title: str = Field(default="", alias="Title")
    slug: str = Field(default="", alias="Slug")
    model_megabytes: _Published = Field(default=None, alias="Model Size")
    seconds_for_100: _Published = Field(default=None, alias="Computational Performance 3")
    seconds_for_1000: _Published = Field(default=None, alias="Computational Performance 4")
    seconds_for_10000: _Published = Field(default=None, alias="Computational Performance 5")

    @property
    def seconds_per_molecule(self) -> float | None:
        """The published speed: that of the longest measurement, whose start is the smallest share of it."""
        for molecules in (10_000, 1_000, 100):
            seconds: float | None = getattr(self, f"seconds_for_{molecules}")
            if seconds:
                return seconds / molecules
        return None

    def refusal(self, settings: Settings) -> str:
        """Return why the model is not computed with the whole hub; empty if it may be."""
        if self.status.lower() not in _COMPUTABLE:
            return f"its status in the hub is {self.status or 'missing'!r}"
        if self.output_consistency.lower() == "variable" and not settings.allow_variable:
            return (
                "its predictions vary between runs (Output Consistency: Variable); set PRECALC_ALLOW_VARIABLE=true to "
                "store those of one run"
            )
        return online_refusal(self.identifier, self, settings)

    def row(self, settings: Settings) -> dict[str, str]:
        """Return what a table of models shows of this one; its note says why it is not computed, or what to know."""
        refusal, speed = self.refusal(settings), self.seconds_per_molecule
        return {
            "model": self.identifier,
            "title": self.title,
            "status": self.status,
            "release": self.release,
            "source": self.source,
            "consistency": self.output_consistency,
            "license": self.license,
            "MB": _figure(self.model_megabytes),
            "image MB": _figure(self.image_megabytes),
            "ms/molecule": _figure(1000 * speed if speed else None),
            "note": f"not computed: {refusal}" if refusal else "; ".join(metadata_warnings(self)),
        }


class HubRegistry(FrozenRecord):
    """The registry as read: its models by id, and why other entries cannot be read. The store keeps the last one."""

    source: str
    read_at: datetime
    models: tuple[HubModel, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the models."""
        return hashlib.sha256("".join(model.model_dump_json() for model in self.models).encode()).hexdigest()[:16]

    def computable(self, settings: Settings) -> list[str]:
        """Return the ids of the models that may be computed."""
        return [model.identifier for model in self.models if not model.refusal(settings)]

    def describe(self, settings: Settings) -> str:
        """Return the counts in a sentence."""
        computed = len(self.computable(settings))
        unreadable = f"; entries that cannot be read: {len(self.unreadable)}" if self.unreadable else ""
        return f"{len(self.models):,} models, of which {computed:,} may be computed{unreadable}"


def read_registry(settings: Settings) -> HubRegistry:
    """Read the registry. Raises PrecalcError if it cannot be read as a whole."""
    source = settings.hub_registry
    try:
        is_url = source.startswith(("https://", "http://"))
        content = _download(source) if is_url else read_foreign(Path(source).expanduser(), _MOST_BYTES)
        entries = json.loads(content.decode("utf-8-sig"), parse_int=str, parse_float=str)
        if not isinstance(entries, list):
            raise ValueError("it is not a list of models")
    except (ForeignFileError, OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise PrecalcError(
            f"the hub's registry {source} cannot be read: {why}; set PRECALC_HUB_REGISTRY to the URL or the path of "
            "its JSON"
        ) from None
    models: dict[str, HubModel] = {}
    unreadable = []
    for number, entry in enumerate(entries, 1):
        try:
            model = HubModel.model_validate(drop_empty(entry))
        except ValidationError as error:
            unreadable.append(f"entry {number} ({_name(entry)}): {first_fault(error)}")
            continue
        if model.identifier in models:
            unreadable.append(f"entry {number} ({model.identifier}): an entry before it has the same identifier")
        models.setdefault(model.identifier, model)
    by_id = tuple(model for _, model in sorted(models.items()))
    return HubRegistry(source=source, read_at=datetime.now(UTC), models=by_id, unreadable=tuple(unreadable))


def stored_registry(store: ObjectStore) -> ReplaceableSlot[HubRegistry]:
    """Return the slot of the registry that was read last."""
    return ReplaceableSlot(store, HUB_MODELS, HubRegistry, PrecalcError, "delete it, and materialise hub_models")


def list_changes(before: HubRegistry, after: HubRegistry) -> list[str]:
    """Return a line on each model that is new, is gone, or has another status or release."""
    known = {model.identifier: model for model in before.models}
    lines = []
    for model in after.models:
        old = known.pop(model.identifier, None)
        if old is None:
            lines.append(f"{model.identifier} is new: {model.status}, {model.release or 'no release'}")
            continue
        if old.status != model.status:
            lines.append(f"{model.identifier} is {model.status}, and was {old.status}")
        if old.release != model.release:
            stays = same_major(old.release, model.release)
            rule = "by the hub's rule its predictions stay" if stays else "its predictions may change"
            lines.append(f"{model.identifier} has release {model.release}, after {old.release or 'none'}: {rule}")
    return [*lines, *(f"{model} is gone" for model in known)]


def _download(url: str) -> bytes:
    """Return what a URL answers. Raises ValueError that says why it cannot be read."""
    import httpx  # a tenth of a second, and Dagster's definitions need none of it

    ends = time.monotonic() + _SECONDS
    content = bytearray()
    # httpx decompresses without a bound, so the answer must not be compressed.
    headers = {"Accept-Encoding": "identity"}
    try:
        with httpx.stream("GET", url, headers=headers, timeout=_SECONDS, follow_redirects=True) as answer:
            if not answer.is_success:
                raise ValueError(f"HTTP status {answer.status_code} {answer.reason_phrase}")
            for chunk in answer.iter_raw():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise ValueError(f"it has more than {_MOST_BYTES >> 20} MB")
                if time.monotonic() > ends:
                    raise ValueError(f"it took longer than {_SECONDS:.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{error}" or type(error).__name__) from None
    return bytes(content)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _name(entry: object) -> str:
    return str(entry.get("Identifier", "without identifier"))[:40] if isinstance(entry, dict) else "not an object"
