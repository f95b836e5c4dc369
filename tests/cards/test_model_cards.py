"""Cards in the registry are read back as published, also for thousands of columns."""

from datetime import UTC, datetime

import pytest
from table_doubles import MODEL, MemoryStore

from precalc_assets.cards.model_card import ModelCard, find_card, publish_card
from precalc_assets.columns import Column
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.platform_errors import TableError
from precalc_assets.tables import REGISTRY, Item
from precalc_assets.tables.store import MAX_ITEM_BYTES, item_bytes


def card(n_columns: int) -> ModelCard:
    described = "probability of {} being inhibited at 10 µM, calibrated on the assay's own hit rate, between 0 and 1"
    columns = tuple(Column(f"target_{at:04d}", "float", "high", described.format(at)) for at in range(n_columns))
    return ModelCard(
        model=MODEL,
        metadata=ModelMetadata(
            identifier=MODEL,
            title="Targets",
            description="What it does",
            interpretation="How to read it",
            tags=("Target identification",),
            license="MIT",
            publication="https://example.org/paper",
            source_code="https://example.org/code",
        ),
        columns=columns,
        n_shards=50,
        shards=("00",),
        molecules=28_000,
        quarantined=1,
        releases=("v1.0.0",),
        updated=datetime(2026, 11, 1, tzinfo=UTC),
        varying=tuple(column.name for column in columns),
    )


@pytest.mark.parametrize("n_columns", [1, 4_000])
def test_a_card_fits_into_an_item_and_is_read_back(n_columns: int) -> None:
    tables = MemoryStore()
    publish_card(tables, card(n_columns))
    (item,) = tables.get_many(REGISTRY, [MODEL]).values()
    assert item_bytes(item) < MAX_ITEM_BYTES / 4
    assert find_card(tables, MODEL) == card(n_columns)


@pytest.mark.parametrize("value", [b"", b"{", card(1).model_dump_json().encode()], ids=["empty", "cut", "not packed"])
def test_a_damaged_card_is_an_error_with_a_remedy(value: bytes) -> None:
    tables = MemoryStore()
    tables.create_table(REGISTRY)
    tables.put_many(REGISTRY, [Item(MODEL, value)])
    with pytest.raises(TableError, match=rf"the card of {MODEL} is damaged \(.+\); run `precalc run {MODEL}` again"):
        find_card(tables, MODEL)
