"""Reading from the tables themselves: those on this disk, or DynamoDB's with credentials of one's own."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from precalc_assets.cards import ModelCard, find_card, read_card
from precalc_assets.client.downloading import CutOffError, Listing, ServedFile, Stream
from precalc_assets.client.errors import ChangedError, DownloadError
from precalc_assets.client.source import Answer, ModelInfo, ModelSummary, changed
from precalc_assets.errors import MissingTableError, TableError
from precalc_assets.model_ids import check_model_id, is_model_id
from precalc_assets.outcomes import reason
from precalc_assets.tables import LIBRARY, REGISTRY, Directory, Item, KeyValueStore, TableReader

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = logging.getLogger(__name__)

_MOST_MOLECULES = 100_000
_MOST_VALUES = 1_000_000
"""Bounds of what is read at a time: a page is unpacked once for all that is asked of it in one call, and a million
values take some 100 MB while they are turned into text."""


class LocalSource:
    """The tables of a key-value store."""

    def __init__(self, tables: KeyValueStore, name: str, store_url: str = "") -> None:
        """Begin; files are those of the object store at `store_url`."""
        self.name = name
        self._tables = tables
        self._store_url = store_url

    def models(self) -> list[ModelSummary]:
        """See `Source.models`."""
        names = self._tables.list_tables()
        models = list(filter(is_model_id, names))
        items = self._tables.get_many(REGISTRY, models) if REGISTRY in names else {}
        return [_summary(model, items.get(model)) for model in models]

    def open(self, model: str) -> "LocalModel":
        """See `Source.open`."""
        reader, directories = self._read(model)
        card = self._card(model)
        info = ModelInfo(
            source=self.name,
            model=model,
            columns=reader.columns,
            releases=tuple(sorted({directory.release for directory in directories.values()})),
            library_digest=_library_digest(directories, reader.n_shards),
            deterministic=card.deterministic if card else None,
            varying=card.varying if card else (),
            updated=max((directory.loaded_at for directory in directories.values()), default=None),
            molecules=sum(directory.rows for directory in directories.values()),
        )
        generations = {shard: directory.generation for shard, directory in directories.items()}
        return LocalModel(info, reader, generations, self._tables)

    def _read(self, model: str) -> tuple[TableReader, dict[str, Directory]]:
        try:
            reader = TableReader(self._tables, check_model_id(model))
            return reader, reader.directories()
        except MissingTableError:
            raise MissingTableError(
                f"no predictions of {model!r} are in {self.name}; name an API that has them, "
                f"or run `precalc load {model}` first"
            ) from None

    def files(self, model: str) -> Listing:
        """See `FileSource.files`."""
        reader, directories = self._read(model)
        return Listing(
            source=self._store_url,
            model=model,
            releases=tuple(sorted({directory.release for directory in directories.values()})),
            library_digest=_library_digest(directories, reader.n_shards),
            files=tuple(
                ServedFile(
                    model=model,
                    shard=shard,
                    name=f"shard={shard}.parquet",
                    url="",
                    bytes=directory.file_bytes,
                    sha256=directory.file_sha256,
                    rows=directory.rows,
                    release=directory.release,
                )
                for shard, directory in directories.items()
            ),
        )

    @contextmanager
    def open_file(self, file: ServedFile, start: int) -> Iterator[Stream]:
        """See `FileSource.open_file`."""
        import obstore
        from obstore.exceptions import BaseError

        from precalc_assets import storage

        name = storage.predictions(file.model, file.shard)
        try:
            found = obstore.get(self._store, name, options={"range": {"offset": start}} if start else None)
            yield Stream(start, (bytes(chunk) for chunk in found.stream()))
        except FileNotFoundError:
            raise DownloadError(f"{name} is gone from the store; run `precalc load {file.model}` again") from None
        except (BaseError, OSError) as error:
            raise CutOffError(f"{name} cannot be read: {reason(error)}") from None

    @cached_property
    def _store(self) -> "ObjectStore":
        from precalc_assets.storage import open_store

        return open_store(self._store_url)

    def close(self) -> None:
        """See `Source.close`."""
        self._tables.close()

    def _card(self, model: str) -> ModelCard | None:
        """Return the model's card; one that is damaged stops nobody who wants predictions."""
        try:
            return find_card(self._tables, model)
        except TableError as error:
            _log.warning("warning: %s", error)
            return None


class LocalModel:
    """The table of a model, as long as its shards are of these generations."""

    parallel = 1

    def __init__(
        self, info: ModelInfo, reader: TableReader, generations: Mapping[str, str], tables: KeyValueStore
    ) -> None:
        self.info = info
        self.batch_size = max(1, min(_MOST_MOLECULES, _MOST_VALUES // max(1, len(info.columns))))
        self._reader = reader
        self._generations = generations
        self._tables = tables

    def read(self, inchikeys: Sequence[str], *, smiles: bool = False) -> Answer:
        """See `OpenModel.read`."""
        rows, directories = self._reader.read(inchikeys)
        for shard, directory in directories.items():
            if directory.generation != self._generations.get(shard):
                raise ChangedError(changed(self.info, f"{directory.release} in shard {shard}"))
        return Answer(rows, self.smiles(inchikeys) if smiles else None)

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        if self._library is None:
            return [None] * len(inchikeys)
        return [None if row is None else str(row[0]) for row in self._library.get(inchikeys)]

    @cached_property
    def _library(self) -> TableReader | None:
        try:
            return TableReader(self._tables, LIBRARY)
        except MissingTableError:
            return None


def _summary(model: str, item: Item | None) -> ModelSummary:
    try:
        card = read_card(item) if item else None
    except TableError:
        card = None
    if card is None:
        return ModelSummary(model)
    return ModelSummary(
        model=model,
        title=card.metadata.title,
        n_columns=len(card.columns),
        molecules=card.molecules,
        shards=len(card.shards),
        n_shards=card.n_shards,
        releases=card.releases,
        deterministic=card.deterministic,
        updated=card.updated.isoformat(timespec="seconds"),
    )


def _library_digest(directories: dict[str, Directory], n_shards: int) -> str | None:
    """Return the digest that the library's manifest has: of the digests of its shards, in order."""
    if len(directories) < n_shards:
        return None
    return sha256("".join(directory.shard_digest for _, directory in sorted(directories.items())).encode()).hexdigest()
