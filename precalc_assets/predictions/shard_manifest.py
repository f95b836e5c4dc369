"""The manifest of a shard's raw predictions: written last, it makes them exist. Reading parts goes through it."""

import gzip
import hashlib
from datetime import datetime
from functools import cached_property

import obstore
import polars as pl
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column
from precalc_assets.json_records import Slot
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.cells import read_cells


class PartInfo(BaseModel):
    """One object with raw predictions: gzipped CSV, `key,input,quarantine` and the model's columns, as printed.

    `key` is the InChIKey, `input` the SMILES that the model was given, `quarantine` the reason why it could not
    answer (then the model's columns are empty).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    quarantined: int
    bytes: int
    sha256: str


class RawManifest(BaseModel):
    """What a shard's raw predictions consist of, and what they were computed from.

    `environment` names what the model ran in when the last of them were computed; it is empty where that is not known.
    `adopted` tells of predictions that an earlier release has computed and this one was shown to reproduce.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    release: str
    shard: str
    shard_digest: str
    columns: tuple[Column, ...]
    parts: tuple[PartInfo, ...]
    rows: int
    quarantined: int
    environment: str
    adopted: Adoption | None = None
    seconds: float
    finished_at: datetime

    @property
    def computed_by(self) -> tuple[str, ...]:
        """The releases that have computed the predictions."""
        return tuple(sorted({self.release, *(self.adopted.computed_by if self.adopted else ())}))

    @cached_property
    def digest(self) -> str:
        """Name of the content: the same for the same values from the same release, whenever and wherever computed."""
        content = self.model_dump_json(exclude={"environment", "adopted", "seconds", "finished_at"})
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def manifest_name(model: str, shard: str) -> str:
    """Return the name of the manifest's object."""
    return f"{storage.raw_prefix(model, shard)}/manifest.json"


def find_manifest(store: ObjectStore, model: str, shard: str) -> RawManifest | None:
    """Return a shard's manifest, or None where the shard has no raw predictions.

    Raises ShardError if the object is there and is no manifest.
    """
    remedy = f"delete it and predict shard {shard} again"
    return Slot(store, manifest_name(model, shard), RawManifest, ShardError, remedy).read()


def require_manifest(store: ObjectStore, model: str, shard: str) -> RawManifest:
    """Return a shard's manifest. Raises ShardError where there is none, or a damaged one."""
    manifest = find_manifest(store, model, shard)
    if manifest is None:
        raise ShardError(f"{model} has no raw predictions here; run `precalc predict {model}` first")
    return manifest


def read_part(store: ObjectStore, part: PartInfo, columns: tuple[Column, ...]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read a part: `key`, and the model's columns in their types; with what `parse_cells` finds wrong by row.

    Raises ShardError if the object is gone or its bytes are not those that the manifest names.
    """
    try:
        content = bytes(obstore.get(store, part.name).bytes())
    except FileNotFoundError:
        raise ShardError(f"{part.name} is gone although its manifest names it; predict the shard again") from None
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise ShardError(f"{part.name} is not what its manifest names; delete it and predict the shard again")
    return read_cells(gzip.decompress(content), columns, "key")
