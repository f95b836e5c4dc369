"""What assets work with: the settings, the object store and the key-value store that they name."""

from functools import cached_property
from logging import Logger
from urllib.parse import urlsplit

from obstore.store import ObjectStore

from precalc_assets.library import LibraryManifest, read_manifest, require_shards
from precalc_assets.progress import OnProgress, ProgressLines
from precalc_assets.settings import Settings, load_settings
from precalc_assets.storage import absolute_url, open_store
from precalc_assets.tables import KeyValueStore, open_tables

TABLES_KIND = urlsplit(load_settings().tables_url).scheme
"""What the UI calls the store of the tables: sqlite."""


class Platform:
    """The stores of one installation, opened when they are first used."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    @cached_property
    def settings(self) -> Settings:
        """The settings, from the environment where none were given."""
        return self._settings or load_settings()

    @cached_property
    def store(self) -> ObjectStore:
        """The object store."""
        return open_store(self.settings.store_url)

    @cached_property
    def tables(self) -> KeyValueStore:
        """The prediction tables."""
        return open_tables(self.settings.tables_url)

    def library(self) -> LibraryManifest:
        """Read the library's manifest. Raises LibraryError if there is none, or one of another number of shards."""
        return require_shards(read_manifest(self.store), self.settings.n_shards)

    def progress(self, log: Logger, molecules: int) -> OnProgress:
        """Return what a long step tells its progress to: here, lines in the run's log."""
        return ProgressLines(log.info, molecules)

    def uri(self, path: str) -> str:
        """Return the full name of an object of the store."""
        return f"{absolute_url(self.settings.store_url).rstrip('/')}/{path}"
