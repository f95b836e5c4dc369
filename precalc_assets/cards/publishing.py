"""Gathering and publishing the card of a model: its metadata, its table, its canary and its distributions."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from obstore.store import ObjectStore

from precalc.source import Distribution
from precalc_assets.cards.distributions import describe_predictions
from precalc_assets.cards.examples import find_examples
from precalc_assets.cards.glue_tables import drop_glue_table, publish_glue_table
from precalc_assets.cards.model_card import (
    PLOTTED_COLUMNS,
    ModelCard,
    delete_card,
    find_card,
    publish_card,
    publish_distributions,
)
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import merge_emptied
from precalc_assets.inference.opening import open_model
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.models.folder import list_models
from precalc_assets.models.policy import licence_warning
from precalc_assets.platform_errors import PrecalcError, TableError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.shard_manifest import find_manifest
from precalc_assets.settings import Settings
from precalc_assets.tables import KeyValueStore, TableReader

_MOST_VALUES = 50_000_000
"""Values that are read for the columns that are not on the card, and those of one shard more."""

logger = logging.getLogger(__name__)


def publish(store: ObjectStore, tables: KeyValueStore, model: str, settings: Settings) -> ModelCard:
    """Gather a model's card and put it into the registry. Repeats this if shards were loaded meanwhile.

    So of several processes that load shards at the same time, the last publishes all shards. The table in Glue follows,
    if the settings name a database. Raises as `make_card` and `publish_glue_table`.
    """
    while True:
        before = _find_before(tables, model)
        card = make_card(store, tables, model, settings)
        if before is None or before.distributions_of != card.distributions_of:
            publish_distributions(tables, model, _describe_further(store, model, TableReader(tables, model)))
        publish_card(tables, card)
        if _digest(*_plotted(TableReader(tables, model, consistent=True))) == card.distributions_of:
            publish_glue_table(settings, card)
            return card


def unpublish(tables: KeyValueStore, model: str, settings: Settings) -> None:
    """Drop a model's table, its table in Glue and its card, as far as they exist. Raises TableError."""
    drop_glue_table(settings, model)
    tables.drop_table(model)
    delete_card(tables, model)


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
    """Gather a model's card. Raises TableError without a table, UsageError or ModelError without folder and report."""
    reader = TableReader(tables, model)
    directories = reader.directories()
    manifests = [found for shard in directories if (found := find_manifest(store, model, shard))]
    hours = sum(manifest.seconds_in_all for manifest in manifests) / 3600
    releases = tuple(sorted({directory.release for directory in directories.values()}))
    report = find_report(store, model)
    metadata = _find_metadata(model, settings, report.metadata if report else None)
    canary = report if report and report.release in releases else None
    plotted, served = _plotted(reader)
    plotted_of = _digest(plotted, served)
    before = _find_before(tables, model)
    # Reading all files takes a while.
    known = before if before and before.distributions_of == plotted_of else None
    speed = canary.speed if canary else None
    declared_variable = canary is None and metadata.output_consistency.casefold() == "variable"
    return ModelCard(
        model=model,
        metadata=metadata,
        columns=reader.columns,
        n_shards=reader.n_shards,
        shards=tuple(directories),
        molecules=sum(directory.rows for directory in directories.values()),
        quarantined=sum(m.quarantined for m in manifests),
        emptied=merge_emptied(each for m in manifests for each in m.emptied),
        releases=releases,
        environments=tuple(sorted({m.environment for m in manifests if m.environment})),
        adopted=next((m.adopted for m in manifests if m.adopted), None),
        updated=datetime.now(UTC),
        deterministic=canary.deterministic if canary else False if declared_variable else None,
        varying=canary.varying if canary else tuple(c.name for c in reader.columns) if declared_variable else (),
        example=canary.example if canary else None,
        seconds_per_molecule=speed.seconds_per_molecule if speed else None,
        peak_memory=canary.peak_memory if canary else None,
        bytes_per_molecule=canary.bytes_per_molecule if canary else None,
        runner_hours=hours if manifests else None,
        dollars=hours * settings.runner_price if manifests else None,
        examples=known.examples if known else find_examples(store, model, plotted[0], served),
        distributions=known.distributions if known else describe_predictions(store, model, plotted, served),
        distributions_of=plotted_of,
    )


def _find_before(tables: KeyValueStore, model: str) -> ModelCard | None:
    try:
        return find_card(tables, model)
    except TableError:
        return None  # the damaged card is about to be replaced


def _describe_further(store: ObjectStore, model: str, reader: TableReader) -> Sequence[Distribution]:
    """Return the distributions of the columns that are not on the card, of wide models over the first shards alone.

    A shard is a random sample of the library, since a hash of the InChIKey chooses it.
    """
    further = reader.columns[PLOTTED_COLUMNS:]
    served, values = {}, 0
    for shard, directory in reader.directories().items():
        if values < _MOST_VALUES:
            served[shard] = directory.built_from
            values += directory.rows * len(further)
    return describe_predictions(store, model, further, served) if further else ()


def _plotted(reader: TableReader) -> tuple[Sequence[Column], Mapping[str, str]]:
    """Return the plotted columns, and the digest of the data of each loaded shard."""
    served = {shard: directory.built_from for shard, directory in reader.directories().items()}
    return reader.columns[:PLOTTED_COLUMNS], served


def _digest(columns: Sequence[Column], served: Mapping[str, str]) -> str:
    """Return the digest of the data of distributions: these columns of these shards."""
    lines = [f"{column.name} {column.type}" for column in columns]
    lines += [f"{shard} {digest}" for shard, digest in sorted(served.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _find_metadata(model: str, settings: Settings, reported: ModelMetadata | None) -> ModelMetadata:
    if reported and model not in list_models(settings.model_folders):
        return reported
    return open_model(model, settings).metadata
