"""The resources of assets and sensors: the settings, the stores that they name, and GitHub's runners."""

from collections.abc import Callable
from functools import cached_property
from logging import Logger
from urllib.parse import urlsplit

from obstore.store import ObjectStore

from precalc.progress import OnProgress, ProgressLines
from precalc_assets.executions import Engine
from precalc_assets.library import LibraryManifest, read_manifest, require_shards
from precalc_assets.settings import Settings
from precalc_assets.storage import absolute_url, open_store
from precalc_assets.tables import KeyValueStore, open_tables


class Platform:
    """The settings of one installation, and its stores, which are opened at their first use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def store(self) -> ObjectStore:
        """The object store."""
        return open_store(self.settings.store_url)

    @cached_property
    def tables(self) -> KeyValueStore:
        """The prediction tables."""
        return open_tables(self.settings.tables_url)

    @property
    def tables_kind(self) -> str:
        """The UI's name for the tables' store, such as sqlite."""
        return urlsplit(self.settings.tables_url).scheme

    @property
    def inference_pool(self) -> str:
        """The concurrency pool: of runs that compute on this machine, or of runs that wait for GitHub's runners."""
        return "inference" if self.settings.compute == "local" else "github"

    def library(self) -> LibraryManifest:
        """Read the library's manifest. Raises LibraryError if it is missing or has another number of shards."""
        return require_shards(read_manifest(self.store), self.settings.n_shards)

    def progress(self, log: Logger, molecules: int) -> OnProgress:
        """Return a callback that writes a long step's progress to the run's log."""
        return ProgressLines(log.info, molecules)

    def engine(self, say: Callable[[str], None], *, patient: bool = True) -> Engine:
        """Return the engine over GitHub's runners; `say` gets its progress, and `patient` retries failed reads.

        Raises UsageError if a setting is missing, LibraryError if there is no library.
        """
        # githubkit takes a third of a second to load, and a run on this machine needs none of it.
        from precalc_assets.executions.github import open_github

        github = open_github(self.settings) if patient else open_github(self.settings, read_pauses=())
        return Engine(self.store, github, self.library(), self.settings, say=say)

    def uri(self, path: str) -> str:
        """Return the URL of an object of the store."""
        return f"{absolute_url(self.settings.store_url).rstrip('/')}/{path}"
