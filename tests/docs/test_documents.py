"""The documents: their site builds, and they follow the code."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from precalc.cli.app import app as client_app
from precalc_assets.cli.platform_commands import app as platform_app
from precalc_assets.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for glob in ("*.md", "[!.]*/README.md", "docs/*.md") for page in ROOT.glob(glob))
COMMANDS = typer.main.get_command(client_app).commands | typer.main.get_command(platform_app).commands
SETTINGS = {f"PRECALC_{name.upper()}" for name in Settings.model_fields}
OTHER_VARIABLES = {"PRECALC_API_KEY", "PRECALC_API_URL", "PRECALC_LOGS_BUCKET", "PRECALC_RUNS_ON"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's HTML; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, ROOT / "docs" / "build_site.py", folder]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) == len(PAGES) + 1  # and the page for what is not found
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\s\">]*)", page.read_text())
        assert not loaded, page


def test_reference_has_every_setting_with_its_meaning(site: Path) -> None:
    page = (site / "docs" / "settings.html").read_text()
    assert {name for name in SETTINGS if f"<code>{name}</code>" in page} == SETTINGS
    assert "Share of a shard's molecules that may be quarantined" in page.replace("&#39;", "'").replace("’", "'")


def test_reference_has_every_command(site: Path) -> None:
    page = (site / "docs" / "commands.html").read_text()
    groups = {name: command for name, command in COMMANDS.items() if isinstance(command, click.Group)}
    leaves = [f"{name} {leaf}" for name, group in groups.items() for leaf in group.list_commands(click.Context(group))]
    single = [name for name in COMMANDS if name not in groups]
    assert not [name for name in (*leaves, *single) if f'id="precalc-{name.replace(" ", "-")}"' not in page]
    assert "<code>--until TEXT</code>" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"PRECALC_[A-Z][A-Z_]*[A-Z]", text)) <= SETTINGS | OTHER_VARIABLES
    code = " ".join(re.findall(r"^```.*?^```|`[^`]+`", text, re.DOTALL | re.MULTILINE))
    assert set(re.findall(r"(?<!from )\bprecalc ([a-z]+)", code)) <= set(COMMANDS)


def test_contributing_names_every_root_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [ROOT / "precalc_assets", ROOT / "client" / "precalc"]
    entries = [
        path
        for package in packages
        for path in package.iterdir()
        if path.name[0] not in "_." and path.suffix in ("", ".py")
    ]
    names = [f"`{path.stem}`" if path.suffix == ".py" else f"`{path.name}/`" for path in entries]
    assert not [name for name in names if name not in text]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_page_fits_two_screens(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= 80
