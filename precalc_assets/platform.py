"""An installation: its settings, the stores that they name, and the work that commands and assets both do with them."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from logging import Logger

from obstore.store import ObjectStore

from precalc.progress import OnProgress, ProgressLines, ignore_progress
from precalc_assets.executions.compute_backend import ComputeBackend, Engine
from precalc_assets.executions.records import Compute
from precalc_assets.inference.canary import run_canary
from precalc_assets.inference.opening import open_backend
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.library_manifest import LibraryManifest, read_manifest, require_shards
from precalc_assets.models.folder import ModelFolder
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.canary_report import CanaryReport, find_report
from precalc_assets.predictions.validate import validate_shards
from precalc_assets.settings import Settings, load_settings
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

    def library(self) -> LibraryManifest:
        """Read the library's manifest. Raises LibraryError if it is missing or has another number of shards."""
        return require_shards(read_manifest(self.store), self.settings.n_shards)

    def has_passed_canary(self, folder: ModelFolder, size: int) -> bool:
        """Return whether a folder's release has passed a canary of that size, or of the whole library."""
        report = find_report(self.store, folder.model)
        needed = min(size, self.library().molecules)
        return report is not None and report.lets_run(folder.metadata.release, folder.columns, needed)

    def run_canary(self, model: str, size: int, on_progress: OnProgress) -> CanaryReport:
        """Run a model's canary; see `inference.run_canary`."""
        return run_canary(self.store, self.library(), model, size, settings=self.settings, on_progress=on_progress)

    def predict(
        self,
        folder: ModelFolder,
        shards: Sequence[str],
        on_progress: OnProgress = ignore_progress,
        deadline: float = math.inf,
    ) -> Iterator[ShardOutcome]:
        """Compute raw predictions; see `inference.predict_shards`."""
        return predict_shards(
            self.store,
            self.library(),
            folder.model,
            open_backend(folder, self.settings),
            shards,
            settings=self.settings,
            deadline=deadline,
            on_progress=on_progress,
        )

    def validate(self, model: str, shards: Sequence[str]) -> Iterator[ShardOutcome]:
        """Make predictions from raw predictions; see `predictions.validate_shards`."""
        canary = find_report(self.store, model)
        rate = self.settings.max_failure_rate
        return validate_shards(self.store, self.library(), model, shards, max_failure_rate=rate, canary=canary)

    def progress(self, log: Logger, molecules: int) -> OnProgress:
        """Return a callback that writes a long step's progress to the run's log."""
        return ProgressLines(log.info, molecules)

    def engine(self, say: Callable[[str], None], compute: str = "", *, patient: bool = True) -> Engine:
        """Return the engine that launches on `compute` (default: PRECALC_COMPUTE), and follows on each backend.

        `say` gets its progress, and `patient` retries failed reads. Raises UsageError if a setting is missing,
        LibraryError if there is no library.
        """
        open_compute = cache(partial(self._open_compute, patient=patient))
        chosen: Compute = "slurm" if (compute or self.settings.compute) == "slurm" else "github"
        if compute or self.settings.compute != "local":
            open_compute(chosen)
        return Engine(self.store, chosen, open_compute, self.library(), self.settings, say=say)

    def _open_compute(self, compute: Compute, *, patient: bool) -> ComputeBackend:
        if compute == "slurm":
            from precalc_assets.executions.slurm import open_slurm

            return open_slurm(self.settings, self.store)
        # githubkit takes a third of a second to load, and a run on this machine needs none of it.
        from precalc_assets.executions.github import open_github

        return open_github(self.settings) if patient else open_github(self.settings, read_pauses=())

    def uri(self, path: str) -> str:
        """Return the URL of an object of the store."""
        return f"{absolute_url(self.settings.store_url).rstrip('/')}/{path}"


def open_platform() -> Platform:
    """Return the installation of this process's settings. Raises UsageError for a wrong setting."""
    return Platform(load_settings())
