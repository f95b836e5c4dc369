"""`precalc executions check github` finds each thing that is wrong, says what to do about it, and launches nothing."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_github import FORBIDDEN, NOT_FOUND, REPOSITORY, TOKEN, WORKFLOW_FILE, FakeGitHub

from precalc_assets.executions.github import GitHubBackend, workflow_inputs
from precalc_assets.executions.github_check import WORKFLOW_INPUTS, check
from precalc_assets.executions.records import Intent
from precalc_assets.platform_errors import ExecutionError


def test_check_passes_and_launches_nothing(backend: GitHubBackend, fake: FakeGitHub) -> None:
    assert [passed.partition(":")[0] for passed in check(backend)] == [
        "repository",
        "ref",
        "workflow",
        "inputs",
        "permission",
    ]
    assert fake.runs == {}


def _set(name: str, value: object) -> Callable[[FakeGitHub], None]:
    return lambda fake: setattr(fake, name, value)


def _fail(endpoint: str) -> Callable[[FakeGitHub], None]:
    return lambda fake: fake.faults[endpoint].append(FORBIDDEN if endpoint == "contents" else NOT_FOUND)


@pytest.mark.parametrize(
    ("spoil", "settings", "name", "said"),
    [
        (None, {"github_token": "old"}, "repository", "Bad credentials; the token has expired"),
        (None, {"github_repository": "ersilia-os/other"}, "repository", "check PRECALC_GITHUB_REPOSITORY"),
        (_set("archived", True), {}, "repository", "unarchive it"),
        (None, {"github_ref": "0123abc"}, "ref", "0123abc is no branch and no tag"),
        (None, {"github_workflow": "other.yml"}, "workflow", "PRECALC_GITHUB_WORKFLOW"),
        (_set("workflow_state", "disabled_inactivity"), {}, "workflow", "enable it"),
        (_fail("contents"), {}, "inputs", "Contents: read"),
        (_set("workflow_file", "on: push\n"), {}, "inputs", "no workflow_dispatch"),
        (_set("workflow_file", "on: [\n"), {}, "inputs", "no workflow_dispatch"),
        (_set("workflow_file", WORKFLOW_FILE.replace("key", "kee")), {}, "inputs", "no input key"),
        (_set("workflow_file", f"{WORKFLOW_FILE}      x:\n        required: true\n"), {}, "inputs", "requires x"),
        (_set("may_write", False), {}, "permission", "Actions: write"),
    ],
)
def test_each_fault_is_named_with_its_remedy(
    spoil: Callable[[FakeGitHub], None] | None,
    settings: dict[str, str],
    name: str,
    said: str,
    open_backend: Callable[..., GitHubBackend],
    fake: FakeGitHub,
) -> None:
    if spoil:
        spoil(fake)
    with pytest.raises(ExecutionError, match=f"^{name}: .*{re.escape(said)}"):
        list(check(open_backend(**settings)))
    assert fake.runs == {}


def test_checked_inputs_are_the_inputs_sent() -> None:
    intent = Intent.model_validate(
        {
            "key": "k",
            "model": "eos9abc",
            "compute": "github",
            "library_digest": "d",
            "shards": ["00"],
            "sample": 5,
            "created_at": "2026-11-29T12:00:00Z",
        }
    )
    assert set(workflow_inputs(intent, 50)) == set(WORKFLOW_INPUTS)


def test_workflow_of_this_repository_takes_the_inputs(backend: GitHubBackend, fake: FakeGitHub) -> None:
    fake.workflow_file = (Path(__file__).parents[2] / ".github/workflows/predict-parallel.yml").read_text()
    assert any(passed.startswith("inputs: ") for passed in check(backend))


def test_check_command_prints_one_line_for_the_fault(served: str, fake: FakeGitHub, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PRECALC_GITHUB_API_URL": served,
        "PRECALC_GITHUB_REPOSITORY": REPOSITORY,
        "PRECALC_GITHUB_TOKEN": TOKEN,
    }
    command = [str(Path(sys.executable).parent / "precalc"), "executions", "check", "github"]
    ready = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ready.returncode, ready.stderr) == (0, "")
    assert "ready" in ready.stdout
    fake.may_write = False
    refused = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: permission: GitHub answers 403")
    assert TOKEN not in refused.stderr
