"""Prism checks our requests, and the fake's answers, against GitHub's own description of its API."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import fake_github
import httpx
import pytest
from fake_github import DROPPED, INSTALLATION, REPOSITORY, TOKEN, WORKFLOW, FakeGitHub, github_settings, wait_for
from simulation import MEANINGS, MODEL, SHARDS, Simulation

from precalc_assets.executions.compute_backend import BackendError, UnansweredError
from precalc_assets.executions.following import follow
from precalc_assets.executions.github import GitHubBackend, open_github
from precalc_assets.executions.github_check import check
from precalc_assets.executions.records import Intent, Run

pytestmark = pytest.mark.slow

INTENT = Intent(
    key=f"{MODEL}-0009",
    model=MODEL,
    compute="github",
    library_digest="d",
    shards=SHARDS,
    created_at=datetime(2020, 1, 1, tzinfo=UTC),
)

_MODULES = Path(__file__).parent / "node_modules"
_DESCRIPTION = _MODULES / "@octokit" / "openapi" / "generated" / "api.github.com.json"
_IN_REPOSITORY = (
    "",
    "/actions/jobs/{job_id}/logs",
    "/actions/runs/{run_id}",
    "/actions/runs/{run_id}/cancel",
    "/actions/runs/{run_id}/force-cancel",
    "/actions/runs/{run_id}/jobs",
    "/actions/workflows/{workflow_id}",
    "/actions/workflows/{workflow_id}/dispatches",
    "/actions/workflows/{workflow_id}/runs",
    "/contents/{path}",
    "/git/ref/{ref}",
)
_PATHS = (
    *(f"/repos/{{owner}}/{{repo}}{path}" for path in _IN_REPOSITORY),
    "/app/installations/{installation_id}/access_tokens",
)


def _cut(description: dict) -> dict:
    """Return the description of the paths in use, with the components that they refer to: of 13 MB, 250 kB."""
    paths = {path: description["paths"][path] for path in _PATHS}
    components: dict[str, dict] = {}
    texts = [json.dumps(paths)]
    while texts:
        for kind, name in re.findall(r'"#/components/(\w+)/([\w.-]+)"', texts.pop()):
            if name not in components.setdefault(kind, {}):
                components[kind][name] = description["components"][kind][name]
                texts.append(json.dumps(components[kind][name]))
    return {
        "openapi": description["openapi"],
        "info": description["info"],
        "paths": paths,
        "components": components,
    }


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description, cut to what is used."""
    path = tmp_path_factory.mktemp("description") / "github.json"
    path.write_text(json.dumps(_cut(json.loads(_DESCRIPTION.read_text()))))
    return path


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


@pytest.fixture
def fake(simulation: Simulation) -> FakeGitHub:
    return simulation.fake


@pytest.fixture
def prism(served: str, description: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a proxy before the fake that answers 500 where request or answer break the description."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(_MODULES / ".bin" / "prism"), "proxy", str(description), served, "--errors"]
    with (tmp_path / "prism.log").open("w") as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
        try:
            wait_for(lambda: _listens(port), 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def checked(prism: str) -> GitHubBackend:
    """A backend over the fake, through the proxy."""
    return open_github(github_settings(prism), read_pauses=())


def test_every_request_of_ours_keeps_the_contract(
    checked: GitHubBackend, fake: FakeGitHub, simulation: Simulation
) -> None:
    simulation.fails = {"02": 1}
    assert len(list(check(checked))) == 5
    engine = replace(simulation.engine(), open_backend=lambda _: checked)
    assert all(outcome.landed for outcome in follow(engine, MODEL, SHARDS))
    run_id = fake.dispatch("main", {"model-id": MODEL, "key": INTENT.key})
    found = checked.look_up(INTENT)
    assert found is not None
    assert found.run_id == run_id
    checked.cancel(INTENT, found)
    checked.cancel(INTENT, found, force=True)
    asked = {"repository", "ref", "workflow", "contents", "dispatch", "list_runs", "get_run", "list_jobs", "log"}
    assert asked | {"cancel", "force_cancel"} == set(fake.asked)


def test_token_request_of_an_app_keeps_the_contract(prism: str, fake: FakeGitHub) -> None:
    answer = httpx.post(f"{prism}/app/installations/{INSTALLATION}/access_tokens", json={}, timeout=20)
    assert answer.status_code == 201
    assert answer.json()["token"] == TOKEN


@pytest.mark.parametrize("name", [name for name, (fault, _) in MEANINGS.items() if fault.status != DROPPED.status])
def test_fault_means_the_same_through_the_proxy(name: str, checked: GitHubBackend, fake: FakeGitHub) -> None:
    fault, kind = MEANINGS[name]
    fake.faults["dispatch"].append(fault)
    with pytest.raises(BackendError) as error:
        checked.dispatch({"model-id": MODEL})
    assert type(error.value) is kind


def test_request_that_breaks_the_contract_is_caught(prism: str, fake: FakeGitHub) -> None:
    url = f"{prism}/repos/{REPOSITORY}/actions/workflows/{WORKFLOW}/dispatches"
    answer = httpx.post(url, json={"ref": 5}, headers={"authorization": f"token {TOKEN}"}, timeout=20)
    assert answer.status_code == 422
    assert "Request body property ref must be string" in answer.text
    assert fake.asked == []


def _without_title(run: fake_github.FakeRun) -> dict:
    return {name: value for name, value in fake_github.run_object(run).items() if name != "display_title"}


def test_answer_that_breaks_the_contract_is_caught(checked: GitHubBackend, fake: FakeGitHub) -> None:
    run_id = fake.dispatch("main", {"model-id": MODEL})
    fake.describe_run = _without_title
    with pytest.raises(UnansweredError, match="Request/Response not valid"):
        checked.status(INTENT, Run(run_id=run_id, url=""))
