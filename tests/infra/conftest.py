"""The stacks, synthesised once for all tests."""

from pathlib import Path

import pytest
from stacks import REPOSITORY, Template, load_templates, require_tools, run_app

ADDRESS = "maintainers@example.org"


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stacks of a deployment with all options."""
    require_tools()
    folder = tmp_path_factory.mktemp("assembly") / "cdk.out"
    done = run_app(folder, repository=REPOSITORY, alarm_email=ADDRESS, athena="true")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def stacks(assembly: Path) -> dict[str, Template]:
    """The stacks `storage`, `api`, `athena` and `github`."""
    return load_templates(assembly)
