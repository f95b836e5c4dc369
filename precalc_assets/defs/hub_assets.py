"""The hub's models as an asset, and the sensor that notices new ones. What becomes of a model belongs to campaigns."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from precalc_assets.defs.partitions import MODELS
from precalc_assets.defs.policies import clear_skips
from precalc_assets.defs.recording import own_step
from precalc_assets.defs.ui_metadata import hub_metadata
from precalc_assets.models.hub_registry import list_changes, read_registry, stored_registry
from precalc_assets.platform import Platform


class HubConfig(dg.Config):
    """Whether partitions are added."""

    add_models: bool = Field(default=False, description="Add a partition for each model that may be computed.")


@dg.asset(
    group_name="hub",
    pool="library",
    kinds={"json"},
    description="The hub's registry of all its models: status, release, source, licence, sizes, published speed, and "
    "why a model is not computed with the whole hub.",
)
def hub_models(
    context: dg.AssetExecutionContext, config: HubConfig, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None]]:
    """Read the registry, keep it in the store, and say what has changed since the last time."""
    with own_step(context):
        slot = stored_registry(platform.store)
        before, registry = slot.read(), read_registry(platform.settings)
        changes = list_changes(before, registry) if before else []
        slot.put(registry)
        if config.add_models:
            context.instance.add_dynamic_partitions(MODELS, registry.computable(platform.settings))
        for line in (registry.describe(platform.settings), *changes, *registry.unreadable):
            context.log.info(line)
        metadata = hub_metadata(registry, changes, platform)
        yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(registry.digest))


@dg.sensor(
    name="hub_changes",
    asset_selection=dg.AssetSelection.assets(hub_models),
    minimum_interval_seconds=3600,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Reads the hub's registry each hour and materialises hub_models if a model or a release is new. Its "
    "tick's log and the run say which. It adds no partition and computes no model.",
)
@clear_skips
def hub_changes(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    """Request a run if the registry differs from the stored one."""
    before, registry = stored_registry(platform.store).read(), read_registry(platform.settings)
    changes = list_changes(before, registry) if before else ["the registry was not read before"]
    if not changes:
        return dg.SkipReason(f"no model and no release is new in {registry.source}")
    for line in changes:
        context.log.info(line)
    # A run that fails is requested again on the next day.
    stored = f"{before.read_at:%Y%m%dT%H%M%S}" if before else "none"
    return dg.RunRequest(run_key=f"{registry.read_at:%Y%m%d}/{stored}/{registry.digest}")
