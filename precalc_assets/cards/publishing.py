"""Gathering and publishing the card of a model: its metadata, its table, its canary and its distributions."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from obstore.store import ObjectStore

from precalc_assets.cards.distributions import describe_predictions
from precalc_assets.cards.model_card import PLOTTED_COLUMNS, Distribution, ModelCard, find_card, publish_card
from precalc_assets.columns import Column
from precalc_assets.inference import find_report, open_model
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.models import licence_warning, list_models
from precalc_assets.platform_errors import PrecalcError, TableError
from precalc_assets.predictions import find_manifest
from precalc_assets.settings import Settings
from precalc_assets.tables import KeyValueStore, TableReader

logger = logging.getLogger(__name__)


def publish(store: ObjectStore, tables: KeyValueStore, model: str, settings: Settings) -> ModelCard:
    """Gather a model's card and put it into the registry. Repeats this if shards were loaded meanwhile.

    So of several processes that load shards at the same time, the last publishes all shards. Raises as `make_card`.
    """
    while True:
        card = make_card(store, tables, model, settings)
        publish_card(tables, card)
        if _digest(*_plotted(TableReader(tables, model, consistent=True))) == card.distributions_of:
            return card


def warn_of_licence(store: ObjectStore, model: str, settings: Settings) -> None:
    """Log a warning about a model's licence, if it needs one."""
    report = find_report(store, model)
    try:
        warning = licence_warning(_find_metadata(model, settings, report.metadata if report else None).license)
    except PrecalcError as error:
        warning = f"its licence is not known: {error}"
    if warning:
        logger.warning("%s: %s", model, warning)


def make_card(store: ObjectStore, tables: KeyValueStore, model: str, settings: Settings) -> ModelCard:
    """Gather a model's card. The model's metadata come from its folder, or else from the canary's report.

    Raises TableError if the model has no table, UsageError or ModelError if it has neither folder nor report.
    """
    reader = TableReader(tables, model)
    directories = reader.directories()
    manifests = [find_manifest(store, model, shard) for shard in directories]
    releases = tuple(sorted({directory.release for directory in directories.values()}))
    report = find_report(store, model)
    metadata = _find_metadata(model, settings, report.metadata if report else None)
    canary = report if report and report.release in releases else None
    plotted, served = _plotted(reader)
    plotted_of = _digest(plotted, served)
    speed = canary.speed if canary else None
    declared_variable = canary is None and metadata.output_consistency.casefold() == "variable"
    return ModelCard(
        model=model,
        metadata=metadata,
        columns=reader.columns,
        n_shards=reader.n_shards,
        shards=tuple(directories),
        molecules=sum(directory.rows for directory in directories.values()),
        quarantined=sum(m.quarantined for m in manifests if m),
        releases=releases,
        environments=tuple(sorted({m.environment for m in manifests if m and m.environment})),
        adopted=next((m.adopted for m in manifests if m and m.adopted), None),
        updated=datetime.now(UTC),
        deterministic=canary.deterministic if canary else False if declared_variable else None,
        varying=canary.varying if canary else tuple(c.name for c in reader.columns) if declared_variable else (),
        example=canary.example if canary else None,
        seconds_per_molecule=speed.seconds_per_molecule if speed else None,
        peak_memory=canary.peak_memory if canary else None,
        bytes_per_molecule=canary.bytes_per_molecule if canary else None,
        distributions=_find_distributions(tables, model, plotted_of)
        or describe_predictions(store, model, plotted, served),
        distributions_of=plotted_of,
    )


def _plotted(reader: TableReader) -> tuple[Sequence[Column], Mapping[str, str]]:
    """Return the plotted columns, and the digest of the data of each loaded shard."""
    served = {shard: directory.built_from for shard, directory in reader.directories().items()}
    return reader.columns[:PLOTTED_COLUMNS], served


def _digest(columns: Sequence[Column], served: Mapping[str, str]) -> str:
    """Return the digest of the data of distributions: these columns of these shards."""
    lines = [f"{column.name} {column.type}" for column in columns]
    lines += [f"{shard} {digest}" for shard, digest in sorted(served.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _find_distributions(tables: KeyValueStore, model: str, made_of: str) -> tuple[Distribution, ...]:
    """Return the previous card's distributions if their data have this digest: reading all files takes a while."""
    try:
        card = find_card(tables, model)
    except TableError:
        return ()  # The damaged card is about to be replaced.
    return card.distributions if card and card.distributions_of == made_of else ()


def _find_metadata(model: str, settings: Settings, reported: ModelMetadata | None) -> ModelMetadata:
    if reported and model not in list_models(settings.model_folders):
        return reported
    return open_model(model, settings).metadata
