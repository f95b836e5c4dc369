"""What is kept between requests, and for how long."""

import pytest
from serving import KEYS, MODEL, predictions, serve

from precalc_assets.api.served import LISTING_SECONDS, ServedModels
from precalc_assets.columns import Column
from precalc_assets.errors import TableError
from precalc_assets.tables import Item
from precalc_assets.tables.directory import COLUMNS_KEY
from precalc_assets.tables.reader import CACHE_SECONDS

ROWS = predictions(KEYS)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def models(tables, clock):
    return ServedModels(tables, clock=clock)


def test_a_model_is_found_as_soon_as_it_is_served(tables, models):
    assert models.find(MODEL) is None
    assert models.read(MODEL, KEYS) is None
    serve(tables, ROWS)
    assert models.read(MODEL, KEYS).rows == list(ROWS.values())


def test_a_model_is_opened_once_a_minute(tables, models, clock):
    serve(tables, ROWS)
    first = models.find(MODEL)
    clock.now = CACHE_SECONDS - 1
    assert models.find(MODEL) is first
    clock.now = CACHE_SECONDS
    assert models.find(MODEL) is not first


def test_new_columns_are_seen_after_a_minute(tables, models, clock):
    serve(tables, ROWS)
    models.find(MODEL)
    rows = {key: (at,) for at, key in enumerate(KEYS)}
    serve(tables, rows, columns=[Column("new", "integer", "", "")], release="v2.0.0")
    clock.now = CACHE_SECONDS
    answered = models.read(MODEL, KEYS)
    assert [column.name for column in answered.served.reader.columns] == ["new"]
    assert answered.rows == list(rows.values())
    assert answered.releases == ["v2.0.0"]


def test_a_table_that_was_made_anew_is_opened_anew(tables, models):
    serve(tables, ROWS)
    models.find(MODEL)
    tables.drop_table(MODEL)
    serve(tables, ROWS, n_shards=8, shards=[f"0{i}" for i in range(8)])
    assert models.read(MODEL, KEYS).rows == list(ROWS.values())


def test_a_model_that_was_dropped_is_not_served(tables, models):
    serve(tables, ROWS)
    models.find(MODEL)
    tables.drop_table(MODEL)
    assert models.read(MODEL, KEYS) is None


def test_the_list_of_models_is_read_again_after_some_seconds(tables, models, clock):
    assert models.cards() == {}
    serve(tables, ROWS)
    clock.now = LISTING_SECONDS - 1
    assert models.cards() == {}
    clock.now = LISTING_SECONDS
    assert models.cards() == {MODEL: None}


def test_a_store_that_cannot_be_read_is_not_a_model_that_is_unknown(tables, models):
    tables.create_table(MODEL)
    assert models.find(MODEL) is None
    tables.put_many(MODEL, [Item(COLUMNS_KEY, b"damaged")])
    with pytest.raises(TableError):
        models.find(MODEL)
