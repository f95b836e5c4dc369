"""The models in the tables: cards, loaded shards, releases and the library's digest.

The API and the client read models through this module, and cache its entries themselves. The Lambda imports it: no
Dagster, no data frames.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from precalc.identifiers import is_model_id
from precalc_assets.cards import ModelCard, find_card, read_card
from precalc_assets.platform_errors import TableError
from precalc_assets.tables import REGISTRY, Directory, Item, KeyValueStore, TableReader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model when the entry was read: its table, its card if one is published, and its loaded shards.

    `library_digest` is the version of the predicted library, None unless every shard is loaded.
    """

    model: str
    reader: TableReader
    card: ModelCard | None
    directories: dict[str, Directory]
    library_digest: str | None

    @property
    def deterministic(self) -> bool | None:
        """Whether the model predicts the same every time; None if unknown."""
        return self.card.deterministic if self.card else None

    @property
    def releases(self) -> list[str]:
        """The releases of the loaded shards, sorted."""
        return sorted({directory.release for directory in self.directories.values()})

    @property
    def molecules(self) -> int:
        """The number of molecules in the table."""
        return sum(directory.rows for directory in self.directories.values())

    @property
    def updated(self) -> str | None:
        """The time of the last load, ISO 8601 in UTC; None if no shard is loaded."""
        return max((directory.loaded_at for directory in self.directories.values()), default=None)

    def is_older_than(self, read: Mapping[str, Directory]) -> bool:
        """Return whether a read found a shard's directory in another generation than the entry has."""
        known = self.directories
        return any(shard not in known or known[shard].generation != d.generation for shard, d in read.items())

    def library_digest_with(self, newer: Mapping[str, Directory]) -> str | None:
        """Return the library's digest with these directories in place of the entry's."""
        if not self.is_older_than(newer):
            return self.library_digest
        return _library_digest({**self.directories, **newer}, self.reader.n_shards)


def read_entry(tables: KeyValueStore, model: str, *, clock: Callable[[], float] = time.monotonic) -> CatalogueEntry:
    """Read one model's entry. Logs a damaged card and leaves it out.

    Raises MissingTableError if the model has no table, TableError if the table cannot be read.
    """
    reader = TableReader(tables, model, clock=clock)
    directories = reader.directories()
    try:
        card = find_card(tables, model)
    except TableError as error:
        _log.warning("warning: %s", error)
        card = None
    return CatalogueEntry(model, reader, card, directories, _library_digest(directories, reader.n_shards))


def read_cards(tables: KeyValueStore) -> dict[str, ModelCard | None]:
    """Return the card of each model that has a table; None if it is missing or damaged.

    Raises TableError if the store cannot be read.
    """
    names = tables.list_tables()
    models = list(filter(is_model_id, names))
    items = tables.get_many(REGISTRY, models) if REGISTRY in names else {}
    return {model: _read_card(items.get(model)) for model in models}


def _library_digest(directories: Mapping[str, Directory], n_shards: int) -> str | None:
    """Return the digest in the library's manifest: the hash of its shards' digests, in order."""
    if len(directories) < n_shards:
        return None
    return sha256("".join(d.shard_digest for _, d in sorted(directories.items())).encode()).hexdigest()


def _read_card(item: Item | None) -> ModelCard | None:
    try:
        return read_card(item) if item else None
    except TableError as error:
        _log.warning("warning: %s", error)
        return None
