"""The jobs that people start in the UI, besides the two of `attempts` that sensors start as well.

A job over assets of the same partitions is a selection of them. `precalculate_model` and `retire_model` are ops: they
take a model's id, which may be no partition yet, and work on several assets.
"""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from precalc.identifiers import check_model_id
from precalc_assets.cards.publishing import unpublish
from precalc_assets.defs.checks import CANARY, CARD, PREDICTIONS, RAW, TABLE
from precalc_assets.defs.dagster_internals import wipe_partitions
from precalc_assets.defs.dead_runs import UNFINISHED, settle_dead_runs
from precalc_assets.defs.inference_assets import RawConfig
from precalc_assets.defs.own_runs import PARENT_TAG, OwnRuns
from precalc_assets.defs.partitions import MODELS, partition_key
from precalc_assets.defs.recording import own_step
from precalc_assets.executions.records import unsettled
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import UsageError
from precalc_assets.sharding import parse_shards, shard_keys
from precalc_assets.storage import delete_model_files

RELOAD_TABLE = dg.define_asset_job(
    "reload_table",
    selection="prediction_table",
    description="Loads predictions into the model's table again, for instance after a table was damaged or dropped.",
)
REBUILD_CARD = dg.define_asset_job(
    "rebuild_card",
    selection="model_card",
    description="Gathers and publishes a model's card again, for instance after PRECALC_RUNNER_PRICE was changed.",
)
REFRESH_LIBRARY = dg.define_asset_job(
    "refresh_library",
    selection="reference_library",
    description="Builds the library from the file in the store; its shards follow by automation. Predictions of "
    "molecules that stay are reused when models run again.",
)


class PrecalculateConfig(RawConfig):
    """A model, its shards, and where they are computed."""

    model: str = Field(description="The model's id, such as eos3b5e. It is fetched from the hub if no folder holds it.")
    shards: str = Field(default="", description="Shards to run: 07, 00-49 or 07,08,20-29 (default: all).")


class RetireConfig(dg.Config):
    """The model to retire, twice."""

    model: str = Field(description="The id of the model to retire, such as eos3b5e.")
    confirm: str = Field(description="The model's id again. Nothing is dropped if it differs.")
    files: bool = Field(
        default=False,
        description="Also delete what the model printed, its predictions and its canary. Computing them again costs "
        "what it cost the first time.",
    )


def model_jobs(graph: Callable[[], dg.JobDefinition]) -> list[dg.JobDefinition]:
    """Return the jobs that take a model's id. `graph` returns the job over all assets."""

    @dg.op(description="Runs the stages one after another in this process, each as a run of its own.")
    def precalculate(
        context: dg.OpExecutionContext, config: PrecalculateConfig, platform: dg.ResourceParam[Platform]
    ) -> None:
        with own_step(context, model=config.model, compute=config.where(platform)):
            shards = parse_shards(config.shards or None, platform.settings.n_shards)
            runs = _LoggedRuns(platform, graph(), context.instance, {PARENT_TAG: context.run.run_id})
            runs.log = context.log
            failures = runs.precalculate(config.model, shards, {"compute": config.where(platform)})
            if failures:
                raise dg.Failure(description="\n".join(failures), allow_retries=False)

    @dg.op(description="Drops the model's table and card, its partition, and all that Dagster recorded of it.")
    def retire(context: dg.OpExecutionContext, config: RetireConfig, platform: dg.ResourceParam[Platform]) -> None:
        model = config.model
        with own_step(context, model=model):
            check_model_id(model)
            if config.confirm != model:
                raise UsageError(
                    f"{model} is not retired: `confirm` is {config.confirm!r}; repeat the model's id there to confirm"
                )
            _require_idle(context, platform, model)
            # Without its partition, automation requests nothing of the model.
            context.instance.delete_dynamic_partition(MODELS, model)
            unpublish(platform.tables, model, platform.settings)
            freed = delete_model_files(platform.store, model) if config.files else 0
            keys = [partition_key(model, shard) for shard in shard_keys(platform.settings.n_shards)]
            for checks in (RAW, PREDICTIONS, TABLE):
                wipe_partitions(context.instance, checks.asset, keys)
            for checks in (CANARY, CARD):
                wipe_partitions(context.instance, checks.asset, [model])
            said = f"{freed / 1e6:,.1f} MB of files are deleted" if config.files else "its files are kept"
            context.log.info(f"{model} is retired; {said}")

    @dg.job(
        description="Runs a model from its canary to its card, without waiting for automation: raw predictions, "
        "predictions, table, card. It does what `precalc run` does. What is there is kept.",
    )
    def precalculate_model() -> None:
        precalculate()

    @dg.job(
        description="Retires a model: readers no longer see it, and it shows as not materialized. Its table, card and "
        "partition are dropped, and by choice its files.",
    )
    def retire_model() -> None:
        retire()

    return [precalculate_model, retire_model]


class _LoggedRuns(OwnRuns):
    """Runs that tell of themselves in the log of the run that started them."""

    log: dg.DagsterLogManager

    def tell(self, what: str, run_id: str) -> None:
        """Log what a run waits for, or has materialized."""
        self.log.info(f"{what}; run {run_id}")


def _require_idle(context: dg.OpExecutionContext, platform: Platform, model: str) -> None:
    """Raise UsageError if something of the model is under way, which would bring back a part of it."""
    executions = [execution.key for execution in unsettled(platform.store, model)]
    if executions:
        raise UsageError(
            f"{model} is not retired: execution {executions[0]} is at work; wait, or run "
            f"`precalc executions cancel {executions[0]}`"
        )
    settle_dead_runs(context.instance)
    under_way = [dg.DagsterRunStatus.QUEUED, *UNFINISHED]
    runs = context.instance.get_runs(dg.RunsFilter(tags={"model": model}, statuses=under_way))
    others = [run.run_id for run in runs if run.run_id != context.run.run_id]
    if others:
        raise UsageError(f"{model} is not retired: run {others[0]} is at work; wait for it, or terminate it first")
