"""The assets of the group `inference`: what models print."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from precalc_assets.defs.library.assets import library_shards
from precalc_assets.defs.partitions import model_shards, models, shards_by_model
from precalc_assets.defs.recording import Event, Recorder, check_specs, clear_failures
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import FrameworkRunner, find_model, predict_sample, predict_shards

RAW_CHECKS = {"failure_rate": "few enough molecules are quarantined"}


class SampleConfig(dg.Config):
    """How many molecules the canary is given."""

    size: int = Field(default=100, ge=1)


@dg.asset(
    deps=[dg.AssetDep(library_shards, partition_mapping=dg.AllPartitionMapping())],
    partitions_def=models,
    group_name="inference",
    kinds={"parquet"},
    description="The canary: the model on the library's first molecules by shard hash.",
)
def sample_predictions(
    context: dg.AssetExecutionContext, config: SampleConfig, platform: dg.ResourceParam[Platform]
) -> Iterator[Event]:
    """Run the model over a sample."""
    with clear_failures():
        settings = platform.settings
        library = platform.library()
        folder = find_model(context.partition_key, settings.model_folders)
        outcome = predict_sample(
            platform.store,
            library,
            folder.model,
            FrameworkRunner.from_settings(folder, settings),
            config.size,
            batch_size=settings.batch_size,
            on_progress=platform.progress(context.log, config.size),
        )
        facts = dict(outcome.facts)
        yield dg.MaterializeResult(
            metadata={
                "dagster/row_count": facts.pop("rows"),
                "dagster/uri": platform.uri(str(facts.pop("path"))),
                **facts,
            },
            data_version=dg.DataVersion(outcome.digest),
        )


@dg.asset(
    deps=[library_shards],
    partitions_def=model_shards,
    group_name="inference",
    kinds={"csv"},
    description="What the model printed for each molecule of the shard, unchanged, in parts with a manifest. "
    "A molecule that it could not answer is in the quarantine list with the reason.",
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=check_specs("raw_predictions", RAW_CHECKS, model_shards),
)
def raw_predictions(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Run the model over the shards of this run."""
    with clear_failures():
        settings = platform.settings
        library = platform.library()
        recorder = Recorder(context, platform, "library_shards", checks=RAW_CHECKS)
        for model, shards in shards_by_model(context.partition_keys).items():
            folder = find_model(model, settings.model_folders)
            outcomes = predict_shards(
                platform.store,
                library,
                model,
                FrameworkRunner.from_settings(folder, settings),
                shards,
                batch_size=settings.batch_size,
                max_failure_rate=settings.max_failure_rate,
                on_progress=platform.progress(context.log, sum(library.shards[shard].rows for shard in shards)),
            )
            yield from recorder.record(outcomes, model)
        yield from recorder.conclude()
