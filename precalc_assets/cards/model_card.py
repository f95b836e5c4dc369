"""The card of a model in the registry table, which commands and the Lambda read.

`publishing` gathers cards; only code that the reading side needs belongs here.
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
"""The number of a model's first columns whose distributions are on its card."""


class Distribution(BaseModel):
    """The distribution of a column's values over `molecules`, of which `nulls` have no value.

    A `histogram` has one more edge than counts. Its outermost bins also count values beyond their edges, down to
    `minimum` and up to `maximum`. The kind `values` has one count per entry of `values`, in order: every whole number
    in the range of a column with few of them, or the most frequent texts, shortened. `others` counts the molecules with
    other texts.
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
    """One model in the registry table, stored as JSON in a zstd frame under the model's id.

    `environments` lists the environments that computed the predictions. `adopted` says which earlier release computed
    some of them, and how the served release was shown to print the same.

    `deterministic` says whether the canary of a served release predicted the same twice. Without such a canary it is
    None, or False if the model's metadata call its output variable. `varying` names the columns that differed, or all
    columns in the latter case. It can be empty for a model that is not deterministic, if some molecules were answered
    in only one of the runs. `example` says whether the canary reproduced the model's example output. The canary
    measured `seconds_per_molecule`, `peak_memory` (bytes, of the model's largest process) and `bytes_per_molecule` (of
    the printed output). `distributions` are of the first columns; `distributions_of` is a digest of their data.
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
    """Return what differs between runs of a model that is not deterministic, as words after "in"."""
    return name_columns(varying) if varying else "which molecules are answered"


def publish_card(tables: KeyValueStore, card: ModelCard) -> None:
    """Put the card into the registry, replacing the previous one."""
    # The descriptions of 3,000 columns are half a megabyte, and an item of DynamoDB takes 400 KB.
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(card.model_dump_json().encode())
    tables.create_table(REGISTRY)
    tables.put_many(REGISTRY, [Item(card.model, frame)])


def find_card(tables: KeyValueStore, model: str) -> ModelCard | None:
    """Return a model's card, or None if it is not published. Raises TableError if the card is damaged."""
    item = tables.get_many(REGISTRY, [model]).get(model) if tables.has_table(REGISTRY) else None
    return read_card(item) if item else None


def read_card(item: Item) -> ModelCard:
    """Return the card in an item of the registry. Raises TableError if it is damaged."""
    try:
        return ModelCard.model_validate_json(decompress(item.value))
    except (TableError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it cannot be unpacked"
        raise TableError(f"the card of {item.key} is damaged ({reason}); run `precalc run {item.key}` again") from None
