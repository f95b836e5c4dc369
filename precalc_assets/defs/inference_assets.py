"""The assets of the group `inference`: canaries and raw predictions, computed in the run itself or by executions.

A run's configuration decides where, or else PRECALC_COMPUTE. `on_engine` follows executions.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial

import dagster as dg
from pydantic import Field

from precalc_assets.defs.asset_checks import check_outputs
from precalc_assets.defs.canary_events import PrecedingCanary, canary_evaluations
from precalc_assets.defs.checks import CANARY, RAW
from precalc_assets.defs.on_engine import compute_on_engine, try_on_engine
from precalc_assets.defs.partitions import ShardPartitions, models, shards_by_model
from precalc_assets.defs.recording import MODELS_FAULT, Event, Recorder, own_step
from precalc_assets.defs.ui_metadata import canary_metadata
from precalc_assets.inference.canary import CANARY_SIZE
from precalc_assets.inference.opening import open_model
from precalc_assets.outcomes import FAILURES, ShardOutcome, failed_outcome
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import CanaryReport


class Compute(Enum):
    """Where to compute: in this run, on GitHub's runners, or on a SLURM cluster."""

    local = "local"
    github = "github"
    slurm = "slurm"


class RawConfig(dg.Config):
    """Where shards are computed."""

    compute: Compute | None = Field(default=None, description="Where to compute (default: PRECALC_COMPUTE).")

    def where(self, platform: Platform) -> str:
        """Return `local` if this run itself computes, or the backend's name."""
        return self.compute.value if self.compute else platform.settings.compute


class ShardsConfig(RawConfig):
    """Where shards are computed, and whether the model must have passed a canary."""

    without_canary: bool = Field(
        default=False,
        description="Compute although the release has passed no canary. By default the canary runs first, and the "
        "shards fail if it does. GitHub's runners and SLURM jobs always run it.",
    )


class SampleConfig(RawConfig):
    """The canary's number of molecules, and where it runs."""

    size: int = Field(default=CANARY_SIZE, ge=1, description="Molecules of the sample: the library's first by hash.")


def inference_assets(partitions: ShardPartitions, compute: str) -> list[dg.AssetsDefinition]:
    """Return the canary, by model, and the raw predictions, by model and shard.

    Runs of both take a slot of a pool: of runs that compute on this machine, or of runs that wait for executions.
    """
    pool = "inference" if compute == "local" else "executions"

    @dg.asset(
        deps=[dg.AssetDep("library_shards", partition_mapping=dg.AllPartitionMapping())],
        partitions_def=models,
        group_name="inference",
        pool=pool,
        kinds={"parquet"},
        description="The canary: the model on the library's first molecules by hash, twice. Says whether the model can "
        "be trusted, and what a run over the whole library will take.",
        check_specs=CANARY.specs(models),
    )
    def sample_predictions(
        context: dg.AssetExecutionContext, config: SampleConfig, platform: dg.ResourceParam[Platform]
    ) -> Iterator[Event]:
        """Run the model over a sample; a canary that breaks a blocking check is not recorded as materialized."""
        where = config.where(platform)
        with own_step(context, compute=where):
            run = _try if where == "local" else partial(try_on_engine, compute=where)
            report = run(context, platform, model=context.partition_key, size=config.size)
            if not report.broken:
                yield dg.MaterializeResult(
                    metadata=canary_metadata(report, platform), data_version=dg.DataVersion(report.version)
                )
            yield from canary_evaluations(context.instance, report)
            if report.broken:
                failures = "\n".join(f"{report.model} {check.name}: {check.description}" for check in report.broken)
                metadata = {**canary_metadata(report, platform), MODELS_FAULT: True}
                raise dg.Failure(description=failures, metadata=metadata, allow_retries=False)
            yield from check_outputs(context)

    @dg.asset(
        deps=["library_shards", sample_predictions],
        partitions_def=partitions.model_shards,
        group_name="inference",
        pool=pool,
        kinds={"csv"},
        description="What the model printed for each molecule of the shard, unchanged, in parts with a manifest. "
        "A molecule that it could not answer is in the quarantine list with the reason.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=RAW.specs(partitions.model_shards),
    )
    def raw_predictions(
        context: dg.AssetExecutionContext, config: ShardsConfig, platform: dg.ResourceParam[Platform]
    ) -> Iterator[Event]:
        """Have the shards of this run computed; a model that cannot be used fails its own shards alone."""
        where = config.where(platform)
        with own_step(context, compute=where):
            local = partial(_compute, without_canary=config.without_canary)
            run = local if where == "local" else partial(compute_on_engine, compute=where)
            recorder = Recorder(context, platform, "library_shards", RAW)
            for model, shards in shards_by_model(context.partition_keys).items():
                canary = PrecedingCanary(context.instance, platform, model)
                for outcome in run(context, platform, model=model, shards=shards):
                    yield from canary.record()
                    yield from recorder.record(outcome, model, [canary.input_of(outcome)])
            yield from recorder.conclude()

    return [sample_predictions, raw_predictions]


def _compute(
    context: dg.AssetExecutionContext, platform: Platform, model: str, shards: list[str], *, without_canary: bool
) -> Iterable[ShardOutcome]:
    library = platform.library()
    on_progress = platform.progress(context.log, sum(library.shards[shard].rows for shard in shards))
    try:
        folder = open_model(model, platform.settings)
        if not (without_canary or platform.has_passed_canary(folder, CANARY_SIZE)):
            context.log.info(f"{model} {folder.metadata.release} has passed no canary, which therefore runs first")
            report = _try(context, platform, model, CANARY_SIZE)
            if report.broken:
                said = "; ".join(f"{check.name}: {check.description}" for check in report.broken)
                why = (
                    f"the canary of {model} failed: {said}; to compute anyway, set without_canary in the configuration"
                )
                return [ShardOutcome(shard, failure=why, models_fault=True) for shard in shards]
        return platform.predict(folder, shards, on_progress)
    except FAILURES as error:
        return [failed_outcome(shard, error) for shard in shards]


def _try(context: dg.AssetExecutionContext, platform: Platform, model: str, size: int) -> CanaryReport:
    on_progress = platform.progress(context.log, 2 * min(size, platform.library().molecules))
    return platform.run_canary(model, size, on_progress)
