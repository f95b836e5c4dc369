"""The assets of the group `serving`: typed predictions, the tables that serve readers, and the cards."""

from collections.abc import Iterator

import dagster as dg

from precalc_assets.cards.publishing import publish, warn_of_licence
from precalc_assets.defs.asset_checks import check_outputs
from precalc_assets.defs.partitions import ShardPartitions, models, shards_by_model
from precalc_assets.defs.recording import Event, Recorder, clear_failures
from precalc_assets.defs.resources import Platform
from precalc_assets.defs.serving.automation import follow_upstream, follow_upstream_in_part
from precalc_assets.defs.serving.cards import card_metadata
from precalc_assets.defs.serving.checks import CARD, PREDICTIONS, TABLE, card_finding
from precalc_assets.inference import find_report
from precalc_assets.predictions import load_shards, validate_shards


def serving_assets(partitions: ShardPartitions, tables_kind: str) -> list[dg.AssetsDefinition]:
    """Return predictions and tables, by model and shard, and the cards, by model."""

    @dg.asset(
        deps=["raw_predictions"],
        partitions_def=partitions.model_shards,
        group_name="serving",
        pool="validation",
        kinds={"parquet", "pandera"},
        description="Raw predictions parsed, typed as run_columns.csv declares, validated against the library's shard: "
        "one Parquet file per model and shard. The columns shown are those of the partition that landed last.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=follow_upstream(),
        check_specs=PREDICTIONS.specs(partitions.model_shards),
    )
    def predictions(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Validate the shards of this run."""
        with clear_failures():
            library = platform.library()
            recorder = Recorder(context, platform, "raw_predictions", PREDICTIONS)
            for model, shards in shards_by_model(context.partition_keys).items():
                for outcome in validate_shards(
                    platform.store,
                    library,
                    model,
                    shards,
                    max_failure_rate=platform.settings.max_failure_rate,
                    canary=find_report(platform.store, model),
                ):
                    yield from recorder.record(outcome, model)
            yield from recorder.conclude()

    @dg.asset(
        deps=[predictions],
        partitions_def=partitions.model_shards,
        group_name="serving",
        pool="tables",
        kinds={tables_kind},
        description="The shard's pages in the model's table, from which readers get predictions by InChIKey.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=follow_upstream(),
        check_specs=TABLE.specs(partitions.model_shards),
    )
    def prediction_table(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Load the shards of this run, and read a sample of each back."""
        with clear_failures():
            recorder = Recorder(context, platform, "predictions", TABLE)
            for model, shards in shards_by_model(context.partition_keys).items():
                warn_of_licence(platform.store, model, platform.settings)
                for outcome in load_shards(platform.store, platform.tables, model, shards):
                    yield from recorder.record(outcome, model)
            yield from recorder.conclude()

    @dg.asset(
        deps=[prediction_table],
        partitions_def=models,
        group_name="serving",
        pool="tables",
        kinds={tables_kind},
        description="What readers see of a model: columns, coverage, releases, failures, plots. "
        "Publishes it in the registry.",
        automation_condition=follow_upstream_in_part(),
        check_specs=CARD.specs(models),
    )
    def model_card(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Gather and publish a model's card."""
        with clear_failures():
            card = publish(platform.store, platform.tables, context.partition_key, platform.settings)
            yield dg.MaterializeResult(metadata=card_metadata(card))
            yield from CARD.evaluations(context.instance, {card.model: card_finding(card)})
            yield from CARD.summaries(context.instance, models)
            yield from check_outputs(context)

    return [predictions, prediction_table, model_card]
