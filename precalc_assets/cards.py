"""The card of a model: what readers see of it. Gathers what its folder says and what its table holds."""

from datetime import UTC, datetime

from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict

from precalc_assets.columns import Column
from precalc_assets.inference import ModelMetadata
from precalc_assets.predictions import find_manifest
from precalc_assets.tables import REGISTRY, Item, KeyValueStore, TableReader


class ModelCard(BaseModel):
    """One model in the registry table, as JSON under its id."""

    model_config = ConfigDict(frozen=True)

    model: str
    title: str
    description: str
    interpretation: str
    tags: tuple[str, ...]
    license: str
    publication: str
    source_code: str
    columns: tuple[Column, ...]
    n_shards: int
    shards: tuple[str, ...]
    molecules: int
    quarantined: int
    releases: tuple[str, ...]
    updated: datetime

    @property
    def covered(self) -> bool:
        """Whether every shard is in the table."""
        return len(self.shards) == self.n_shards


def make_card(store: ObjectStore, tables: KeyValueStore, model: str, metadata: ModelMetadata) -> ModelCard:
    """Gather a model's card from its table. Raises TableError if the model has no table."""
    reader = TableReader(tables, model)
    directories = reader.directories()
    manifests = [find_manifest(store, model, shard) for shard in directories]
    return ModelCard(
        model=model,
        title=metadata.title,
        description=metadata.description,
        interpretation=metadata.interpretation,
        tags=metadata.tags,
        license=metadata.license,
        publication=metadata.publication,
        source_code=metadata.source_code,
        columns=reader.columns,
        n_shards=reader.n_shards,
        shards=tuple(directories),
        molecules=sum(directory.rows for directory in directories.values()),
        quarantined=sum(m.quarantined for m in manifests if m),
        releases=tuple(sorted({directory.release for directory in directories.values()})),
        updated=datetime.now(UTC),
    )


def publish_card(tables: KeyValueStore, card: ModelCard) -> None:
    """Put the card into the registry, in place of the one before."""
    tables.create_table(REGISTRY)
    tables.put_many(REGISTRY, [Item(card.model, card.model_dump_json().encode())])
