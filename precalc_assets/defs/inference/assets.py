"""The assets of the group `inference`: what models print."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from precalc_assets.defs.inference.checks import canary_evaluations, canary_metadata, canary_results
from precalc_assets.defs.library.assets import library_shards
from precalc_assets.defs.partitions import model_shards, models, shards_by_model
from precalc_assets.defs.recording import Event, Input, Recorder, check_specs, clear_failures, recorded_input
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import (
    CANARY_CHECKS,
    CANARY_WARNINGS,
    ModelRunner,
    find_report,
    open_model,
    open_runner,
    predict_shards,
    run_canary,
)
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason

RAW_CHECKS = {"failure_rate": "few enough molecules are quarantined"}


class SampleConfig(dg.Config):
    """How many molecules the canary is given."""

    size: int = Field(default=100, ge=1)


@dg.asset(
    deps=[dg.AssetDep(library_shards, partition_mapping=dg.AllPartitionMapping())],
    partitions_def=models,
    group_name="inference",
    kinds={"parquet"},
    description="The canary: the model on the library's first molecules by hash, twice. Says whether the model can be "
    "trusted, and what a run over the whole library will take.",
    check_specs=check_specs("sample_predictions", CANARY_CHECKS, models, warnings=CANARY_WARNINGS),
)
def sample_predictions(
    context: dg.AssetExecutionContext, config: SampleConfig, platform: dg.ResourceParam[Platform]
) -> Iterator[Event]:
    """Run the model over a sample; what breaks a check that blocks is not recorded as materialised."""
    with clear_failures():
        settings = platform.settings
        library = platform.library()
        report = run_canary(
            platform.store,
            library,
            context.partition_key,
            config.size,
            settings=settings,
            on_progress=platform.progress(context.log, 2 * min(config.size, library.molecules)),
        )
        yield from canary_evaluations(report, context.asset_key)
        if report.broken:
            said = "\n".join(f"{report.model} {check.name}: {check.description}" for check in report.broken)
            raise dg.Failure(description=said, metadata=canary_metadata(report, platform), allow_retries=False)
        yield dg.MaterializeResult(
            metadata=canary_metadata(report, platform),
            data_version=dg.DataVersion(report.version),
            check_results=canary_results(report),
        )


@dg.asset(
    deps=[library_shards, sample_predictions],
    partitions_def=model_shards,
    group_name="inference",
    kinds={"csv"},
    description="What the model printed for each molecule of the shard, unchanged, in parts with a manifest. "
    "A molecule that it could not answer is in the quarantine list with the reason.",
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=check_specs("raw_predictions", RAW_CHECKS, model_shards),
)
def raw_predictions(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Run the model over the shards of this run; a model that cannot be used fails its own shards alone."""
    with clear_failures():
        settings = platform.settings
        library = platform.library()
        recorder = Recorder(context, platform, "library_shards", checks=RAW_CHECKS)
        for model, shards in shards_by_model(context.partition_keys).items():
            try:
                runner = open_runner(open_model(model, settings), settings)
            except FAILURES as error:
                unusable = [ShardOutcome(shard, failure=reason(error)) for shard in shards]
                yield from recorder.record(unusable, model)
                continue
            outcomes = predict_shards(
                platform.store,
                library,
                model,
                runner,
                shards,
                batch_size=settings.batch_size,
                max_failure_rate=settings.max_failure_rate,
                on_progress=platform.progress(context.log, sum(library.shards[shard].rows for shard in shards)),
            )
            canary = _canary_input(context.instance, platform, model, runner)
            yield from recorder.record(outcomes, model, [canary])
        yield from recorder.conclude()


def _canary_input(instance: dg.DagsterInstance, platform: Platform, model: str, runner: ModelRunner) -> Input:
    """Return the canary that the model's shards are made after, if there is one of this release and its columns."""
    report = find_report(platform.store, model)
    if report and report.is_of(runner.release, runner.columns):
        return recorded_input(instance, "sample_predictions", model, report.version)
    return Input("sample_predictions")
