"""`dagster dev` as `make ui` starts it, and the GraphQL requests of its UI, for all tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx

from precalc_assets.library.build import build_library
from precalc_assets.sharding import shard_keys

PROJECT = Path(__file__).parents[1]
SHARDS = shard_keys(50)
"""The shards of the definitions with default settings."""

_DEADLINE = 420.0
_START_SECONDS = 90.0

_REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "precalc"}
_ADD_PARTITION = """
mutation($name: String!, $key: String!, $repository: RepositorySelector!) {
  addDynamicPartition(partitionsDefName: $name, partitionKey: $key, repositorySelector: $repository) { __typename }
}"""
_BACKFILL = """
mutation LaunchPartitionBackfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) { __typename ... on PythonError { message } }
}"""
_LAUNCH = """
mutation LaunchPipelineExecution($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
_REPEAT = """
mutation($parameters: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $parameters) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
_JOB = """
query($run: ID!) {
  runOrError(runId: $run) { ... on Run { repositoryOrigin { repositoryLocationName repositoryName } } }
}
"""
_RUNS = "{ runsOrError { ... on Runs { results { runId status assetSelection { path } } } } }"
_TAGGED = "query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId } } } }"
_EVENTS = """
query($asset: AssetKeyInput!) {
  assetOrError(assetKey: $asset) {
    ... on Asset {
      assetMaterializations(limit: 1000) {
        partition runId timestamp metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}"""
_FAILURES = """
query($run: ID!) {
  logsForRun(runId: $run) {
    ... on EventConnection { events { ... on ExecutionStepFailureEvent { error { message } } } }
  }
}"""
_PARTITIONS = """
query($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { partitionStats { numMaterialized numFailed } } }
}"""
_SENSOR = """
query($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) { ... on Sensor { sensorState { id } } }
}"""
_START = "mutation($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }"
_TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"
_STOP = "mutation($id: String!) { stopSensor(id: $id) { __typename } }"


class DagsterDev:
    """A running `dagster dev`: its webserver at `url`, and its process."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process

    def ask(self, query: str, **variables: object) -> dict:
        """Return GraphQL's answer."""
        asked = {"query": query, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=asked, timeout=30).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def add_model(self, model: str) -> None:
        """Add a model's partition."""
        self.ask(_ADD_PARTITION, name="models", key=model, repository=_REPOSITORY)

    def backfill(self, asset: str, keys: Sequence[str]) -> None:
        """Launch a backfill of these partitions."""
        selection = [{"path": [asset]}]
        launched = self.ask(_BACKFILL, backfillParams={"assetSelection": selection, "partitionNames": list(keys)})
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", launched

    def launch(self, asset: str, first: str, last: str) -> str:
        """Launch one run over a range of partitions, as the UI does for assets that take a range; return its id."""
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        selector = {**_REPOSITORY, "pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}]}
        parameters = {
            "mode": "default",
            "selector": selector,
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.ask(_LAUNCH, executionParams=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def repeat(self, run: str) -> str:
        """Re-execute a run, as the button of that name does; return the new run's id."""
        repeated = self.ask(_REPEAT, parameters={"parentRunId": run, "strategy": "ALL_STEPS"})["launchRunReexecution"]
        assert repeated["__typename"] == "LaunchRunSuccess", repeated
        return repeated["run"]["runId"]

    def is_in_timeline(self, run: str) -> bool:
        """Return whether the timeline, which lists jobs of repositories, shows a run."""
        return self.ask(_JOB, run=run)["runOrError"]["repositoryOrigin"] == _REPOSITORY

    def runs_of(self, asset: str) -> dict[str, str]:
        """Return the statuses of an asset's runs by id, newest first."""
        runs = self.ask(_RUNS)["runsOrError"]["results"]
        mine = [run for run in runs if [asset] in [key["path"] for key in run["assetSelection"] or []]]
        return {run["runId"]: run["status"] for run in mine}

    def runs_tagged(self, tag: str, value: str) -> list[str]:
        """Return the ids of the runs with a tag."""
        runs = self.ask(_TAGGED, filter={"tags": [{"key": tag, "value": value}]})["runsOrError"]["results"]
        return [run["runId"] for run in runs]

    def failures_of(self, run: str) -> list[str]:
        """Return the messages of a run's failed steps."""
        events = self.ask(_FAILURES, run=run)["logsForRun"]["events"]
        return [event["error"]["message"] for event in events if event]

    def materialized(self, asset: str) -> int:
        """Return how many partitions of an asset are materialised."""
        node = self.ask(_PARTITIONS, asset={"path": [asset]})["assetNodeOrError"]
        return node["partitionStats"]["numMaterialized"]

    def materializations(self, asset: str) -> list[dict]:
        """Return an asset's materialisations, newest first, each with its partition, run, time and metadata."""
        return self.ask(_EVENTS, asset={"path": [asset]})["assetOrError"]["assetMaterializations"]

    def terminate(self, run: str) -> None:
        """Terminate a run."""
        terminated = self.ask(_TERMINATE, run=run)["terminateRun"]
        assert terminated["__typename"] == "TerminateRunSuccess", terminated

    def switch_on(self, sensor: str) -> None:
        """Switch a sensor on."""
        started = self.ask(_START, sensor={**_REPOSITORY, "sensorName": sensor})["startSensor"]
        assert started["__typename"] == "Sensor", started

    def switch_off(self, sensor: str) -> None:
        """Switch a sensor off."""
        state = self.ask(_SENSOR, sensor={**_REPOSITORY, "sensorName": sensor})["sensorOrError"]["sensorState"]
        stopped = self.ask(_STOP, id=state["id"])["stopSensor"]
        assert stopped["__typename"] == "StopSensorMutationResult", stopped

    def wait_for(self, asset: str, partitions: int, *, may_fail: bool = False) -> None:
        """Wait until this many partitions of an asset are materialised, or a run fails."""
        deadline = time.monotonic() + _DEADLINE
        while self.materialized(asset) < partitions:
            assert time.monotonic() < deadline, f"{asset}: {self.materialized(asset)} of {partitions} partitions"
            failed = [run for run, status in self.runs_of(asset).items() if status == "FAILURE"]
            assert may_fail or not failed, self.failures_of(failed[0])
            time.sleep(1)


def wait_until(true: Callable[[], object], seconds: float = _DEADLINE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def build_fifty_shards(world) -> None:
    """Give a world a model, and a library with the definitions' number of shards."""
    source = world.root / "library.smi"
    source.write_text("\n".join("C" * n + end for n in range(1, 41) for end in ("", "O", "N", "Cl")) + "\n")
    build_library(world.store, source, n_shards=50, processes=1)
    world.write_model()


@contextmanager
def dagster_dev(world, **settings: str) -> Iterator[DagsterDev]:
    """Start `dagster dev` on a world's stores and its instance. `settings` have no prefix."""
    home = world.root / "dagster_home"
    home.mkdir(exist_ok=True)
    shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.set_concurrency_slots("executions", 20)  # as docs/deploy.md says
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = {f"PRECALC_{name.upper()}": value for name, value in settings.items()}
    environment = {**world.environment, "DAGSTER_HOME": str(home), "PRECALC_N_SHARDS": str(len(SHARDS)), **named}
    dagster = Path(sys.executable).parent / "dagster"
    command = [str(dagster), "dev", "--workspace", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (world.root / "dagster.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield _started(DagsterDev(f"http://127.0.0.1:{port}", process))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def _started(started: DagsterDev) -> DagsterDev:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and started.process.poll() is None:
        try:
            started.ask("{ version }")
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return started
    raise AssertionError("dagster dev did not start")
