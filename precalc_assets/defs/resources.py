"""What assets and sensors work with: the settings, the stores that they name, and GitHub's runners."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from logging import Logger
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import ObjectStore

from precalc_assets.library import LibraryManifest, read_manifest, require_shards
from precalc_assets.progress import OnProgress, ProgressLines
from precalc_assets.settings import Settings, load_settings
from precalc_assets.storage import absolute_url, open_store
from precalc_assets.tables import KeyValueStore, open_tables

if TYPE_CHECKING:
    from precalc_assets.executions import Engine

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

    def engine(self, say: Callable[[str], None], *, patient: bool = True) -> Engine:
        """Return the engine over GitHub's runners; `say` gets its progress, and `patient` retries failed reads.

        Raises UsageError if a setting is missing, LibraryError if there is no library.
        """
        # githubkit takes a third of a second to load, and a run on this machine needs none of it.
        from precalc_assets.executions import Engine
        from precalc_assets.executions.github import open_github

        github = open_github(self.settings) if patient else open_github(self.settings, read_pauses=())
        return Engine(self.store, github, self.library(), self.settings, say=say)

    def uri(self, path: str) -> str:
        """Return the full name of an object of the store."""
        return f"{absolute_url(self.settings.store_url).rstrip('/')}/{path}"
