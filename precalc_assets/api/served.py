"""The models that are served, kept open between requests.

A model is opened anew after `CACHE_SECONDS`, or when a shard turns out to have been loaded since, so new columns, cards
and coverage are seen after a minute at the latest. What is not there is looked for every time, so a new model is found
at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from precalc_assets.cards import ModelCard, find_card, read_card
from precalc_assets.errors import MissingTableError, TableError
from precalc_assets.model_ids import is_model_id
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, REGISTRY, Directory, Item, KeyValueStore, TableReader
from precalc_assets.tables.reader import CACHE_SECONDS, Reading, Row

LISTING_SECONDS = 10.0
"""How long a list of models is used before it is read again."""

MANY_SECONDS = 600.0
"""How long a model is used where many are asked at a time. To open one takes a read of each shard's directory, 12,000
for 240 models of 50 shards; to read a molecule of one that is open takes two."""

_PATIENCE_SECONDS = 5.0
"""A store that takes longer to fail has tried again and again already, DynamoDB's for some 15 s. Asked once more, the
answer would come after the 29 s that API Gateway waits."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as it was when it was opened: its table, and what it says of itself, if it has been published.

    `directories` has what is loaded, by shard. `updated` is the time of the last load, ISO 8601 in UTC.
    """

    model: str
    reader: TableReader
    card: ModelCard | None
    directories: dict[str, Directory]
    opened_at: float

    @property
    def deterministic(self) -> bool | None:
        """Whether the model predicts the same every time, None if that was not found out."""
        return self.card.deterministic if self.card else None

    @property
    def releases(self) -> dict[str, str]:
        """The release of each loaded shard."""
        return {shard: directory.release for shard, directory in self.directories.items()}

    @property
    def library_digest(self) -> str | None:
        """The version of the reference library that was predicted, None unless every shard is loaded."""
        return self.library_digest_with({})

    @property
    def molecules(self) -> int:
        """How many molecules are in the table."""
        return sum(directory.rows for directory in self.directories.values())

    @property
    def updated(self) -> str | None:
        """When a shard was last loaded, None if none is."""
        return max((directory.loaded_at for directory in self.directories.values()), default=None)

    def is_older_than(self, read: Mapping[str, Directory]) -> bool:
        """Return whether a shard was loaded since this was opened, by the directories that rows were read from."""
        known = self.directories
        return any(shard not in known or known[shard].generation != d.generation for shard, d in read.items())

    def library_digest_with(self, newer: Mapping[str, Directory]) -> str | None:
        """Return the library's digest with these directories in place of what they were when this was opened."""
        directories = {**self.directories, **newer}
        if len(directories) < self.reader.n_shards:
            return None
        # As the library's manifest has it: of the digests of its shards, in order.
        return _sha256(directory.shard_digest for _, directory in sorted(directories.items()))


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model's table holds of the molecules that were asked for, in their order, None where that is nothing.

    `directories` are those that the rows were read from, by shard: what is said of the rows is said of these, which
    may be newer than the model is open. `smiles` is None if nobody asked for it, and None for a molecule that the
    library's table does not have.
    """

    served: ServedModel
    inchikeys: Sequence[str]
    rows: list[Row | None]
    directories: dict[str, Directory] = field(repr=False)
    smiles: list[str | None] | None = None

    @property
    def releases(self) -> list[str]:
        """The releases that the rows are of, sorted."""
        found = {inchikey for inchikey, row in zip(self.inchikeys, self.rows, strict=True) if row is not None}
        return sorted({release for release in map(self.release_of, found) if release is not None})

    @property
    def library_digest(self) -> str | None:
        """The version of the reference library that was predicted, None unless every shard is loaded."""
        return self.served.library_digest_with(self.directories)

    def release_of(self, inchikey: str) -> str | None:
        """Return the release that a molecule's shard is of, None if that is not loaded."""
        directory = self.directories.get(shard_of(inchikey, self.served.reader.n_shards))
        return directory.release if directory else None


class ServedModels:
    """The models in a key-value store, opened when they are first asked for. May be used by several threads."""

    def __init__(self, tables: KeyValueStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tables = tables
        self._clock = clock
        self._models: dict[str, ServedModel] = {}
        self._library: tuple[float, TableReader] | None = None
        self._lock = threading.Lock()
        self._listing: tuple[float, dict[str, ModelCard | None]] | None = None
        self._names: tuple[float, list[str]] | None = None

    def find(self, model: str, *, within: float = CACHE_SECONDS) -> ServedModel | None:
        """Return a model that was opened within so many seconds, None if nothing of it is served.

        Raises TableError if the store cannot tell.
        """
        known = self._models.get(model)
        if known and self._clock() - known.opened_at < within:
            return known
        return self._open(model)

    def read(
        self, model: str, inchikeys: Sequence[str], *, smiles: bool = False, within: float = CACHE_SECONDS
    ) -> Predictions | None:
        """Return predictions of molecules by the model that `find` finds, with their SMILES if wanted.

        Raises UsageError for a malformed InChIKey, TableError if the store cannot tell.
        """
        served = self.find(model, within=within)
        if served is None:
            return None
        reading, started = None, self._clock()
        try:
            reading = served.reader.read(inchikeys)
        except TableError:
            # The table may have been dropped or made anew since it was opened.
            if self._took_long(started):
                raise
        if reading is None or served.is_older_than(reading.directories):
            served = self._open(model)
            if served is None:
                return None
            reading = served.reader.read(inchikeys)
        texts = self.smiles(inchikeys) if smiles else None
        return Predictions(served, inchikeys, reading.rows, reading.directories, texts)

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """Return the molecules' SMILES as the library's table has them, None for those that it has not.

        Raises UsageError for a malformed InChIKey, TableError if the store cannot tell.
        """
        try:
            reading = self._read_library(inchikeys)
        except MissingTableError:
            # A library that was never built, or before tables had it: predictions are served all the same.
            return [None] * len(inchikeys)
        return [None if row is None or row[0] is None else str(row[0]) for row in reading.rows]

    def names(self) -> list[str]:
        """Return all models that have a table, without their cards: those of wide models are large.

        Raises TableError if the store cannot tell.
        """
        now = self._clock()
        if self._names is None or now - self._names[0] >= LISTING_SECONDS:
            self._names = now, list(filter(is_model_id, self._tables.list_tables()))
        return self._names[1]

    def cards(self) -> dict[str, ModelCard | None]:
        """Return the cards of all models that have a table, by model; None for those without one.

        Raises TableError if the store cannot tell.
        """
        now = self._clock()
        if self._listing is None or now - self._listing[0] >= LISTING_SECONDS:
            self._listing = now, self._read_cards()
        return self._listing[1]

    def _open(self, model: str) -> ServedModel | None:
        served = self._opened(model) if is_model_id(model) else None
        now = self._clock()
        with self._lock:
            # Whatever is too old goes, so that memory holds no more than what was asked for lately.
            self._models = {m: s for m, s in self._models.items() if m != model and now - s.opened_at < MANY_SECONDS}
            if served:
                self._models[model] = served
        return served

    def _opened(self, model: str) -> ServedModel | None:
        now = self._clock()
        try:
            reader = TableReader(self._tables, model, clock=self._clock)
            directories = reader.directories()
        except MissingTableError:
            return None
        return ServedModel(model, reader, self._find_card(model), directories, now)

    def _read_library(self, inchikeys: Sequence[str]) -> Reading:
        known, now = self._library, self._clock()
        if known and now - known[0] < CACHE_SECONDS:
            try:
                return known[1].read(inchikeys)
            except TableError:
                # As with a model, the table may be another one by now.
                if self._took_long(now):
                    raise
        reader = TableReader(self._tables, LIBRARY)
        self._library = now, reader
        return reader.read(inchikeys)

    def _took_long(self, started: float) -> bool:
        return self._clock() - started > _PATIENCE_SECONDS

    def _find_card(self, model: str) -> ModelCard | None:
        try:
            return find_card(self._tables, model)
        except TableError as error:
            _log.warning("%s", error)
            return None

    def _read_cards(self) -> dict[str, ModelCard | None]:
        names = self._tables.list_tables()
        models = list(filter(is_model_id, names))
        items = self._tables.get_many(REGISTRY, models) if REGISTRY in names else {}
        return {model: _read_card(items.get(model)) for model in models}


def _read_card(item: Item | None) -> ModelCard | None:
    try:
        return read_card(item) if item else None
    except TableError as error:
        _log.warning("%s", error)
        return None


def _sha256(parts: Iterable[str]) -> str:
    return sha256("".join(parts).encode()).hexdigest()
