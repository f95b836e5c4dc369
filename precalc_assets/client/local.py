"""Reading from the tables themselves: those on this disk, or DynamoDB's with credentials of one's own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from precalc_assets.cards import ModelCard
from precalc_assets.catalogue import CatalogueEntry, read_cards, read_entry
from precalc_assets.client.downloading import CutOffError, Listing, ServedFile, Stream
from precalc_assets.client.errors import ChangedError, DownloadError
from precalc_assets.client.source import Answer, ModelInfo, ModelSummary, changed
from precalc_assets.errors import MissingTableError
from precalc_assets.model_ids import check_model_id
from precalc_assets.outcomes import reason
from precalc_assets.tables import LIBRARY, KeyValueStore, TableReader

if TYPE_CHECKING:
    from obstore.store import ObjectStore

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
        return [_summary(model, card) for model, card in read_cards(self._tables).items()]

    def open(self, model: str) -> "LocalModel":
        """See `Source.open`."""
        entry = self._read(model)
        info = ModelInfo(
            source=self.name,
            model=model,
            columns=entry.reader.columns,
            releases=tuple(entry.releases),
            library_digest=entry.library_digest,
            deterministic=entry.deterministic,
            varying=entry.card.varying if entry.card else (),
            updated=entry.updated,
            molecules=entry.molecules,
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
        """See `FileSource.files`."""
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
