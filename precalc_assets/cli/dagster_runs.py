"""`precalc run`: materializes the asset graph in this process, on the instance that the UI shows."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError
from yaml import YAMLError

from precalc.cli.progress_bar import progress
from precalc.cli.terminal import say
from precalc.progress import OnProgress, ignore_progress
from precalc_assets.cli.canary_commands import print_report
from precalc_assets.cli.work import report_library
from precalc_assets.definitions import build_defs
from precalc_assets.defs.dead_runs import settle_dead_runs
from precalc_assets.defs.own_runs import OwnRuns
from precalc_assets.defs.partitions import MODELS
from precalc_assets.defs.recording import recorded_input
from precalc_assets.inference.opening import open_model
from precalc_assets.library.library_manifest import find_library, require_shards
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.settings import load_settings
from precalc_assets.sharding import parse_shards

_HOME = Path("dagster_home")

LIBRARY_ASSETS = ("reference_library", "library_shards")


class TerminalPlatform(Platform):
    """The platform with progress on the terminal instead of in the run's log."""

    on_progress: OnProgress = staticmethod(ignore_progress)

    def progress(self, log: Logger, molecules: int) -> OnProgress:  # noqa: ARG002 - the platform's signature
        """Return the terminal's progress bar."""
        return self.on_progress


class Session(OwnRuns):
    """Runs of the graph on the persistent instance, with their progress on the terminal."""

    def __init__(self) -> None:
        home = Path(os.environ.get("DAGSTER_HOME") or _HOME).resolve()
        if not (home / "dagster.yaml").is_file():
            raise UsageError(
                f"{home} is not a Dagster instance: it has no dagster.yaml; set DAGSTER_HOME, or use `precalc predict` "
                "and `precalc load`, which need no Dagster"
            )
        os.environ["DAGSTER_HOME"] = str(home)
        platform = TerminalPlatform(load_settings())
        try:
            instance = dg.DagsterInstance.get()
        except (dg.DagsterError, YAMLError) as error:
            why = " ".join(str(error).split())
            raise UsageError(
                f"{home / 'dagster.yaml'} cannot be used: {why}; correct it, or restore it by git"
            ) from error
        settle_dead_runs(instance)
        super().__init__(platform, build_defs(platform).resolve_implicit_global_asset_job_def(), instance, {})
        self._terminal = platform

    @contextmanager
    def showing(self, what: str, molecules: int) -> Iterator[None]:
        """Show a progress bar."""
        with progress(what, molecules) as self._terminal.on_progress:
            yield

    def tell(self, what: str, run_id: str) -> None:  # noqa: ARG002 - the id is for logs
        """Print what a run waits for, or has materialized."""
        say(what)

    def ensure_library(self) -> None:
        """Materialize the library's assets if there is no library or the instance's latest record is of another one.

        Raises LibraryError if the library has another number of shards, PrecalcError if a run fails.
        """
        library = find_library(self.platform.store)
        if library is None or library.digest != recorded_input(self.instance, LIBRARY_ASSETS[0]).data_version:
            if library:
                require_shards(library, self.platform.settings.n_shards)
            _raise_failures([self.materialize(LIBRARY_ASSETS[0]).failure])
            library = self.platform.library()
            report_library(library)
            recorded_shards: set[str] = set()
        else:
            recorded_shards = self.instance.get_materialized_partitions(dg.AssetKey(LIBRARY_ASSETS[1]))
        shards = list(library.shards)
        if not recorded_shards.issuperset(shards):
            _raise_failures([self.materialize(LIBRARY_ASSETS[1], shards[0], shards[-1]).failure])


@contextmanager
def clear_records() -> Iterator[None]:
    """Turn an error of the database that holds Dagster's records into one line."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        why = str(error).partition("\n")[0]
        records = Path(os.environ["DAGSTER_HOME"]) / "history"
        raise PrecalcError(
            f"Dagster's records in {records} cannot be used: {why}; if they are damaged, move that folder away: it "
            "only holds the history of runs, and the same command records again what the store has"
        ) from error


@clear_records()
def run_model(model: str, shards: str | None) -> None:
    """Materialize a model's shards stage by stage, then its card; a shard that fails a stage skips the next ones.

    A release that has passed no canary runs one first, and stops if that fails. Raises PrecalcError at the end with
    the descriptions of all failures.
    """
    session = Session()
    settings = session.platform.settings
    open_model(model, settings)
    chosen = parse_shards(shards, settings.n_shards)
    session.ensure_library()
    _raise_failures(session.precalculate(model, chosen, {}))


@clear_records()
def run_sample(model: str, size: int) -> None:
    """Materialize a model's sample predictions and print the report. Raises PrecalcError if a check fails."""
    session = Session()
    open_model(model, session.platform.settings)
    session.ensure_library()
    session.instance.add_dynamic_partitions(MODELS, [model])
    before = find_report(session.platform.store, model)
    failure = session.run_canary(model, size, {})
    report = find_report(session.platform.store, model)
    if report and report != before:
        print_report(report)
    _raise_failures([failure])


def _raise_failures(failures: list[str]) -> None:
    said = [failure for failure in failures if failure]
    if said:
        raise PrecalcError("\n".join(said))
