"""What a card says of the hours, dollars and memory that a model has used."""

import pytest

from precalc.source import describe_cost
from precalc_assets.cards.publishing import publish
from precalc_assets.predictions.shard_manifest import find_manifest
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

MODEL = "eos9abc"
SHARDS = shard_keys(4)
MORE = tuple("N" * n + "C" for n in range(1, 9))


def publish_at(world, price: float):
    settings = Settings(models_dir=str(world.models_dir), cache_dir=world.cache_dir, runner_price=price)
    return publish(world.store, world.tables, MODEL, settings)


def manifests(world):
    return [find_manifest(world.store, MODEL, shard) for shard in SHARDS]


@pytest.mark.parametrize("loaded", [SHARDS, SHARDS[:1]], ids=["all", "one"])
def test_card_sums_the_hours_of_the_shards_in_the_table(predicted, loaded: list[str]) -> None:
    assert all(outcome.landed for outcome in (*predicted.validate(), *predicted.load(loaded)))
    seconds = {manifest.shard: manifest.seconds for manifest in manifests(predicted)}
    assert all(seconds.values())
    card = publish_at(predicted, 36.0)
    assert card.runner_hours == pytest.approx(sum(seconds[shard] for shard in loaded) / 3600)
    assert card.dollars == pytest.approx(card.runner_hours * 36.0)
    assert publish_at(predicted, 0.0).dollars == 0


def test_hours_of_an_earlier_library_are_not_forgotten(predicted) -> None:
    before = manifests(predicted)
    predicted.build_library(("O", "CCO", *MORE))
    assert all(outcome.landed for outcome in predicted.predict())
    for old, new in zip(before, manifests(predicted), strict=True):
        assert new.seconds_before == old.seconds
        assert new.seconds_in_all == new.seconds + old.seconds


@pytest.mark.parametrize(
    ("hours", "dollars", "memory", "said"),
    [
        (None, None, None, ""),
        (0.0, 0.0, None, "0.00 runner-hours"),
        (1234.567, 12.3456, 350 << 20, "1,234.57 runner-hours, $12.35, 350 MB of memory"),
        (None, None, 350 << 20, "350 MB of memory"),
    ],
)
def test_cost_is_said_as_far_as_it_is_known(
    hours: float | None, dollars: float | None, memory: int | None, said: str
) -> None:
    assert describe_cost(hours, dollars, memory) == said
