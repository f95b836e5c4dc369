"""The card of a model: what readers see of it, in the registry table. Read by commands and by the Lambda.

Only what the reading side needs belongs here; how a card is gathered is in `publishing`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column, name_columns
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.platform_errors import TableError
from precalc_assets.tables import REGISTRY, Item, KeyValueStore
from precalc_assets.tables.pages import decompress

PLOTTED_COLUMNS = 8
"""The first columns of a model, whose distributions are on its card; more would not be looked at."""


class Distribution(BaseModel):
    """How the values of a column are distributed over the predictions of `molecules`, `nulls` of which have none.

    A `histogram` has one edge more than counts; its outermost bins also count what is beyond their edges, as `minimum`
    and `maximum` tell. `values` has one count for each of the `values`, in order: all of a column of few whole
    numbers, or the most frequent texts, shortened; `others` counts the molecules with another one.
    """

    model_config = ConfigDict(frozen=True)

    column: str
    kind: Literal["histogram", "values"]
    molecules: int
    nulls: int
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    values: tuple[int | str, ...] = ()
    others: int = 0
    minimum: float | None = None
    median: float | None = None
    maximum: float | None = None


class ModelCard(BaseModel):
    """One model in the registry table, as JSON in a zstd frame under its id.

    `environments` names what the model ran in when its predictions were computed. `adopted` tells which earlier release
    computed some of them, and how the release that is served was shown to print the same.

    `deterministic` says whether the canary of a release that is served predicted the same twice. If there was no such
    canary, it is None, or False for a model that calls its own output variable. `varying` names the columns that were
    found to differ, or then all of them. There may be none of a model that is not deterministic: it
    answered some molecules in one of the runs alone. `example` says whether the canary got what the model's own example
    has. It measured `seconds_per_molecule`, the `peak_memory` of the model's largest process in bytes, and the
    `bytes_per_molecule` that the model prints. `distributions` are of the first columns, and were made of the
    predictions that `distributions_of` names.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    metadata: ModelMetadata
    columns: tuple[Column, ...]
    n_shards: int
    shards: tuple[str, ...]
    molecules: int
    quarantined: int
    releases: tuple[str, ...]
    environments: tuple[str, ...] = ()
    adopted: Adoption | None = None
    updated: datetime
    deterministic: bool | None = None
    varying: tuple[str, ...] = ()
    example: str | None = None
    seconds_per_molecule: float | None = None
    peak_memory: int | None = None
    bytes_per_molecule: float | None = None
    distributions: tuple[Distribution, ...] = ()
    distributions_of: str = ""

    @property
    def covered(self) -> bool:
        """Whether every shard is in the table."""
        return len(self.shards) == self.n_shards


def name_variation(varying: Sequence[str]) -> str:
    """Return in what the runs of a model differ that is not deterministic, as words after "in"."""
    return name_columns(varying) if varying else "which molecules are answered"


def publish_card(tables: KeyValueStore, card: ModelCard) -> None:
    """Put the card into the registry, in place of the one before."""
    # The words of 3,000 columns are half a megabyte, and an item of DynamoDB takes 400 KB.
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(card.model_dump_json().encode())
    tables.create_table(REGISTRY)
    tables.put_many(REGISTRY, [Item(card.model, frame)])


def find_card(tables: KeyValueStore, model: str) -> ModelCard | None:
    """Return a model's card, or None if it is not published. Raises TableError if the card is damaged."""
    item = tables.get_many(REGISTRY, [model]).get(model) if tables.has_table(REGISTRY) else None
    return read_card(item) if item else None


def read_card(item: Item) -> ModelCard:
    """Return the card that an item of the registry holds. Raises TableError if it is damaged."""
    try:
        return ModelCard.model_validate_json(decompress(item.value))
    except (TableError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it cannot be unpacked"
        raise TableError(f"the card of {item.key} is damaged ({reason}); run `precalc run {item.key}` again") from None
