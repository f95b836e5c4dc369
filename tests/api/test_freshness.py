"""What the API keeps between requests, and for how long."""

import pytest
import zstandard
from made_up import MODEL, N_SHARDS, serve
from serving import KEYS, card, predictions

from precalc_assets.api.served import LISTING_SECONDS, MANY_SECONDS, ServedModels
from precalc_assets.cards.model_card import publish_card
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, Item
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


def test_model_is_found_as_soon_as_it_is_loaded(tables, models):
    assert models.find(MODEL) is None
    assert models.read(MODEL, KEYS) is None
    serve(tables, ROWS)
    assert models.read(MODEL, KEYS).rows == list(ROWS.values())


def test_model_is_opened_once_a_minute(tables, models, clock):
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
    assert [column.name for column in answered.entry.reader.columns] == ["new"]
    assert list(map(tuple, answered.rows)) == list(rows.values())
    assert answered.releases == ["v2.0.0"]


def test_recreated_table_is_opened_again(tables, models):
    serve(tables, ROWS)
    models.find(MODEL)
    tables.drop_table(MODEL)
    serve(tables, ROWS, n_shards=8, shards=[f"0{i}" for i in range(8)])
    assert models.read(MODEL, KEYS).rows == list(ROWS.values())


def test_dropped_model_is_not_served(tables, models):
    serve(tables, ROWS)
    models.find(MODEL)
    tables.drop_table(MODEL)
    assert models.read(MODEL, KEYS) is None


def test_list_of_models_is_read_again_after_some_seconds(tables, models, clock):
    assert models.cards() == {}
    serve(tables, ROWS)
    clock.now = LISTING_SECONDS - 1
    assert models.cards() == {}
    clock.now = LISTING_SECONDS
    assert models.cards() == {MODEL: None}


class CountingStore:
    """Counts the items that are asked for."""

    def __init__(self, tables):
        self._tables = tables
        self.asked = 0

    def get_many(self, table, keys, **options):
        self.asked += len(keys)
        return self._tables.get_many(table, keys, **options)

    def __getattr__(self, name):
        return getattr(self._tables, name)


def test_open_model_needs_two_items_per_molecule_for_ten_minutes(tables, clock):
    serve(tables, ROWS)
    counted = CountingStore(tables)
    models = ServedModels(counted, clock=clock)
    key = KEYS[0]
    other = next(each for each in KEYS if shard_of(each, N_SHARDS) != shard_of(key, N_SHARDS))
    models.read(MODEL, [key], within=MANY_SECONDS)
    for asked, items in ((other, 2), (key, 1)):  # the page of the first is known
        clock.now, counted.asked = MANY_SECONDS - 1, 0
        assert models.read(MODEL, [asked], within=MANY_SECONDS).rows == [ROWS[asked]]
        assert counted.asked == items
    clock.now, counted.asked = MANY_SECONDS, 0
    models.read(MODEL, [key], within=MANY_SECONDS)
    assert counted.asked > 2


def test_columns_and_releases_are_read_with_newer_rows(tables, models, clock):
    serve(tables, ROWS)
    before = models.read(MODEL, KEYS, within=MANY_SECONDS)
    rows = {key: (at,) for at, key in enumerate(KEYS[1:])}
    serve(tables, rows, columns=[Column("new", "integer", "", "")], release="v2.0.0")
    clock.now = CACHE_SECONDS
    answered = models.read(MODEL, KEYS, within=MANY_SECONDS)
    assert [column.name for column in answered.entry.reader.columns] == ["new"]
    assert [row and tuple(row) for row in answered.rows] == [None, *rows.values()]
    assert {d.release for d in answered.entry.directories.values()} == {"v2.0.0"}
    assert answered.library_digest != before.library_digest


def test_names_of_models_are_listed_without_reading_cards(tables, clock):
    serve(tables, ROWS)
    publish_card(tables, card())
    counted = CountingStore(tables)
    models = ServedModels(counted, clock=clock)
    assert models.names() == [MODEL]
    assert counted.asked == 0
    tables.drop_table(MODEL)
    clock.now = LISTING_SECONDS
    assert models.names() == []


def test_store_that_failed_slowly_is_not_asked_again(tables, clock):
    serve(tables, ROWS)
    serve(tables, dict.fromkeys(KEYS, ("C",)), model=LIBRARY, columns=[Column("smiles", "string", "", "")])
    counted = CountingStore(tables)
    models = ServedModels(counted, clock=clock)
    models.read(MODEL, KEYS[:1])
    models.smiles(KEYS[:1])

    def fail_late(*_arguments, **_options):
        clock.now += 15
        raise TableError("throttled")

    counted.get_many = fail_late
    for ask in (lambda: models.read(MODEL, KEYS[1:2]), lambda: models.smiles(KEYS[1:2])):
        started = clock.now
        with pytest.raises(TableError):
            ask()
        assert clock.now == started + 15


def test_unreadable_store_is_not_an_unknown_model(tables, models):
    tables.create_table(MODEL)
    assert models.find(MODEL) is None
    for value in (b"damaged", zstandard.compress(b"{}"), zstandard.compress(b"nothing")):
        tables.put_many(MODEL, [Item(COLUMNS_KEY, value)])
        with pytest.raises(TableError):
            models.find(MODEL)
