"""The models that are served, kept open between requests.

A model is read anew after `CACHE_SECONDS`, or when a page that is not kept turns out to have been replaced. So readers
see a new load within a minute, and until then the one before it. A model that is not in the cache is always looked up,
so a new one is found at once.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from precalc.identifiers import INCHIKEY, is_model_id
from precalc.source import Distribution
from precalc.statuses import UNREADABLE, Status
from precalc_assets.cards.model_card import ModelCard
from precalc_assets.catalogue import (
    CatalogueEntry,
    KnownSmiles,
    absent_from,
    find_statuses,
    read_cards,
    read_entry,
    read_smiles,
)
from precalc_assets.columns import Column
from precalc_assets.platform_errors import MissingTableError, TableError
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, Directory, KeyValueStore, TableReader
from precalc_assets.tables.reader import CACHE_SECONDS, PageCache, Row

LISTING_SECONDS = 10.0
"""How long a list of models is used before it is read again."""

MANY_SECONDS = 600.0
"""How long an entry is used where many models are asked at a time. Opening one reads each shard's directory, 12,000
items for 240 models of 50 shards; reading a molecule of an open model takes two."""

_CACHED_BYTES = 64 << 20
"""Memory for pages that are kept decoded: half a million molecules with 11 numbers, or 25,000 with 2,048 counts."""

_NOTHING: KnownSmiles = {}

_PATIENCE_SECONDS = 5.0
"""A store that takes longer to fail has retried already, DynamoDB's for some 15 s. Another attempt would answer after
the 29 s that API Gateway waits."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model's table holds of the requested molecules, in their order, None for a missing one.

    `columns` are those of the rows. `statuses` say what came of each. `directories` are those that the rows were read
    from, by shard: releases and digests of the answer follow from these, which may be newer than `entry`. `library` is
    what is known of the molecules' SMILES.
    """

    entry: CatalogueEntry
    columns: Sequence[Column]
    inchikeys: Sequence[str]
    rows: list[Row | None]
    statuses: list[Status]
    directories: dict[str, Directory] = field(repr=False)
    library: KnownSmiles = field(repr=False)

    @property
    def smiles(self) -> list[str | None]:
        """The molecules' SMILES, as far as they are known."""
        return list(map(self.library.get, self.inchikeys))

    @property
    def releases(self) -> list[str]:
        """The releases that the rows are of, sorted."""
        known = {directory.release for directory in self.directories.values()}
        found = {inchikey for inchikey, row in zip(self.inchikeys, self.rows, strict=True) if row is not None}
        if len(known) == 1:  # Nearly always; the shards of 1,000 molecules take longer than their rows.
            return list(known) if found else []
        return sorted({release for release in map(self.release_of, found) if release is not None})

    @property
    def library_digest(self) -> str | None:
        """The version of the reference library that was predicted, None unless every shard is loaded."""
        return self.entry.library_digest_with(self.directories)

    def release_of(self, inchikey: str) -> str | None:
        """Return the release of a molecule's shard, None if that shard is not loaded."""
        directory = self.directories.get(shard_of(inchikey, self.entry.reader.n_shards))
        return directory.release if directory else None


class ServedModels:
    """The models in a key-value store, opened when they are first requested. May be used by several threads."""

    def __init__(self, tables: KeyValueStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tables = tables
        self._clock = clock
        self._cache = PageCache(_CACHED_BYTES)
        self._entries: dict[str, tuple[float, CatalogueEntry]] = {}
        self._library: tuple[float, TableReader] | None = None
        self._lock = threading.Lock()
        self._listing: tuple[float, dict[str, ModelCard | None]] | None = None
        self._names: tuple[float, list[str]] | None = None

    def find(self, model: str, *, within: float = CACHE_SECONDS) -> CatalogueEntry | None:
        """Return a model's entry, read within so many seconds; None if it is not served. Raises TableError."""
        known = self._entries.get(model)
        if known and self._clock() - known[0] < within:
            return known[1]
        return self._open(model)

    def read(
        self,
        model: str,
        texts: Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        library: KnownSmiles = _NOTHING,
        within: float = CACHE_SECONDS,
    ) -> Predictions | None:
        """Return predictions of molecules by the model that `find` finds; a text that is no InChIKey is unreadable.

        `columns` are those to read, by default all. `library` is what `smiles` returned before; it is read for
        molecules that neither the model nor this has. Raises UsageError for an unknown column,
        TableError if the store cannot be read.
        """
        entry = self.find(model, within=within)
        if entry is None:
            return None
        inchikeys = list(filter(INCHIKEY.match, texts))
        reading, started, places = None, self._clock(), entry.find_columns(columns)
        try:
            reading = entry.reader.read(inchikeys, places, as_bytes=True)
        except TableError:
            # The table may have been dropped or made anew since it was opened.
            if self._took_long(started):
                raise
        if reading is None or entry.is_older_than(reading.directories):
            entry = self._open(model)
            if entry is None:
                return None
            places = entry.find_columns(columns)
            reading = entry.reader.read(inchikeys, places, as_bytes=True)
        known = library | self.smiles([key for key in absent_from(inchikeys, reading) if key not in library])
        rows, statuses = reading.rows, find_statuses(entry.reader, inchikeys, reading, places, known)
        if len(inchikeys) < len(texts):
            found = iter(zip(rows, statuses, strict=True))
            pairs = [next(found) if INCHIKEY.match(text) else (None, UNREADABLE) for text in texts]
            rows, statuses = [row for row, _ in pairs], [status for _, status in pairs]
        read = entry.reader.columns if places is None else [entry.reader.columns[at] for at in places]
        return Predictions(entry, read, texts, rows, statuses, reading.directories, known)

    def smiles(self, inchikeys: Sequence[str]) -> KnownSmiles:
        """Return what the library's table says of molecules; other texts are left out. Raises TableError."""
        wanted = list(filter(INCHIKEY.match, inchikeys))
        try:
            return self._read_library(wanted) if wanted else {}
        except MissingTableError:
            # The library has no table yet: predictions are served without it.
            return {}

    def names(self) -> list[str]:
        """Return all models that have a table, without their cards, which may be large. Raises TableError."""
        now = self._clock()
        if self._names is None or now - self._names[0] >= LISTING_SECONDS:
            self._names = now, list(filter(is_model_id, self._tables.list_tables()))
        return self._names[1]

    def cards(self) -> dict[str, ModelCard | None]:
        """Return the card of each model that has a table, None for those without one. Raises TableError."""
        now = self._clock()
        if self._listing is None or now - self._listing[0] >= LISTING_SECONDS:
            self._listing = now, read_cards(self._tables)
        return self._listing[1]

    def distributions(self, entry: CatalogueEntry, names: Sequence[str]) -> dict[str, Distribution]:
        """Return what `CatalogueEntry.distributions` does. Raises TableError, and UsageError for an unknown name."""
        return entry.distributions(self._tables, names)

    def percentiles(self, entry: CatalogueEntry, names: Sequence[str]) -> list[Sequence[float | int]]:
        """Return the percentiles of each of these columns that are published. Raises as `distributions`."""
        found = self.distributions(entry, names)
        return [found[name].percentiles if name in found else () for name in names]

    def _open(self, model: str) -> CatalogueEntry | None:
        opened_at = self._clock()
        try:
            entry = (
                read_entry(self._tables, model, clock=self._clock, cache=self._cache) if is_model_id(model) else None
            )
        except MissingTableError:
            entry = None
        now = self._clock()
        with self._lock:
            # Old entries are dropped, so that memory holds only the models of recent requests.
            self._entries = {m: e for m, e in self._entries.items() if m != model and now - e[0] < MANY_SECONDS}
            if entry:
                self._entries[model] = opened_at, entry
        return entry

    def _read_library(self, inchikeys: Sequence[str]) -> KnownSmiles:
        known, now = self._library, self._clock()
        if known and now - known[0] < CACHE_SECONDS:
            try:
                return read_smiles(known[1], inchikeys)
            except TableError:
                # As with a model, the table may be another one by now.
                if self._took_long(now):
                    raise
        reader = TableReader(self._tables, LIBRARY)
        self._library = now, reader
        return read_smiles(reader, inchikeys)

    def _took_long(self, started: float) -> bool:
        return self._clock() - started > _PATIENCE_SECONDS
