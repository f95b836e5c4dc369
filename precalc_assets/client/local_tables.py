"""The platform's tables as a source of the client: those on this disk, or DynamoDB's with one's own credentials."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from precalc.errors import ChangedError, DownloadError
from precalc.identifiers import check_model_id
from precalc.source import Answer, Column, CutOffError, Listing, ModelInfo, ModelSummary, ServedFile, Stream, changed
from precalc_assets.cards import ModelCard
from precalc_assets.catalogue import CatalogueEntry, read_cards, read_entry
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import MissingTableError
from precalc_assets.settings import load_settings
from precalc_assets.tables import LIBRARY, KeyValueStore, TableReader, open_tables

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_MOST_MOLECULES = 100_000
_MOST_VALUES = 1_000_000
"""Bounds of one read: a page is unpacked once for all molecules of a call, and a million values take some 100 MB while
they are turned into text."""


def open_local_source() -> "LocalSource":
    """Return the tables that the settings name. Raises TableError if they cannot be used."""
    settings = load_settings()
    return LocalSource(open_tables(settings.tables_url), settings.tables_url, settings.store_url)


class LocalSource:
    """The tables of a key-value store."""

    def __init__(self, tables: KeyValueStore, name: str, store_url: str = "") -> None:
        """Begin; files are those of the object store at `store_url`."""
        self.name = name
        self._tables = tables
        self._store_url = store_url

    def models(self) -> list[ModelSummary]:
        """See `Source.models`."""
        return [_summary(model, card) for model, card in read_cards(self._tables).items()]

    def open(self, model: str) -> "LocalModel":
        """See `Source.open`."""
        entry = self._read(model)
        card, metadata = entry.card, entry.card.metadata if entry.card else None
        info = ModelInfo(
            source=self.name,
            model=model,
            columns=tuple(Column(c.name, c.type, c.direction, c.description) for c in entry.reader.columns),
            releases=tuple(entry.releases),
            library_digest=entry.library_digest,
            deterministic=entry.deterministic,
            varying=card.varying if card else (),
            updated=entry.updated,
            molecules=entry.molecules,
            shards=len(entry.directories),
            n_shards=entry.reader.n_shards,
            title=metadata.title if metadata else None,
            description=metadata.description if metadata else None,
            license=metadata.license if metadata else None,
            publication=metadata.publication if metadata else None,
            quarantined=card.quarantined if card else None,
        )
        generations = {shard: directory.generation for shard, directory in entry.directories.items()}
        return LocalModel(info, entry.reader, generations, self._tables)

    def _read(self, model: str) -> CatalogueEntry:
        try:
            return read_entry(self._tables, check_model_id(model))
        except MissingTableError:
            raise MissingTableError(
                f"no predictions of {model!r} are in {self.name}; name an API that has them, "
                f"or run `precalc load {model}` first"
            ) from None

    def files(self, model: str) -> Listing:
        """See `Source.files`."""
        entry = self._read(model)
        return Listing(
            source=self._store_url,
            model=model,
            releases=tuple(entry.releases),
            library_digest=entry.library_digest,
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
                for shard, directory in entry.directories.items()
            ),
        )

    @contextmanager
    def open_file(self, file: ServedFile, start: int) -> Iterator[Stream]:
        """See `Source.open_file`."""
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


class LocalModel:
    """The table of a model. Rows of other generations of its shards are refused."""

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


def _summary(model: str, card: ModelCard | None) -> ModelSummary:
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
