"""The manifest of a shard's raw predictions. It is written last and names the parts; readers start from it."""

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

    `key` is the InChIKey, `input` the SMILES, `quarantine` the reason why the model could not answer (then its columns
    are empty).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    quarantined: int
    bytes: int
    sha256: str


class RawManifest(BaseModel):
    """The parts of a shard's raw predictions, and their inputs.

    `environment` names the environment of the latest computation; it is empty if unknown. `adopted` describes
    predictions that an earlier release has computed and this one reproduces.
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
        """Digest of the content: equal for equal values of the same release, regardless of time and environment."""
        content = self.model_dump_json(exclude={"environment", "adopted", "seconds", "finished_at"})
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def manifest_name(model: str, shard: str) -> str:
    """Return the object name of a shard's manifest."""
    return f"{storage.raw_prefix(model, shard)}/manifest.json"


def find_manifest(store: ObjectStore, model: str, shard: str) -> RawManifest | None:
    """Return a shard's manifest, or None if it has no raw predictions.

    Raises ShardError if the manifest is damaged.
    """
    remedy = f"delete it and predict shard {shard} again"
    return Slot(store, manifest_name(model, shard), RawManifest, ShardError, remedy).read()


def require_manifest(store: ObjectStore, model: str, shard: str) -> RawManifest:
    """Return a shard's manifest. Raises ShardError if it is missing or damaged."""
    manifest = find_manifest(store, model, shard)
    if manifest is None:
        raise ShardError(f"{model} has no raw predictions for this shard; run `precalc predict {model}` first")
    return manifest


def read_part(store: ObjectStore, part: PartInfo, columns: tuple[Column, ...]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read a part: `key` and the model's typed columns, with the problems of `parse_cells` by row.

    Raises ShardError if the object is missing or its SHA-256 is not the manifest's.
    """
    try:
        content = bytes(obstore.get(store, part.name).bytes())
    except FileNotFoundError:
        raise ShardError(f"{part.name} is missing although its manifest names it; predict the shard again") from None
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise ShardError(
            f"{part.name} is damaged: its SHA-256 is not the manifest's; delete it and predict the shard again"
        )
    return read_cells(gzip.decompress(content), columns, "key")
