"""The assets of the group `inference`: canaries and raw predictions."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from precalc_assets.defs.asset_checks import check_outputs
from precalc_assets.defs.inference.canary_events import PrecedingCanary, canary_evaluations, canary_metadata
from precalc_assets.defs.inference.checks import CANARY, RAW
from precalc_assets.defs.inference.computing import Compute, canary_run, shards_computed
from precalc_assets.defs.partitions import ShardPartitions, models, shards_by_model
from precalc_assets.defs.recording import Event, Recorder, clear_failures
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import CANARY_SIZE


class RawConfig(dg.Config):
    """Where shards are computed (default: PRECALC_COMPUTE)."""

    compute: Compute | None = None


class SampleConfig(dg.Config):
    """The canary's number of molecules, and where it runs (default: PRECALC_COMPUTE)."""

    size: int = Field(default=CANARY_SIZE, ge=1)
    compute: Compute | None = None


def inference_assets(partitions: ShardPartitions, pool: str) -> list[dg.AssetsDefinition]:
    """Return the canary, by model, and the raw predictions, by model and shard. Runs of both take a slot of `pool`."""

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
        with clear_failures():
            run = canary_run(config.compute, platform)
            report = run(context, platform, context.partition_key, config.size)
            if not report.broken:
                yield dg.MaterializeResult(
                    metadata=canary_metadata(report, platform), data_version=dg.DataVersion(report.version)
                )
            yield from canary_evaluations(context.instance, report)
            if report.broken:
                failures = "\n".join(f"{report.model} {check.name}: {check.description}" for check in report.broken)
                raise dg.Failure(description=failures, metadata=canary_metadata(report, platform), allow_retries=False)
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
        context: dg.AssetExecutionContext, config: RawConfig, platform: dg.ResourceParam[Platform]
    ) -> Iterator[Event]:
        """Have the shards of this run computed; a model that cannot be used fails its own shards alone."""
        with clear_failures():
            compute = shards_computed(config.compute, platform)
            recorder = Recorder(context, platform, "library_shards", RAW)
            for model, shards in shards_by_model(context.partition_keys).items():
                canary = PrecedingCanary(context.instance, platform, model)
                for outcome in compute(context, platform, model, shards):
                    yield from canary.record()
                    yield from recorder.record(outcome, model, [canary.input_of(outcome)])
            yield from recorder.conclude()

    return [sample_predictions, raw_predictions]
