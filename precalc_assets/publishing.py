"""Gathering the card of a model: what it says of itself, what its table holds, and what the canary found out."""

from datetime import UTC, datetime

from obstore.store import ObjectStore

from precalc_assets.cards import ModelCard
from precalc_assets.inference import ModelMetadata, find_report, list_models, open_model
from precalc_assets.predictions import find_manifest
from precalc_assets.settings import Settings
from precalc_assets.tables import KeyValueStore, TableReader


def make_card(store: ObjectStore, tables: KeyValueStore, model: str, settings: Settings) -> ModelCard:
    """Gather a model's card. What the model says of itself is in its folder, or in the canary's report where it is not.

    Raises TableError if the model has no table, UsageError or ModelError if there is neither folder nor report.
    """
    reader = TableReader(tables, model)
    directories = reader.directories()
    manifests = [find_manifest(store, model, shard) for shard in directories]
    releases = tuple(sorted({directory.release for directory in directories.values()}))
    report = find_report(store, model)
    metadata = _find_metadata(model, settings, report.metadata if report else None)
    canary = report if report and report.release in releases else None
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
        releases=releases,
        updated=datetime.now(UTC),
        deterministic=canary.deterministic if canary else None,
        varying=canary.varying if canary else (),
    )


def _find_metadata(model: str, settings: Settings, reported: ModelMetadata | None) -> ModelMetadata:
    if reported and model not in list_models(settings.model_folders):
        return reported
    return open_model(model, settings).metadata
