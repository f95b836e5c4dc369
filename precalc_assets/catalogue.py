"""The models in the tables: cards, loaded shards, releases and the library's digest; and what came of a molecule.

The API and the client read models through this module, and cache its entries themselves. The Lambda imports it: no
Dagster, no data frames.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from precalc.identifiers import find_columns, is_model_id
from precalc.source import Distribution
from precalc.statuses import FOUND, MODEL_FAILED, NOT_IN_LIBRARY, NOT_PREDICTED_YET, Status
from precalc_assets.cards.model_card import ModelCard, find_card, read_card, read_distributions
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_of
from precalc_assets.tables import REGISTRY, Directory, Item, KeyValueStore, TableReader
from precalc_assets.tables.reader import PageCache, Reading

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

    def find_columns(self, names: Sequence[str] | None) -> tuple[int, ...] | None:
        """Return the places of these columns in the table, None for all. Raises UsageError for an unknown name."""
        if names is None:
            return None
        return find_columns(self.model, [column.name for column in self.reader.columns], names)

    def distributions(self, tables: KeyValueStore, names: Sequence[str]) -> dict[str, Distribution]:
        """Return the distributions of these columns that are published. Raises UsageError for an unknown name."""
        if self.card is None or not names:
            return {}
        places = find_columns(self.model, [column.name for column in self.reader.columns], names)
        found = read_distributions(tables, self.card, places)
        return {name: found[name] for name in names if name in found}

    def is_older_than(self, read: Mapping[str, Directory]) -> bool:
        """Return whether a read found a shard's directory in another generation than the entry has."""
        known = self.directories
        return any(shard not in known or known[shard].generation != d.generation for shard, d in read.items())

    def library_digest_with(self, newer: Mapping[str, Directory]) -> str | None:
        """Return the library's digest with these directories in place of the entry's."""
        if not self.is_older_than(newer):
            return self.library_digest
        return _library_digest({**self.directories, **newer}, self.reader.n_shards)


def read_entry(
    tables: KeyValueStore, model: str, *, clock: Callable[[], float] = time.monotonic, cache: PageCache | None = None
) -> CatalogueEntry:
    """Read one model's entry, whose reader has this cache. Logs a damaged card and leaves it out.

    Raises MissingTableError if the model has no table, TableError if the table cannot be read.
    """
    reader = TableReader(tables, model, clock=clock, cache=cache)
    directories = reader.directories()
    try:
        card = find_card(tables, model)
    except TableError as error:
        _log.warning("warning: %s", error)
        card = None
    return CatalogueEntry(model, reader, card, directories, _library_digest(directories, reader.n_shards))


KnownSmiles = dict[str, str | None]
"""What the library's table says of molecules: the SMILES, or None for one that is not in the library. It leaves out
those of which it cannot tell, since it has not been loaded."""


def read_smiles(library: TableReader, inchikeys: Sequence[str]) -> KnownSmiles:
    """Read molecules from the library's table."""
    rows, directories = library.read(inchikeys)
    return {
        key: None if row is None else str(row[0])
        for key, row in zip(inchikeys, rows, strict=True)
        if row is not None or shard_of(key, library.n_shards) in directories
    }


def absent_from(inchikeys: Sequence[str], reading: Reading) -> list[str]:
    """Return the molecules that a model's table does not have: their status depends on whether the library does."""
    return [key for key, row in zip(inchikeys, reading.rows, strict=True) if row is None]


def find_statuses(
    reader: TableReader,
    inchikeys: Sequence[str],
    reading: Reading,
    columns: tuple[int, ...] | None,
    smiles: KnownSmiles,
) -> list[Status]:
    """Return what came of each molecule that was read from a model's table; `smiles` are those of absent ones.

    Where the library cannot tell, a molecule of a shard that is not loaded counts as not predicted yet. If only some
    columns were read and none of them has a value, all of them tell whether the model failed.
    """

    def of_absent(key: str) -> Status:
        if key in smiles:
            return NOT_IN_LIBRARY if smiles[key] is None else NOT_PREDICTED_YET
        return NOT_IN_LIBRARY if shard_of(key, reader.n_shards) in reading.directories else NOT_PREDICTED_YET

    silent = _silent(inchikeys, reading)
    if silent and columns is not None:
        silent = _silent(silent, reader.read(silent))
    failed = set(silent)
    return [
        of_absent(key) if row is None else MODEL_FAILED if key in failed else FOUND
        for key, row in zip(inchikeys, reading.rows, strict=True)
    ]


def _silent(inchikeys: Sequence[str], reading: Reading) -> list[str]:
    """Return the molecules that were read and have no value."""
    return [
        key
        for key, row in zip(inchikeys, reading.rows, strict=True)
        if row is not None and row[0] is None and not any(value is not None for value in row)
    ]


def read_cards(tables: KeyValueStore) -> dict[str, ModelCard | None]:
    """Return the card of each model that has a table; None if it is missing or damaged. Raises TableError."""
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
