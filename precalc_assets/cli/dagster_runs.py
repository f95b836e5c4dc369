"""`precalc run`: materializes the asset graph in this process, on the instance that the UI shows."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from precalc.cli.progress_bar import progress
from precalc.progress import OnProgress, ignore_progress
from precalc_assets.cli.canary_commands import print_report
from precalc_assets.cli.work import report_library
from precalc_assets.definitions import build_defs
from precalc_assets.defs.dagster_internals import DATA_VERSION_TAG
from precalc_assets.defs.inference.assets import SampleConfig
from precalc_assets.defs.partitions import MODELS, partition_key, range_tags
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import find_report, open_model
from precalc_assets.library import find_library, require_shards
from precalc_assets.models import ModelFolder
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.settings import load_settings
from precalc_assets.sharding import contiguous_ranges, parse_shards

_HOME = Path("dagster_home")

LIBRARY_ASSETS = ("reference_library", "library_shards")

STAGES = ("raw_predictions", "predictions", "prediction_table")
"""The assets of a model's shards; each depends on the one before."""


class RunsFailedError(PrecalcError):
    """One or more Dagster runs failed; the message has their descriptions."""


class Stage(NamedTuple):
    """The partitions that one run materialized, and the sums of their metadata; `seconds` is the run's duration."""

    asset: str
    model: str
    partitions: frozenset[str]
    rows: int
    bytes: int
    write_units: float
    seconds: float


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
        self.instance = dg.DagsterInstance.get()
        self.stages: list[Stage] = []
        self._job = build_defs(self.platform).resolve_implicit_global_asset_job_def()

    def materialize(self, asset: str, first: str = "", last: str = "", ops: Mapping[str, object] | None = None) -> str:
        """Materialize an asset's partitions from first to last. Returns why the run failed, or an empty string."""
        model = first.partition("|")[0] if asset not in LIBRARY_ASSETS else ""
        tags = range_tags(first, last) if first else {}
        if model:
            tags["model"] = model
        started = time.perf_counter()
        result = self._job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": ops or {}},
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset)],
            tags=tags,
            raise_on_error=False,
        )
        if any(event.is_step_failure and _is_interruption(event) for event in result.all_events):
            raise KeyboardInterrupt
        self.stages.append(_stage(asset, model, result, time.perf_counter() - started))
        return "" if result.success else _failure(result)

    @contextmanager
    def watching(self, title: str, molecules: int) -> Iterator[None]:
        """Show the progress of the context's runs on the terminal."""
        with progress(title, molecules) as self.platform.on_progress:
            yield

    def ensure_library(self) -> None:
        """Materialize the library's assets if there is no library or the instance's latest record is of another one.

        Raises LibraryError if the library has another number of shards, RunsFailedError if a run fails.
        """
        library = find_library(self.platform.store)
        if library is None or library.digest != self._recorded_library():
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

    def _recorded_library(self) -> str | None:
        """Return the digest of the library that the instance recorded last."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(LIBRARY_ASSETS[0]))
        recorded = event.asset_materialization if event else None
        return (recorded.tags or {}).get(DATA_VERSION_TAG) if recorded else None


def run_model(model: str, shards: str | None) -> list[Stage]:
    """Materialize a model's shards stage by stage, then its card; a shard that fails a stage skips the next ones.

    A release that has passed no canary runs one first, and stops if that fails. Returns a `Stage` per run. Raises
    RunsFailedError at the end with the descriptions of all failures.
    """
    session = Session()
    settings = session.platform.settings
    folder = open_model(model, settings)
    chosen = parse_shards(shards, settings.n_shards)
    session.ensure_library()
    session.instance.add_dynamic_partitions(MODELS, [model])
    _ensure_canary(session, folder)
    failures: list[str] = []
    for stage in STAGES:
        with session.watching(f"{stage} {model}", _molecules(session, chosen)):
            for shard_range in contiguous_ranges(chosen):
                first, last = (partition_key(model, shard) for shard in (shard_range[0], shard_range[-1]))
                failures.append(session.materialize(stage, first, last))
        landed = {key for run in session.stages if run.asset == stage for key in run.partitions}
        chosen = [shard for shard in chosen if partition_key(model, shard) in landed]
    if chosen:
        failures.append(session.materialize("model_card", model, model))
    _raise_failures(failures)
    return session.stages


def run_sample(model: str, size: int) -> None:
    """Materialize a model's sample predictions and print the report. Raises RunsFailedError if a check fails."""
    session = Session()
    open_model(model, session.platform.settings)
    session.ensure_library()
    session.instance.add_dynamic_partitions(MODELS, [model])
    before = find_report(session.platform.store, model)
    failure = _run_canary(session, model, size)
    report = find_report(session.platform.store, model)
    if report and report != before:
        print_report(report)
    _raise_failures([failure])


def _ensure_canary(session: Session, folder: ModelFolder) -> None:
    """Run the canary unless this release has passed one of that size. Raises RunsFailedError if a check fails."""
    report = find_report(session.platform.store, folder.model)
    size = SampleConfig().size
    needed = min(size, session.platform.library().molecules)
    if report is None or not report.lets_run(folder.metadata.release, folder.columns, needed):
        _raise_failures([_run_canary(session, folder.model, size)])


def _run_canary(session: Session, model: str, size: int) -> str:
    """Materialize a model's sample predictions. Returns why the run failed, or an empty string."""
    ops = {"sample_predictions": {"config": {"size": size}}}
    with session.watching(f"sample_predictions {model}", 2 * min(size, session.platform.library().molecules)):
        return session.materialize("sample_predictions", model, model, ops)


def _molecules(session: Session, shards: list[str]) -> int:
    library = session.platform.library()
    return sum(library.shards[shard].rows for shard in shards)


def _stage(asset: str, model: str, result: dg.ExecuteInProcessResult, seconds: float) -> Stage:
    events = (
        event.step_materialization_data.materialization for event in result.all_events if event.is_step_materialization
    )
    # A run of shards also records a canary that Dagster has no record of.
    materialized = [event for event in events if event.asset_key == dg.AssetKey(asset)]
    metadata = [entry.metadata for entry in materialized]

    def total(name: str) -> float:
        values = (entry[name].value for entry in metadata if name in entry)
        return sum(value for value in values if isinstance(value, int | float))

    stage = Stage(
        asset,
        model,
        frozenset(entry.partition for entry in materialized if entry.partition),
        int(total("dagster/row_count")),
        int(total("bytes")),
        total("write_units"),
        seconds,
    )
    print(
        f"{asset} {model}".strip() + f": {len(materialized)} materialized, {stage.rows:,} rows, {seconds:.1f} s",
        file=sys.stderr,
    )
    return stage


def _is_interruption(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the failure messages of a run's steps."""
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
        raise RunsFailedError("\n".join(said))
