"""What Dagster loads: the assets of all groups with their resources, sensors and executor."""

import dagster as dg

from precalc_assets.defs.executions.sensors import execution_sensors
from precalc_assets.defs.inference.assets import inference_assets
from precalc_assets.defs.library.assets import library_assets
from precalc_assets.defs.partitions import shard_partitions
from precalc_assets.defs.resources import Platform
from precalc_assets.defs.serving.assets import serving_assets
from precalc_assets.defs.serving.automation import automation
from precalc_assets.settings import load_settings


def build_defs(platform: Platform) -> dg.Definitions:
    """Assemble the graph of an installation. Tests pass their own platform."""
    partitions = shard_partitions(platform.settings.n_shards)
    return dg.Definitions(
        assets=[
            *library_assets(partitions),
            *inference_assets(partitions, platform.inference_pool),
            *serving_assets(partitions, platform.tables_kind),
        ],
        sensors=[automation, *execution_sensors(platform.settings.compute)],
        resources={"platform": platform},
        # A run's steps run one after another, so a process for each would only cost its start.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return the graph of this installation, from its settings."""
    return build_defs(Platform(load_settings()))
