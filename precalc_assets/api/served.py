"""The models that are served, kept open between requests.

A model is opened anew after `CACHE_SECONDS`, and what is not there is looked for every time, so a new model is found
at once, and new columns, cards and coverage after a minute at the latest.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pydantic import ValidationError

from precalc_assets.cards import ModelCard, find_card
from precalc_assets.errors import TableError
from precalc_assets.model_ids import is_model_id
from precalc_assets.sharding import shard_of
from precalc_assets.tables import REGISTRY, Directory, KeyValueStore, TableReader
from precalc_assets.tables.reader import CACHE_SECONDS, Row

LISTING_SECONDS = 10.0
"""How long the list of models is used before it is read again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as it was when it was opened: its table, and what it says of itself, if it has been published.

    `releases` has the release of each loaded shard. `library_digest` names the version of the reference library that
    was predicted, None unless every shard is loaded. `updated` is the time of the last load, ISO 8601 in UTC.
    """

    model: str
    reader: TableReader
    card: ModelCard | None
    releases: dict[str, str]
    library_digest: str | None
    molecules: int
    updated: str | None
    opened_at: float

    @property
    def deterministic(self) -> bool | None:
        """Whether the model predicts the same every time, None if that was not found out."""
        return self.card.deterministic if self.card else None

    def release_of(self, inchikey: str) -> str | None:
        """Return the release that a molecule's prediction is of, None if its shard is not loaded."""
        return self.releases.get(shard_of(inchikey, self.reader.n_shards))


class ServedModels:
    """The models in a key-value store, opened when they are first asked for. May be used by several threads."""

    def __init__(self, tables: KeyValueStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tables = tables
        self._clock = clock
        self._models: dict[str, ServedModel] = {}
        self._listing: tuple[float, dict[str, ModelCard | None]] | None = None

    def find(self, model: str) -> ServedModel | None:
        """Return a model, None if nothing of it is served. Raises TableError if the store cannot tell."""
        known = self._models.get(model)
        if known and self._clock() - known.opened_at < CACHE_SECONDS:
            return known
        return self._open(model)

    def read(self, model: str, inchikeys: Sequence[str]) -> tuple[ServedModel, list[Row | None]] | None:
        """Return a model with the molecules' predictions, as `TableReader.get` does; None if nothing of it is served.

        Raises UsageError for a malformed InChIKey, TableError if the store cannot tell.
        """
        served = self.find(model)
        if served is None:
            return None
        try:
            return served, served.reader.get(inchikeys)
        except TableError:
            # The table may have been dropped or made anew since it was opened.
            served = self._open(model)
            return (served, served.reader.get(inchikeys)) if served else None

    def cards(self) -> dict[str, ModelCard | None]:
        """Return the cards of all models that have a table, by model; None for those without one.

        Raises TableError if the store cannot tell.
        """
        now = self._clock()
        if self._listing is None or now - self._listing[0] >= LISTING_SECONDS:
            self._listing = now, self._read_cards()
        return self._listing[1]

    def _open(self, model: str) -> ServedModel | None:
        now = self._clock()
        # Whatever is too old goes, so that memory holds no more than what was asked for lately.
        self._models = {m: s for m, s in self._models.items() if m != model and now - s.opened_at < CACHE_SECONDS}
        if not is_model_id(model):
            return None
        try:
            reader = TableReader(self._tables, model)
        except TableError:
            if self._tables.has_table(model):
                raise
            return None
        directories = reader.directories()
        served = ServedModel(
            model=model,
            reader=reader,
            card=self._find_card(model),
            releases={shard: directory.release for shard, directory in directories.items()},
            library_digest=_library_digest(directories, reader.n_shards),
            molecules=sum(directory.rows for directory in directories.values()),
            updated=max((directory.loaded_at for directory in directories.values()), default=None),
            opened_at=now,
        )
        self._models[model] = served
        return served

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
        return {model: _parse(model, items[model].value) if model in items else None for model in models}


def _parse(model: str, value: bytes) -> ModelCard | None:
    try:
        return ModelCard.model_validate_json(value)
    except ValidationError as error:
        _log.warning("the card of %s is damaged (%s); publish it again", model, error.errors()[0]["msg"])
        return None


def _library_digest(directories: dict[str, Directory], n_shards: int) -> str | None:
    """Return the digest that the library's manifest has: of the digests of its shards, in order."""
    if len(directories) < n_shards:
        return None
    return _sha256(directory.shard_digest for _, directory in sorted(directories.items()))


def _sha256(parts: Iterable[str]) -> str:
    return sha256("".join(parts).encode()).hexdigest()
