"""The assets of the group `serving`: typed predictions, the tables that readers are served from, and the cards."""

from collections.abc import Iterator

import dagster as dg

from precalc_assets.cards import publish_card
from precalc_assets.defs.inference.assets import raw_predictions
from precalc_assets.defs.partitions import model_shards, models, shards_by_model
from precalc_assets.defs.recording import Event, Recorder, check_specs, clear_failures
from precalc_assets.defs.resources import TABLES_KIND, Platform
from precalc_assets.defs.serving.automation import follow_upstream, follow_upstream_in_part
from precalc_assets.defs.serving.cards import card_metadata
from precalc_assets.defs.serving.checks import CARD_CHECKS, card_evaluations, card_results
from precalc_assets.inference import find_report
from precalc_assets.predictions import (
    PREDICTION_CHECKS,
    PREDICTION_WARNINGS,
    TABLE_CHECKS,
    load_shards,
    validate_shards,
)
from precalc_assets.publishing import make_card


@dg.asset(
    deps=[raw_predictions],
    partitions_def=model_shards,
    group_name="serving",
    kinds={"parquet", "pandera"},
    description="Raw predictions parsed, typed as run_columns.csv declares, validated against the library's shard: one "
    "Parquet file per model and shard. The columns shown are those of the partition that landed last.",
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=follow_upstream(),
    check_specs=check_specs("predictions", PREDICTION_CHECKS, model_shards, warnings=PREDICTION_WARNINGS),
)
def predictions(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Validate the shards of this run."""
    with clear_failures():
        settings = platform.settings
        library = platform.library()
        recorder = Recorder(
            context, platform, "raw_predictions", checks=PREDICTION_CHECKS, warnings=PREDICTION_WARNINGS
        )
        for model, shards in shards_by_model(context.partition_keys).items():
            outcomes = validate_shards(
                platform.store,
                library,
                model,
                shards,
                max_failure_rate=settings.max_failure_rate,
                canary=find_report(platform.store, model),
            )
            yield from recorder.record(outcomes, model)
        yield from recorder.conclude()


@dg.asset(
    deps=[predictions],
    partitions_def=model_shards,
    group_name="serving",
    pool="tables",
    kinds={TABLES_KIND},
    description="The shard's pages in the model's table, from which readers get predictions by InChIKey.",
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=follow_upstream(),
    check_specs=check_specs("prediction_table", TABLE_CHECKS, model_shards),
)
def prediction_table(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Load the shards of this run, and read a sample of each back."""
    with clear_failures():
        recorder = Recorder(context, platform, "predictions", checks=TABLE_CHECKS)
        for model, shards in shards_by_model(context.partition_keys).items():
            yield from recorder.record(load_shards(platform.store, platform.tables, model, shards), model)
        yield from recorder.conclude()


@dg.asset(
    deps=[prediction_table],
    partitions_def=models,
    group_name="serving",
    kinds={TABLES_KIND},
    description="What readers see of a model: columns, coverage, releases, failures, plots. "
    "Publishes it in the registry.",
    automation_condition=follow_upstream_in_part(),
    check_specs=check_specs("model_card", CARD_CHECKS, models, warnings=CARD_CHECKS),
)
def model_card(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Gather and publish a model's card."""
    with clear_failures():
        card = make_card(platform.store, platform.tables, context.partition_key, platform.settings)
        publish_card(platform.tables, card)
        yield from card_evaluations(card, context.asset_key)
        yield dg.MaterializeResult(metadata=card_metadata(card), check_results=card_results(card))
