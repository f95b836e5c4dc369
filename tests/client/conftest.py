"""Tables with a model in them, and both ways of reading it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from full_disk import no_room  # noqa: F401
from made_up import serve
from served_model import ROWS, remote

from precalc.source import Source
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.tables import KeyValueStore, open_tables


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    for name in ("PRECALC_API_KEY", "PRECALC_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


@pytest.fixture
def tables(tmp_path: Path) -> KeyValueStore:
    """Tables in which a model is served."""
    tables = open_tables(f"sqlite:///{tmp_path / 'tables.db'}")
    serve(tables, ROWS)
    return tables


@pytest.fixture(params=["tables", "API"])
def source(request: pytest.FixtureRequest, tables: KeyValueStore) -> Iterator[Source]:
    """The model by each way."""
    source = LocalSource(tables, "sqlite:///tables.db") if request.param == "tables" else remote(tables)
    yield source
    if request.param == "API":
        source.close()
