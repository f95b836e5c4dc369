"""Tables with a model in them, and both ways of reading it."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from made_up import serve
from served_model import ROWS, remote

from precalc_assets.client.local import LocalSource
from precalc_assets.client.source import Source
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


@pytest.fixture
def no_room() -> Callable[[int], AbstractContextManager[None]]:
    """While it lasts, no file can be written behind so many bytes: it fails there as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))

    return limited
