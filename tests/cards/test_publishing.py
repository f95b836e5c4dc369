"""Publishing a card while other processes load shards into the same table."""

from precalc_assets.cards.model_card import find_card, read_distributions
from precalc_assets.cards.publishing import publish
from precalc_assets.settings import Settings
from precalc_assets.tables import REGISTRY

MODEL = "eos9abc"


class Meanwhile:
    """Tables that call `happens` once, just before a card is put."""

    def __init__(self, tables, happens) -> None:
        self._tables = tables
        self._happens = [happens]

    def __getattr__(self, name: str):
        return getattr(self._tables, name)

    def put_many(self, table, items):
        if table == REGISTRY and self._happens:
            self._happens.pop()()
        return self._tables.put_many(table, items)


def test_a_card_includes_shards_loaded_meanwhile(predicted) -> None:
    assert all(outcome.landed for outcome in (*predicted.validate(), *predicted.load(["00"])))
    tables = Meanwhile(predicted.tables, lambda: list(predicted.load(["01", "02", "03"])))
    settings = Settings(models_dir=str(predicted.models_dir), cache_dir=predicted.cache_dir)
    card = publish(predicted.store, tables, MODEL, settings)
    assert card.covered
    assert find_card(predicted.tables, MODEL) == card


def test_every_column_of_a_wide_model_has_a_distribution(world) -> None:
    columns = tuple((f"c{at}", "float") for at in range(120))
    world.write_model(columns=columns, answer="return ','.join(str(len(smiles) + at) for at in range(120))")
    world.build_library()
    assert all(outcome.landed for outcome in (*world.predict(), *world.validate(), *world.load()))
    settings = Settings(models_dir=str(world.models_dir), cache_dir=world.cache_dir)
    card = publish(world.store, world.tables, MODEL, settings)
    assert len(card.distributions) == 8
    found = read_distributions(world.tables, card, [0, 8, 57, 58, 119])
    assert found.keys() >= {"c0", "c8", "c57", "c58", "c119"}
    assert found["c119"].minimum == found["c0"].minimum + 119
    assert found["c119"].molecules == card.molecules
