"""The card of a model in the registry table, which commands and the Lambda read.

`publishing` gathers cards; only code that the reading side needs belongs here.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import zstandard
from pydantic import TypeAdapter, ValidationError

from precalc.source import Distribution, describe_cost
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import EmptiedColumn
from precalc_assets.frozen_record import FrozenRecord, first_fault
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.platform_errors import TableError
from precalc_assets.tables import REGISTRY, Item, KeyValueStore
from precalc_assets.tables.pages import decompress

PLOTTED_COLUMNS = 8
"""The number of a model's first columns whose distributions are on its card."""

_COLUMNS_PER_ITEM = 50
"""Further columns whose distributions are in one item: some 100 KB, of the 400 that an item of DynamoDB takes."""


class Example(FrozenRecord):
    """A molecule of the library for which the model has a value."""

    inchikey: str
    smiles: str


class ModelCard(FrozenRecord):
    """One model in the registry table, stored as JSON in a zstd frame under the model's id.

    `quarantined` molecules have no value. `emptied` counts, by column, the other nulls that stand for a cell that the
    model printed, and that is not of the column's type. `environments` lists the environments that computed the
    predictions. `adopted` says which earlier release computed some of them, and how the served release was shown to
    print the same.

    `deterministic` says whether the canary of a served release predicted the same twice. Without such a canary it is
    None, or False if the model's metadata call its output variable. `varying` names the columns that differed, or all
    columns in the latter case. It can be empty for a model that is not deterministic, if some molecules were answered
    in only one of the runs. `example` says whether the canary reproduced the model's example output. The canary
    measured `seconds_per_molecule`, `peak_memory` (bytes, of the model's largest process) and `bytes_per_molecule` (of
    the printed output).

    The model's calls over the shards in the table took `runner_hours` so far, which cost `dollars` by
    PRECALC_RUNNER_PRICE. Start and installation are not in it, nor what killed runs computed.

    `examples` are what the page offers to look up. `distributions` are of the first columns; `distributions_of` is a
    digest of their data.
    """

    model: str
    metadata: ModelMetadata
    columns: tuple[Column, ...]
    n_shards: int
    shards: tuple[str, ...]
    molecules: int
    quarantined: int
    emptied: tuple[EmptiedColumn, ...] = ()
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
    runner_hours: float | None = None
    dollars: float | None = None
    examples: tuple[Example, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    distributions_of: str = ""

    @property
    def covered(self) -> bool:
        """Whether every shard is in the table."""
        return len(self.shards) == self.n_shards

    @property
    def cost(self) -> str:
        """What the predictions took, in words; empty if unknown."""
        return describe_cost(self.runner_hours, self.dollars, self.peak_memory)


def publish_distributions(tables: KeyValueStore, model: str, further: Sequence[Distribution]) -> None:
    """Put the distributions of the columns that follow those on the card into the registry."""
    tables.create_table(REGISTRY)
    for start in range(0, len(further), _COLUMNS_PER_ITEM):
        text = _Distributions.dump_json([*further[start : start + _COLUMNS_PER_ITEM]])
        tables.put_many(REGISTRY, [Item(_item_key(model, start), _compress(text))])


def read_distributions(tables: KeyValueStore, card: ModelCard, places: Iterable[int]) -> dict[str, Distribution]:
    """Return the distributions of the columns at these places, by name; those that are not published are left out."""
    keys = {_item_key(card.model, at - PLOTTED_COLUMNS) for at in places if at >= PLOTTED_COLUMNS}
    items = tables.get_many(REGISTRY, sorted(keys)).values() if keys else ()
    further = (each for item in items for each in _Distributions.validate_json(decompress(item.value)))
    return {each.column: each for each in (*card.distributions, *further)}


_Distributions = TypeAdapter(list[Distribution])


def _item_key(model: str, at: int) -> str:
    return f"{model}/distributions/{at // _COLUMNS_PER_ITEM}"


def _compress(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(text)


def publish_card(tables: KeyValueStore, card: ModelCard) -> None:
    """Put the card into the registry, replacing the previous one."""
    # The descriptions of 3,000 columns are half a megabyte, and an item of DynamoDB takes 400 KB.
    tables.create_table(REGISTRY)
    tables.put_many(REGISTRY, [Item(card.model, _compress(card.model_dump_json().encode()))])


def delete_card(tables: KeyValueStore, model: str) -> None:
    """Delete a model's card and its distributions from the registry, if they are there."""
    if not tables.has_table(REGISTRY):
        return
    try:
        card = find_card(tables, model)
    except TableError:
        card = None  # it is damaged, and its distributions are of no card
    further = range(0, len(card.columns) - PLOTTED_COLUMNS if card else 0, _COLUMNS_PER_ITEM)
    tables.delete_many(REGISTRY, [model, *(_item_key(model, start) for start in further)])


def find_card(tables: KeyValueStore, model: str) -> ModelCard | None:
    """Return a model's card, or None if it is not published. Raises TableError if the card is damaged."""
    item = tables.get_many(REGISTRY, [model]).get(model) if tables.has_table(REGISTRY) else None
    return read_card(item) if item else None


def read_card(item: Item) -> ModelCard:
    """Return the card in an item of the registry. Raises TableError if it is damaged."""
    try:
        return ModelCard.model_validate_json(decompress(item.value))
    except (TableError, ValidationError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else "it cannot be unpacked"
        raise TableError(f"the card of {item.key} is damaged ({reason}); run `precalc run {item.key}` again") from None
