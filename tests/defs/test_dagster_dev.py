"""`dagster dev` as `make ui` starts it: a model is added or asked for, is one run, and the rest follows by itself."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from precalc_assets.library import build_library, put_source

PROJECT = Path(__file__).parents[2]
MODEL = "eos9abc"
DEADLINE = 240.0

ADD_PARTITION = """
mutation($name: String!, $key: String!) {
  addDynamicPartition(
    partitionsDefName: $name, partitionKey: $key,
    repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "precalc"}
  ) { __typename }
}"""
BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on PythonError { message } }
}"""
RUNS = "{ runsOrError { ... on Runs { results { status assetSelection { path } } } } }"
PARTITIONS = """
query($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { partitionStats { numMaterialized numFailed } } }
}"""


class Webserver:
    """GraphQL as the UI speaks it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: object) -> dict:
        answer = httpx.post(self._url, json={"query": query, "variables": variables}, timeout=30).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def backfill(self, assets: list[str], keys: list[str]) -> None:
        selection = [{"path": [asset]} for asset in assets]
        launched = self.ask(BACKFILL, params={"assetSelection": selection, "partitionNames": keys})
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", launched

    def runs_of(self, asset: str) -> list[str]:
        runs = self.ask(RUNS)["runsOrError"]["results"]
        return [run["status"] for run in runs if [asset] in [key["path"] for key in run["assetSelection"] or []]]

    def materialized(self, asset: str) -> int:
        node = self.ask(PARTITIONS, asset={"path": [asset]})["assetNodeOrError"]
        return node["partitionStats"]["numMaterialized"]

    def wait_for(self, asset: str, partitions: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while self.materialized(asset) < partitions:
            assert time.monotonic() < deadline, f"{asset}: {self.materialized(asset)} of {partitions} partitions"
            assert "FAILURE" not in self.runs_of(asset)
            time.sleep(1)


@pytest.fixture
def webserver(world) -> Iterator[Webserver]:
    home = world.root / "dagster_home"
    home.mkdir()
    shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**world.environment, "DAGSTER_HOME": str(home)}
    del environment["PRECALC_N_SHARDS"]
    dagster = Path(sys.executable).parent / "dagster"
    command = [str(dagster), "dev", "--workspace", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (world.root / "dagster.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield _started(Webserver(port), process)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def _started(webserver: Webserver, process: subprocess.Popen) -> Webserver:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            webserver.ask("{ version }")
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return webserver
    raise AssertionError("dagster dev did not start")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_backfill_from_the_ui_is_one_run_and_the_rest_follows(world, webserver: Webserver):
    source = world.root / "library.smi"
    source.write_text("\n".join("C" * n + end for n in range(1, 41) for end in ("", "O", "N", "Cl")) + "\n")
    build_library(world.store, source, n_shards=50, processes=1)
    put_source(world.store, source)
    world.write_model()
    shards = [f"{index:02d}" for index in range(50)]

    webserver.ask(ADD_PARTITION, name="models", key=MODEL)
    webserver.backfill(["library_shards"], shards)
    webserver.wait_for("library_shards", 50)
    webserver.backfill(["raw_predictions"], [f"{MODEL}|{shard}" for shard in shards])
    webserver.wait_for("prediction_table", 50)
    webserver.wait_for("model_card", 1)

    assert webserver.runs_of("raw_predictions") == ["SUCCESS"]
    assert world.precalc("get", MODEL, "CCO").stdout.splitlines()[1].startswith("LFQSCWFLJHTTHZ-UHFFFAOYSA-N,CCO,1.0,3")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_that_is_asked_for_is_tried_run_and_served_by_the_daemon(world, webserver: Webserver):
    source = world.root / "library.smi"
    source.write_text("\n".join("C" * n + end for n in range(1, 41) for end in ("", "O", "N", "Cl")) + "\n")
    build_library(world.store, source, n_shards=50, processes=1)
    put_source(world.store, source)
    world.write_model()
    webserver.backfill(["library_shards"], [f"{index:02d}" for index in range(50)])
    webserver.wait_for("library_shards", 50)

    assert world.precalc("request", MODEL).returncode == 0

    webserver.wait_for("sample_predictions", 1)
    webserver.wait_for("prediction_table", 50)
    deadline = time.monotonic() + DEADLINE
    while not world.objects("requests/met"):
        assert time.monotonic() < deadline
        time.sleep(1)
