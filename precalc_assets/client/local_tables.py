"""The platform's tables as a source of the client: those on this disk, or DynamoDB's with one's own credentials."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING

from precalc import source
from precalc.errors import ChangedError, DownloadError
from precalc.identifiers import check_model_id, find_columns
from precalc.reasons import Reasons
from precalc.source import Engine, Question, ScreenAnswer
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
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import MissingTableError, TableError
from precalc_assets.settings import load_settings
from precalc_assets.sharding import shard_key
from precalc_assets.tables import LIBRARY, KeyValueStore, TableReader, open_tables

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from precalc_assets.screening.athena import AthenaEngine
    from precalc_assets.screening.engine import ScreeningEngine

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

    def models(self) -> list[source.ModelSummary]:
        """See `Source.models`."""
        return [_summary(model, card) for model, card in read_cards(self._tables).items()]

    def open(self, model: str, columns: Sequence[str] | None = None) -> "LocalModel":
        """See `Source.open`."""
        entry = self._read(model)
        card = entry.card
        described = {"title", "description", "license", "publication"}
        info = source.ModelInfo(
            source=self.name,
            model=model,
            columns=tuple(source.Column(c.name, c.type, c.direction, c.description) for c in entry.reader.columns),
            releases=tuple(entry.releases),
            library_digest=entry.library_digest,
            deterministic=entry.deterministic,
            varying=card.varying if card else (),
            updated=entry.updated,
            molecules=entry.molecules,
            shards=len(entry.directories),
            n_shards=entry.reader.n_shards,
            quarantined=card.quarantined if card else None,
            runner_hours=card.runner_hours if card else None,
            dollars=card.dollars if card else None,
            peak_memory=card.peak_memory if card else None,
            **(card.metadata.model_dump(include=described) if card else {}),
        )
        generations = {shard: directory.generation for shard, directory in entry.directories.items()}
        reasons = Reasons(model, info.n_shards, partial(self._quarantine, model, info.n_shards))
        if columns is None:
            return LocalModel(info, entry.reader, generations, self._tables, reasons)
        places = find_columns(model, [column.name for column in info.columns], columns)
        return LocalModel(info.with_columns(columns), entry.reader, generations, self._tables, reasons, places)

    def _quarantine(self, model: str, n_shards: int, shards: Collection[int]) -> dict[int, bytes]:
        """Return a model's quarantine lists of these shards, by their numbers."""
        import obstore
        from obstore.exceptions import BaseError

        from precalc_assets import storage

        lists = {}
        for shard in shards:
            name = storage.quarantine(model, shard_key(shard, n_shards))
            try:
                lists[shard] = bytes(obstore.get(self._store, name).bytes())
            except (BaseError, OSError) as error:
                raise TableError(f"{name} cannot be read: {reason(error)}; {source.reload(model)}") from None
        return lists

    def _read(self, model: str) -> CatalogueEntry:
        try:
            return read_entry(self._tables, check_model_id(model))
        except MissingTableError:
            raise MissingTableError(
                f"no predictions of {model!r} are in {self.name}; name an API that has them, "
                f"or run `precalc load {model}` first"
            ) from None

    def files(self, model: str) -> source.Listing:
        """See `Source.files`."""
        entry = self._read(model)
        return source.Listing(
            source=self._store_url,
            model=model,
            releases=tuple(entry.releases),
            library_digest=entry.library_digest,
            files=tuple(
                source.ServedFile(
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

    def distributions(self, model: str, columns: Sequence[str]) -> dict[str, source.Distribution]:
        """See `Source.distributions`."""
        return self._read(model).distributions(self._tables, columns)

    def screen(self, question: Question, *, engine: Engine | None = None) -> ScreenAnswer:
        """See `Source.screen`. The engine `athena` is the workgroup that the settings name."""
        from precalc_assets.screening.query import read_question

        query = read_question(question)
        return self._athena.answer(query) if engine == "athena" else self._engine.answer(query)

    @contextmanager
    def open_file(self, file: source.ServedFile, start: int) -> Iterator[source.Stream]:
        """See `Source.open_file`."""
        import obstore
        from obstore.exceptions import BaseError

        from precalc_assets import storage

        name = storage.predictions(file.model, file.shard)
        try:
            size = obstore.head(self._store, name)["size"]
            if size != file.bytes:
                raise DownloadError(
                    f"{name} has {size:,} bytes, not the {file.bytes:,} that the table was loaded from; "
                    f"{source.reload(file.model)}"
                )
            found = obstore.get(self._store, name, options={"range": {"offset": start}} if start else None)
            yield source.Stream(start, (bytes(chunk) for chunk in found.stream()))
        except FileNotFoundError:
            raise DownloadError(f"{name} is gone from the store; {source.reload(file.model)}") from None
        except (BaseError, OSError) as error:
            raise source.CutOffError(f"{name} cannot be read: {reason(error)}") from None

    @cached_property
    def _engine(self) -> "ScreeningEngine":
        from precalc_assets.screening.engine import open_engine

        return open_engine(self._store, self._tables)

    @cached_property
    def _athena(self) -> "AthenaEngine":
        from precalc_assets.screening.athena import open_athena
        from precalc_assets.storage import open_store

        # Analysts read predictions alone, so opening the store must not read the library.
        return open_athena(open_store(self._store_url, probe=False), self._tables, load_settings().glue_database)

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
        self,
        info: source.ModelInfo,
        reader: TableReader,
        generations: Mapping[str, str],
        tables: KeyValueStore,
        reasons: Reasons,
        columns: tuple[int, ...] | None = None,
    ) -> None:
        self.info = info
        self._columns = columns
        self.batch_size = max(1, min(_MOST_MOLECULES, _MOST_VALUES // max(1, len(info.columns))))
        self._reader = reader
        self._generations = generations
        self._tables = tables
        self._reasons = reasons

    def read(self, inchikeys: Sequence[str], *, smiles: Collection[str] = (), reasons: bool = False) -> source.Answer:
        """See `OpenModel.read`."""
        reading = self._reader.read(inchikeys, self._columns)
        for shard, directory in reading.directories.items():
            if directory.generation != self._generations.get(shard):
                raise ChangedError(source.changed(self.info, f"{directory.release} in shard {shard}"))
        known = self._read_smiles(sorted({*smiles, *absent_from(inchikeys, reading)}))
        statuses = find_statuses(self._reader, inchikeys, reading, self._columns, known)
        answer = source.Answer(reading.rows, statuses, known)
        return self._reasons.add_to(answer, inchikeys) if reasons else answer

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        known = self._read_smiles(inchikeys)
        return [known.get(inchikey) for inchikey in inchikeys]

    def _read_smiles(self, inchikeys: Sequence[str]) -> KnownSmiles:
        return read_smiles(self._library, inchikeys) if self._library and inchikeys else {}

    @cached_property
    def _library(self) -> TableReader | None:
        try:
            return TableReader(self._tables, LIBRARY)
        except MissingTableError:
            return None


def _summary(model: str, card: ModelCard | None) -> source.ModelSummary:
    if card is None:
        return source.ModelSummary(model)
    return source.ModelSummary(
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
