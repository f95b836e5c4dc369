"""The card of a model: what readers see of it, in the registry table. Read by commands and by the Lambda.

Only what the reading side needs belongs here; how a card is gathered is in `publishing`.
"""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from precalc_assets.columns import Column, name_columns
from precalc_assets.errors import TableError
from precalc_assets.tables import REGISTRY, Item, KeyValueStore


class ModelCard(BaseModel):
    """One model in the registry table, as JSON under its id.

    `deterministic` says whether the canary of a release that is served predicted the same twice, None if there was no
    such canary; `varying` names the columns that it found to differ. There may be none of a model that is not: it
    answered some molecules in one of the runs alone.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    title: str
    description: str
    interpretation: str
    tags: tuple[str, ...]
    license: str
    publication: str
    source_code: str
    columns: tuple[Column, ...]
    n_shards: int
    shards: tuple[str, ...]
    molecules: int
    quarantined: int
    releases: tuple[str, ...]
    updated: datetime
    deterministic: bool | None = None
    varying: tuple[str, ...] = ()

    @property
    def covered(self) -> bool:
        """Whether every shard is in the table."""
        return len(self.shards) == self.n_shards


def name_variation(varying: Sequence[str]) -> str:
    """Return in what the runs of a model differ that is not deterministic, as words after "in"."""
    return name_columns(varying) if varying else "which molecules are answered"


def publish_card(tables: KeyValueStore, card: ModelCard) -> None:
    """Put the card into the registry, in place of the one before."""
    tables.create_table(REGISTRY)
    tables.put_many(REGISTRY, [Item(card.model, card.model_dump_json().encode())])


def find_card(tables: KeyValueStore, model: str) -> ModelCard | None:
    """Return a model's card, or None if it is not published. Raises TableError if the card is damaged."""
    item = tables.get_many(REGISTRY, [model]).get(model) if tables.has_table(REGISTRY) else None
    if item is None:
        return None
    try:
        return ModelCard.model_validate_json(item.value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise TableError(f"the card of {model} is damaged ({reason}); run `precalc run {model}` again") from None
