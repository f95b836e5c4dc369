"""What Dagster loads: the assets of all groups with their resources, sensors and executor."""

from urllib.parse import urlsplit

import dagster as dg

from precalc_assets.defs.attempts import COMPUTE_SHARDS, TRY_MODEL
from precalc_assets.defs.dagster_internals import hide_log_readers, sleep_while_blocked
from precalc_assets.defs.failure_messages import failure_sensor
from precalc_assets.defs.hub_assets import hub_changes, hub_models
from precalc_assets.defs.hub_status import REFRESH_STATUS, hub_status_sensor, status
from precalc_assets.defs.inference_assets import inference_assets
from precalc_assets.defs.jobs import REBUILD_CARD, REFRESH_LIBRARY, RELOAD_TABLE, model_jobs
from precalc_assets.defs.library_assets import library_assets
from precalc_assets.defs.partitions import shard_partitions
from precalc_assets.defs.policies import platform_resource, with_policies
from precalc_assets.defs.sensors import execution_sensors
from precalc_assets.defs.serving_assets import automation, serving_assets
from precalc_assets.own_process import hide_process, limit_malloc
from precalc_assets.platform import Platform, open_platform

hide_process()
limit_malloc()
hide_log_readers()
sleep_while_blocked()


def build_defs(platform: Platform) -> dg.Definitions:
    """Assemble the graph of an installation. Tests pass their own platform."""
    settings = platform.settings
    partitions = shard_partitions(settings.n_shards)
    assets = [
        *library_assets(partitions, settings.library_days),
        *inference_assets(partitions, settings.compute),
        *serving_assets(partitions, urlsplit(settings.tables_url).scheme),
        status,
        hub_models,
    ]
    definitions = dg.Definitions(
        assets=with_policies(assets, settings),
        jobs=[
            TRY_MODEL,
            COMPUTE_SHARDS,
            RELOAD_TABLE,
            REBUILD_CARD,
            REFRESH_LIBRARY,
            REFRESH_STATUS,
            *model_jobs(lambda: definitions.resolve_implicit_global_asset_job_def()),
        ],
        sensors=[
            automation,
            hub_changes,
            *execution_sensors(settings.compute),
            hub_status_sensor,
            failure_sensor(settings),
        ],
        resources={"platform": platform_resource(platform)},
        # A run's steps run one after another, so a process for each would only cost its start.
        executor=dg.in_process_executor,
    )
    return definitions


@dg.definitions
def defs() -> dg.Definitions:
    """Return the graph of this installation, from its settings."""
    return build_defs(open_platform())
