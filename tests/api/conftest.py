"""Tables and the API for them, for tests of the read API."""

from pathlib import Path

import pytest
from made_up import serve
from serving import KEYS, Api, predictions

from precalc_assets.tables import KeyValueStore, open_tables


@pytest.fixture
def tables(tmp_path: Path) -> KeyValueStore:
    """Empty tables."""
    return open_tables(f"sqlite:///{tmp_path / 'tables.db'}")


@pytest.fixture
def api(tables: KeyValueStore) -> Api:
    """The API for tables in which one model is served, all shards of it."""
    serve(tables, predictions(KEYS))
    return Api(tables)
