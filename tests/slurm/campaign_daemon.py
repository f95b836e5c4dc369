"""A process that works on a campaign as Dagster's daemon does: it ticks the sensors and starts the runs they request.

A run is a process of the same process group. Its clock is the site's, which goes faster than the cluster's.
"""

import multiprocessing
import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG
from slurm_site import FastClock

from precalc_assets.definitions import build_defs
from precalc_assets.defs.dead_runs import process_tags
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings

_SENSORS = ("precalculation_requests", "campaign", "executions")
_PAUSE = 2.0

_PROCESSES = multiprocessing.get_context("forkserver")


class FastPlatform(Platform):
    """A platform whose engine has the fast clock."""

    clock = FastClock()

    def engine(self, say, compute="", *, patient=True):
        return replace(super().engine(say, compute, patient=patient), now=self.clock.now, sleep=self.clock.sleep)


def main() -> None:
    _PROCESSES.set_forkserver_preload(["campaign_daemon"])
    platform = FastPlatform(Settings(_env_file=None))
    defs = build_defs(platform)
    with dg.DagsterInstance.get() as instance:
        while True:
            for sensor in _SENSORS:
                tick(defs, platform, instance, sensor)
            time.sleep(_PAUSE)


def tick(defs: dg.Definitions, platform: Platform, instance: dg.DagsterInstance, sensor: str) -> None:
    """Let a sensor tick, and start the runs that it requests, but no key twice."""
    repository = defs.get_repository_def()
    context = dg.build_sensor_context(instance, repository_def=repository, resources={"platform": platform})
    ticked = repository.get_sensor_def(sensor).evaluate_tick(context)
    for request in ticked.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    for request in ticked.run_requests or ():
        known = dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key})
        if instance.get_runs(known):
            continue
        run = (request.job_name, request.run_config, {**request.tags, RUN_KEY_TAG: request.run_key})
        process = _PROCESSES.Process(target=execute, args=run, daemon=True)
        process.start()
        while process.is_alive() and not instance.get_runs(known):
            time.sleep(0.1)


def execute(job: str, run_config: Mapping[str, object], tags: Mapping[str, str]) -> None:
    """Execute a run in this process."""
    defs = build_defs(FastPlatform(Settings(_env_file=None)))
    run_id = str(uuid4())
    # Dagster's daemon goes on with a run that it has not started yet; these tags have such a run settled.
    options = {"run_config": run_config, "tags": {**tags, **process_tags(run_id)}, "raise_on_error": False}
    with dg.DagsterInstance.get() as instance:
        defs.resolve_job_def(job).execute_in_process(run_id=run_id, instance=instance, **options)


if __name__ == "__main__":
    main()
