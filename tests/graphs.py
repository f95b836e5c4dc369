"""A small graph over a test's stores and instance, and a platform that never waits."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContext
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from precalc_assets.definitions import build_defs
from precalc_assets.library.build import build_library
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

MODEL = "eos9abc"
MOLECULES = tuple("C" * n + end for n in (1, 2) for end in ("", "O", "N", "Cl", "F", "Br", "S", "C=O", "C#N"))
ALL_SHARDS = shard_keys(5)
"""The shards of the graph; each has molecules."""

SHARDS = ("01", "02", "03")
"""A range that leaves out the first shard and the last. Shard 02 has no molecule whose SMILES ends with O."""


class Graph:
    """The definitions for a few shards over a world's stores, and a Dagster instance."""

    def __init__(self, world, instance: dg.DagsterInstance, platform: type[Platform] = Platform, **more) -> None:
        self.world = world
        self.instance = instance
        settings = {
            name.removeprefix("PRECALC_").lower(): value
            for name, value in world.environment.items()
            if name.startswith("PRECALC_") and name != "PRECALC_N_SHARDS"
        }
        self.platform = platform(Settings(**{**settings, "n_shards": len(ALL_SHARDS), "batch_size": 50, **more}))
        self.defs = build_defs(self.platform)
        self.source = world.root / "library.smi"

    def change_library(self, molecules: Sequence[str], n_shards: int = len(ALL_SHARDS)) -> None:
        self.source.write_text("\n".join(molecules) + "\n")
        build_library(self.world.store, self.source, n_shards=n_shards, processes=1)

    def materialize(
        self, *assets: str, first: str = "", last: str = "", partition: str = "", config: dict | None = None
    ) -> dg.ExecuteInProcessResult:
        untried = {"raw_predictions": {"config": {"without_canary": True}}} if "raw_predictions" in assets else {}
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            tags=tags if first else {},
            partition_key=partition or None,
            run_config={"ops": untried if config is None else config},
            raise_on_error=False,
        )

    def materialize_library(self) -> None:
        assert self.materialize("reference_library").success
        assert self.materialize("library_shards", first=ALL_SHARDS[0], last=ALL_SHARDS[-1]).success

    def run_range(self, *assets: str) -> dg.ExecuteInProcessResult:
        return self.materialize(*assets, first=f"{MODEL}|{SHARDS[0]}", last=f"{MODEL}|{SHARDS[-1]}")

    def materializations(self, asset: str) -> list[dg.AssetMaterialization]:
        records = self.instance.fetch_materializations(dg.AssetKey(asset), limit=1_000).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def evaluations(self, asset: str, check: str) -> dict[str | None, bool]:
        key = dg.AssetCheckKey(dg.AssetKey(asset), check)
        history = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1_000)
        return {record.partition: record.status.value == "SUCCEEDED" for record in history if record.event}

    def statuses(self, asset: str) -> dict[str, dict[str, str]]:
        """Return the status of each partition in Checks → Partitions, by check. The UI shows the others as missing."""
        return check_statuses(self.instance, self.defs.resolve_asset_graph(), asset)

    def summary(self, asset: str, check: str) -> tuple[str, str]:
        """Return the status and the description that the UI shows for an asset's check."""
        return check_summary(self.instance, dg.AssetCheckKey(dg.AssetKey(asset), check))

    def stale(self, asset: str, partitions: Sequence[str]) -> list[str]:
        resolver = CachingStaleStatusResolver(self.instance, self.defs.resolve_asset_graph(), _Context(self.instance))
        key = dg.AssetKey(asset)
        return [name for name in partitions if resolver.get_status(key, name) == StaleStatus.STALE]

    def requested_of_late(self, asset: str) -> set[str]:
        """Return the requests of a newly started daemon: its first tick records the state, its second acts."""
        first = dg.evaluate_automation_conditions(self.defs, self.instance)
        second = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=first.cursor)
        return set(second.get_requested_partitions(dg.AssetKey(asset)))


@contextmanager
def ready_graph(world) -> Iterator[Graph]:
    """A graph with a library that no run has recorded, and a model that nothing has been computed of yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        built = Graph(world, instance)
        built.change_library(MOLECULES)
        world.write_model()
        instance.add_dynamic_partitions("models", [MODEL])
        yield built


def check_statuses(instance: dg.DagsterInstance, graph, asset: str) -> dict[str, dict[str, str]]:
    """Return an asset's check statuses as Dagster's GraphQL resolves them: by check and partition."""
    found: dict[str, dict[str, str]] = {}
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        for key in graph.get(dg.AssetKey(asset)).check_keys:
            partitions = graph.get(key).partitions_def
            [state] = instance.event_log_storage.get_asset_check_state([(key, partitions)]).values()
            found[key.name] = {
                partition: status.value
                for status, subset in state.subsets.items()
                for partition in (subset.subset_value.get_partition_keys() if partitions else [""] * subset.size)
            }
    return found


def check_summary(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> tuple[str, str]:
    """Return the status and the description of an asset's check from Dagster's GraphQL."""
    context = _Context(instance)
    record = asyncio.run(AssetCheckExecutionRecord.gen(context, key))
    assert asyncio.run(record.targets_latest_materialization(context))
    status = asyncio.run(record.resolve_status(context))
    return status.value, (record.evaluation.description or "") if record.evaluation else ""


class _Context(LoadingContext):
    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict:
        return self._loaders


class Clock:
    """A clock that also advances by the time slept. `on_sleep` is called once, at the next sleep."""

    def __init__(self) -> None:
        self._slept = timedelta()
        self.on_sleep: Callable[[], None] | None = None

    def now(self) -> datetime:
        return datetime.now(UTC) + self._slept

    def sleep(self, seconds: float) -> None:
        call, self.on_sleep = self.on_sleep, None
        if call:
            call()
        time.sleep(0.02)
        self._slept += timedelta(seconds=seconds)


class QuickPlatform(Platform):
    """The platform with a clock that turns GitHub's polling intervals into 20 ms."""

    clock = Clock()

    def engine(self, say, compute="", *, patient=True):
        return replace(super().engine(say, compute, patient=False), now=self.clock.now, sleep=self.clock.sleep)
