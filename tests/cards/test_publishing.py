"""Publishing a card while other processes load shards into the same table."""

from precalc_assets.cards import find_card
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


def test_a_card_includes_shards_loaded_meanwhile(world) -> None:
    world.write_model()
    world.build_library()
    assert all(outcome.landed for outcome in (*world.predict(), *world.validate(), *world.load(["00"])))
    tables = Meanwhile(world.tables, lambda: list(world.load(["01", "02", "03"])))
    settings = Settings(models_dir=str(world.models_dir), cache_dir=world.cache_dir)
    card = publish(world.store, tables, MODEL, settings)
    assert card.covered
    assert find_card(world.tables, MODEL) == card
