"""Dagster's instance in production, as far as that can be known without its Postgres and its bucket."""

import re
from pathlib import Path

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import ConfigurableClassData, class_from_code_pointer

PROJECT = Path(__file__).parents[2]
GIVEN = PROJECT / "deploy" / "dagster.yaml"
ENVIRONMENT = ("DAGSTER_PG_HOST", "DAGSTER_PG_DB", "DAGSTER_PG_USERNAME", "DAGSTER_PG_PASSWORD", "PRECALC_LOGS_BUCKET")


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^\S+==\S+", (PROJECT / lock).read_text(), re.MULTILINE))


def uncommented(text: str) -> str:
    """Return the file with the alternative at its end switched on."""
    before, alternative = text.split("# Uncomment all of it:\n#\n")
    return before + re.sub(r"^# ?", "", alternative, flags=re.MULTILINE)


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "given")
    return tmp_path


def test_production_installs_the_versions_that_are_tested():
    tested, installed = pins("requirements.lock"), pins("deploy/requirements.lock")
    added = {pin.partition("==")[0] for pin in installed - tested}
    assert added == {"dagster-aws", "dagster-postgres", "psycopg2-binary"}


@pytest.mark.slow
@pytest.mark.parametrize("change", [str, uncommented], ids=["one host", "tasks on ECS"])
def test_dagster_understands_the_file_and_its_classes(home, change):
    (home / "dagster.yaml").write_text(change(GIVEN.read_text()))
    dagster_instance_config(str(home))  # Raises for what is misspelt.
    instance = InstanceRef.from_dir(str(home))
    named = [data for data in instance if isinstance(data, ConfigurableClassData)]
    assert {"PostgresRunStorage", "PostgresEventLogStorage", "S3ComputeLogManager"} <= {d.class_name for d in named}
    assert ("EcsRunLauncher" in {d.class_name for d in named}) == (change is uncommented)
    for data in named:
        schema = class_from_code_pointer(data.module_name, data.class_name).config_type()
        result = process_config(resolve_to_config_type(schema), data.config_dict)
        assert result.success, (data.class_name, result.errors)


def test_a_laptop_has_the_pools_of_production():
    laptop = yaml.safe_load((PROJECT / "dagster_home" / "dagster.yaml").read_text())
    assert laptop["concurrency"]["pools"] == yaml.safe_load(GIVEN.read_text())["concurrency"]["pools"]


def test_each_variable_that_it_reads_is_in_the_documentation():
    read = set(re.findall(r"\{env: (\w+)\}", GIVEN.read_text()))
    assert read == set(ENVIRONMENT)
    assert all(name in (PROJECT / "docs" / "deploy.md").read_text() for name in read)
    assert yaml.safe_load(GIVEN.read_text())["telemetry"] == {"enabled": False}
