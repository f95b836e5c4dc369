"""The client alone: what it can do, and what it says about what is not installed."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fake_api import KEY, MODEL, fake_api
from typer.testing import CliRunner

from precalc import Client, PrecalcError, UsageError, api_keys, extras, plugins
from precalc.cli import served_models
from precalc.cli.app import app
from precalc.cli.get import Options, get
from precalc.formats import LEADING, CsvFormat, find_format
from precalc.getting import Request, get_to_file
from precalc.molecules.molecule_input import read_list


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (extras, api_keys):
        monkeypatch.setattr(module, "find_spec", lambda name: None)


@pytest.fixture
def an_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_models, "open_source", lambda api: fake_api())
    monkeypatch.setattr(sys.modules["precalc.cli.get"], "find_source", lambda api: fake_api)


@pytest.mark.usefixtures("no_extras")
def test_get_without_an_api_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (lambda: get([MODEL, "CCO"], Options()), Client):
        with pytest.raises(UsageError, match=r"^no API is named; give its URL with --api, or set PRECALC_API_URL$"):
            read()
    monkeypatch.setenv("PRECALC_API_URL", "https://api.example/v1/")
    assert plugins.open_source().name == "https://api.example/v1"


@pytest.mark.usefixtures("an_api")
def test_compute_missing_says_that_it_needs_the_platform(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the platform"):
        get([MODEL, KEY], Options(output=tmp_path / "out.csv", compute_missing=True))


@pytest.mark.usefixtures("an_api")
def test_models_and_describe_show_what_an_api_has() -> None:
    listed = CliRunner().invoke(app, ["models"], env={"COLUMNS": "120"}).stdout.splitlines()
    assert listed[0].split() == ["model", "title", "columns", "release", "shards", "molecules", "deterministic"]
    assert listed[1].split() == [MODEL, "Molecular", "weight", "1", "v1.0.0", "49/50", "1,234,567", "no"]
    described = CliRunner().invoke(app, ["describe", MODEL], env={"COLUMNS": "120"}).stdout
    for words in ("Molecular weight", "49/50", "1,234,567", "runs differ in weight", "In g/mol", "library incomplete"):
        assert words in described
    assert "1.25 runner-hours, $0.50, 350 MB of memory" in described


def test_commands_are_the_clients_alone() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    named = [line.split()[1] for line in shown.splitlines() if line.startswith("│ ") and "--" not in line[:4]]
    assert [name for name in named if name.isalpha() and name.islower()] == [
        "get",
        "screen",
        "download",
        "models",
        "describe",
        "login",
    ]


@pytest.mark.usefixtures("no_extras")
def test_missing_extras_are_named_with_their_command(tmp_path: Path) -> None:
    client = Client(source=fake_api())
    request = partial(Request, fake_api().open(MODEL), read_list([KEY]))
    for use, extra in (
        (lambda: list(read_list(["CCO"]).batches(1)), "smiles"),
        (lambda: client.get(MODEL, [KEY]), "pandas"),
        (client.models, "pandas"),
        (lambda: get_to_file(request(find_format("parquet", None)), tmp_path / "out.parquet"), "parquet"),
        (lambda: api_keys.store_key("https://api.example", "s3cret"), "keyring"),
    ):
        with pytest.raises(PrecalcError, match=rf"is not installed; run: pip install 'precalc-client\[{extra}\]'"):
            use()
    assert api_keys.find_key("https://api.example") is None
    get_to_file(request(CsvFormat), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == f"{','.join(LEADING)},weight\n{KEY},{KEY},found,,key,,46.07\n"


HEAVY = {"pandas", "numpy", "pyarrow", "rdkit", "keyring", "polars", "dagster", "precalc_assets"}


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    """The platform's modules are looked up when a command runs, not when the client is imported."""
    code = (
        "import sys, precalc, precalc.client, precalc.remote, precalc.cli, precalc.cli.get, precalc.cli.served_models;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
