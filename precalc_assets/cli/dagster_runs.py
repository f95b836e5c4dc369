"""`precalc run`: materializes the asset graph in this process, on the instance that the UI shows."""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from uuid import uuid4

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError
from yaml import YAMLError

from precalc.cli.progress_bar import progress
from precalc.cli.terminal import say
from precalc.progress import OnProgress, ignore_progress
from precalc_assets.cli.canary_commands import print_report
from precalc_assets.cli.work import report_library
from precalc_assets.definitions import build_defs
from precalc_assets.defs.dead_runs import process_tags, settle_dead_runs
from precalc_assets.defs.inference_assets import SampleConfig
from precalc_assets.defs.partitions import MODELS, partition_key, range_tags
from precalc_assets.defs.recording import recorded_input
from precalc_assets.inference.opening import open_model
from precalc_assets.library.library_manifest import find_library, require_shards
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.settings import load_settings
from precalc_assets.sharding import contiguous_ranges, parse_shards

_HOME = Path("dagster_home")

LIBRARY_ASSETS = ("reference_library", "library_shards")

STAGES = ("raw_predictions", "predictions", "prediction_table")
"""The assets of a model's shards; each depends on the one before."""


class TerminalPlatform(Platform):
    """The platform with progress on the terminal instead of in the run's log."""

    on_progress: OnProgress = staticmethod(ignore_progress)

    def progress(self, log: Logger, molecules: int) -> OnProgress:  # noqa: ARG002 - the platform's signature
        """Return the terminal's progress bar."""
        return self.on_progress


class Session:
    """The persistent instance, and in-process runs of the graph on it."""

    def __init__(self) -> None:
        home = Path(os.environ.get("DAGSTER_HOME") or _HOME).resolve()
        if not (home / "dagster.yaml").is_file():
            raise UsageError(
                f"{home} is not a Dagster instance: it has no dagster.yaml; set DAGSTER_HOME, or use `precalc predict` "
                "and `precalc load`, which need no Dagster"
            )
        os.environ["DAGSTER_HOME"] = str(home)
        self.platform = TerminalPlatform(load_settings())
        try:
            self.instance = dg.DagsterInstance.get()
        except (dg.DagsterError, YAMLError) as error:
            why = " ".join(str(error).split())
            raise UsageError(
                f"{home / 'dagster.yaml'} cannot be used: {why}; correct it, or restore it by git"
            ) from error
        settle_dead_runs(self.instance)
        self.landed: set[tuple[str, str]] = set()
        """The assets' partitions that this session has materialized."""
        self._job = build_defs(self.platform).resolve_implicit_global_asset_job_def()

    def materialize(self, asset: str, first: str = "", last: str = "", ops: Mapping[str, object] | None = None) -> str:
        """Materialize an asset's partitions from first to last. Returns why the run failed, or an empty string."""
        model = first.partition("|")[0] if asset not in LIBRARY_ASSETS else ""
        run_id = str(uuid4())
        tags = process_tags(run_id) | (range_tags(first, last) if first else {}) | ({"model": model} if model else {})
        started = time.perf_counter()
        result = self._job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": ops or {}},
            instance=self.instance,
            run_id=run_id,
            asset_selection=[dg.AssetKey(asset)],
            tags=tags,
            raise_on_error=False,
        )
        errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
        if any(error and error.cls_name == "DagsterExecutionInterruptedError" for error in errors):
            raise KeyboardInterrupt
        self._report(asset, model, result, time.perf_counter() - started)
        return "" if result.success else _failure(result)

    def _report(self, asset: str, model: str, result: dg.ExecuteInProcessResult, seconds: float) -> None:
        """Print what a run has materialized, and note the partitions in `landed`."""
        events = [event.step_materialization_data for event in result.all_events if event.is_step_materialization]
        # A run of shards also records a canary that Dagster has no record of.
        landed = [event.materialization for event in events if event.materialization.asset_key == dg.AssetKey(asset)]
        self.landed |= {(asset, entry.partition) for entry in landed if entry.partition}
        counts = [entry.metadata["dagster/row_count"].value for entry in landed]
        rows = sum(count for count in counts if isinstance(count, int))
        say(f"{asset} {model}".strip() + f": {len(landed)} materialized, {rows:,} rows, {seconds:.1f} s")

    def run_canary(self, model: str, size: int) -> str:
        """Materialize a model's sample predictions. Returns why the run failed, or an empty string."""
        ops = {"sample_predictions": {"config": {"size": size}}}
        molecules = 2 * min(size, self.platform.library().molecules)
        with progress(f"sample_predictions {model}", molecules) as self.platform.on_progress:
            return self.materialize("sample_predictions", model, model, ops)

    def ensure_library(self) -> None:
        """Materialize the library's assets if there is no library or the instance's latest record is of another one.

        Raises LibraryError if the library has another number of shards, PrecalcError if a run fails.
        """
        library = find_library(self.platform.store)
        if library is None or library.digest != recorded_input(self.instance, LIBRARY_ASSETS[0]).data_version:
            if library:
                require_shards(library, self.platform.settings.n_shards)
            _raise_failures([self.materialize(LIBRARY_ASSETS[0])])
            library = self.platform.library()
            report_library(library)
            recorded_shards: set[str] = set()
        else:
            recorded_shards = self.instance.get_materialized_partitions(dg.AssetKey(LIBRARY_ASSETS[1]))
        shards = list(library.shards)
        if not recorded_shards.issuperset(shards):
            _raise_failures([self.materialize(LIBRARY_ASSETS[1], shards[0], shards[-1])])


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
    folder = open_model(model, settings)
    chosen = parse_shards(shards, settings.n_shards)
    session.ensure_library()
    session.instance.add_dynamic_partitions(MODELS, [model])
    size = SampleConfig().size
    if not session.platform.has_passed_canary(folder, size):
        _raise_failures([session.run_canary(model, size)])
    library = session.platform.library()
    failures: list[str] = []
    for stage in STAGES:
        molecules = sum(library.shards[shard].rows for shard in chosen)
        with progress(f"{stage} {model}", molecules) as session.platform.on_progress:
            for shard_range in contiguous_ranges(chosen):
                first, last = (partition_key(model, shard) for shard in (shard_range[0], shard_range[-1]))
                failures.append(session.materialize(stage, first, last))
        chosen = [shard for shard in chosen if (stage, partition_key(model, shard)) in session.landed]
    if chosen:
        failures.append(session.materialize("model_card", model, model))
    _raise_failures(failures)


@clear_records()
def run_sample(model: str, size: int) -> None:
    """Materialize a model's sample predictions and print the report. Raises PrecalcError if a check fails."""
    session = Session()
    open_model(model, session.platform.settings)
    session.ensure_library()
    session.instance.add_dynamic_partitions(MODELS, [model])
    before = find_report(session.platform.store, model)
    failure = session.run_canary(model, size)
    report = find_report(session.platform.store, model)
    if report and report != before:
        print_report(report)
    _raise_failures([failure])


def _failure(result: dg.ExecuteInProcessResult) -> str:
    words = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                words.append(data.user_failure_data.description)
            elif data.error:
                words.append(f"{event.step_key}: {(data.error.cause or data.error).message.strip()}")
    return "\n".join(words) or f"run {result.run_id} failed; see it in the UI"


def _raise_failures(failures: list[str]) -> None:
    said = [failure for failure in failures if failure]
    if said:
        raise PrecalcError("\n".join(said))
