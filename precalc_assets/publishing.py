"""Gathering the card of a model: what it says of itself, what its table holds, and what the canary found out."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from obstore.store import ObjectStore

from precalc_assets.cards import ModelCard
from precalc_assets.inference import ModelMetadata, find_model, find_report, list_models
from precalc_assets.predictions import find_manifest
from precalc_assets.tables import KeyValueStore, TableReader


def make_card(store: ObjectStore, tables: KeyValueStore, model: str, folders: Sequence[Path]) -> ModelCard:
    """Gather a model's card. Its folder is in one of these, or was where the canary ran.

    Raises TableError if the model has no table, UsageError if there is neither a folder nor a canary's report.
    """
    reader = TableReader(tables, model)
    directories = reader.directories()
    manifests = [find_manifest(store, model, shard) for shard in directories]
    releases = tuple(sorted({directory.release for directory in directories.values()}))
    report = find_report(store, model)
    metadata = _find_metadata(model, folders, report.metadata if report else None)
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


def _find_metadata(model: str, folders: Sequence[Path], reported: ModelMetadata | None) -> ModelMetadata:
    if reported and model not in list_models(folders):
        return reported
    return find_model(model, folders).metadata
