"""The assets of the group `serving`: typed predictions, the tables that serve readers, and the cards."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from precalc_assets.cards.publishing import publish, warn_of_licence
from precalc_assets.defs.asset_checks import Finding, check_outputs
from precalc_assets.defs.checks import CARD, PREDICTIONS, TABLE, card_checks
from precalc_assets.defs.dagster_internals import AndAutomationCondition
from precalc_assets.defs.dead_runs import models_at_work
from precalc_assets.defs.partitions import ShardPartitions, models
from precalc_assets.defs.recording import Event, own_step, record_shards
from precalc_assets.defs.ui_metadata import card_metadata
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform import Platform
from precalc_assets.predictions.loading import load_shards
from precalc_assets.screening.full_scan import check_screens

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    use_user_code_server=True,  # It evaluates `ModelAtWork`, which Dagster's daemon does not know.
    description="When raw predictions are materialised, the rest follows by itself.",
)


def serving_assets(partitions: ShardPartitions, tables_kind: str) -> list[dg.AssetsDefinition]:
    """Return predictions and tables, by model and shard, and cards, by model. `tables_kind` is such as sqlite."""

    @dg.asset(
        deps=["raw_predictions"],
        partitions_def=partitions.model_shards,
        group_name="serving",
        pool="validation",
        kinds={"parquet", "polars"},
        description="Raw predictions parsed, typed as run_columns.csv declares, validated against the library's shard: "
        "one Parquet file per model and shard. The columns shown are those of the partition that landed last.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=_follow_upstream(),
        check_specs=PREDICTIONS.specs(partitions.model_shards),
    )
    def predictions(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Validate the shards of this run."""
        yield from record_shards(context, platform, "raw_predictions", PREDICTIONS, platform.validate)

    @dg.asset(
        deps=[predictions],
        partitions_def=partitions.model_shards,
        group_name="serving",
        pool="tables",
        kinds={tables_kind},
        description="The shard's pages in the model's table, from which readers get predictions by InChIKey.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=_follow_upstream(),
        check_specs=TABLE.specs(partitions.model_shards),
    )
    def prediction_table(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Load the shards of this run, and read a sample of each back."""

        def load(model: str, shards: list[str]) -> Iterator[ShardOutcome]:
            warn_of_licence(platform.store, model, platform.settings)
            return load_shards(platform.store, platform.tables, model, shards)

        yield from record_shards(context, platform, "predictions", TABLE, load)

    @dg.asset(
        deps=[prediction_table, "sample_predictions"],
        partitions_def=models,
        group_name="serving",
        pool="tables",
        kinds={tables_kind},
        description="What readers see of a model: columns, coverage, releases, failures, plots. "
        "Publishes it in the registry.",
        automation_condition=_follow_table_in_part(),
        check_specs=CARD.specs(models),
    )
    def model_card(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Gather and publish a model's card."""
        with own_step(context):
            card = publish(platform.store, platform.tables, context.partition_key, platform.settings)
            yield dg.MaterializeResult(metadata=card_metadata(card))
            checks = [*card_checks(card), check_screens(platform.store, platform.tables, card.model)]
            yield from CARD.evaluations(context.instance, {card.model: Finding(checks, {})})
            yield from CARD.summaries(context.instance, models)
            yield from check_outputs(context)

    return [predictions, prediction_table, model_card]


class ModelAtWork(dg.AutomationCondition[dg.AssetKey]):
    """Partitions of models that `precalc run` or a job takes through all stages, which would do the same work again."""

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """Look up the models at work. What was missed meanwhile is requested when they are done."""
        models = models_at_work(context.asset_graph_view.instance)
        candidates = context.candidate_subset if models else context.get_empty_subset()
        keys = {key for key in candidates.expensively_compute_partition_keys() if key.partition("|")[0] in models}
        return dg.AutomationResult(context, candidates.compute_intersection_with_partition_keys(keys))


def _follow_upstream() -> AndAutomationCondition[Any]:
    """Materialize a partition when its upstream arrives or changes, or arrived while no daemon ran."""
    return (_catch_up() & ~ModelAtWork()).with_label("follow upstream")


def _follow_table_in_part() -> AndAutomationCondition[Any]:
    """Do the same for the card, which needs one shard in the table, and is renewed after a later canary."""
    any_shard = dg.AutomationCondition.any_deps_match(~dg.AutomationCondition.missing())
    in_table = any_shard.allow(dg.AssetSelection.assets("prediction_table"))
    condition = _catch_up().without(~dg.AutomationCondition.any_deps_missing()) & in_table & ~ModelAtWork()
    return condition.with_label("follow the table, also in part")


def _catch_up() -> AndAutomationCondition[Any]:
    """Return Dagster's `eager`, which only sees upstream events while the daemon runs, extended by missing partitions.

    The upstream of such a partition was computed by the command line or on a runner. A failed one waits for a change.
    """
    unserved = dg.AutomationCondition.missing() & ~dg.AutomationCondition.execution_failed()
    return dg.AutomationCondition.eager().replace("newly_missing", unserved)
