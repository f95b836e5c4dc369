"""The canary: run a model twice on the library's first molecules by hash, before it runs on all of them.

`canary_checks` judges the predictions; `run_estimate` and `tables.table_cost` extrapolate to the whole library. The
result is a `CanaryReport`.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import obstore
import polars as pl
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from precalc.progress import OnProgress, ignore_progress
from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.inference.adoption import compare_releases
from precalc_assets.inference.batching import Answer, GaveUpError, PatientCaller
from precalc_assets.inference.call_size import Call, CallSize
from precalc_assets.inference.canary_checks import (
    check_answers,
    check_cells,
    check_determinism,
    check_estimate,
    check_example,
    check_failures,
    describe_columns,
)
from precalc_assets.inference.canary_report import (
    CANARY_CHECKS,
    CanaryReport,
    ColumnReport,
    RunEstimate,
    Speed,
    find_report,
    put_report,
)
from precalc_assets.inference.example import read_example
from precalc_assets.inference.model_backend import BatchError, ModelBackend, ServedModelBackend
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.inference.run_estimate import estimate_run, measure_speed
from precalc_assets.library import LibraryManifest, read_sample
from precalc_assets.models import ModelFolder
from precalc_assets.outcomes import Check, reason
from precalc_assets.platform_errors import ColumnsError, ModelError, TableError
from precalc_assets.predictions import PredictionsWriter, Provenance, read_records
from precalc_assets.processes import peak_memory
from precalc_assets.settings import Settings
from precalc_assets.tables.table_cost import TableEstimate, estimate_table

logger = logging.getLogger(__name__)

SAMPLE = "sample"
"""Used in place of a shard's key: a sample marks no shard as done."""

CANARY_SIZE = 100
"""Default number of molecules that a release is run on before it runs over the whole library."""

_FIRST_CALLS = 4
"""Calls per batch in the first run. The second run sends a batch in one call, or in more if the model is slow."""

LONGEST_CALL = 150.0
"""Maximum seconds of a call in the second run, so that a slow model shows progress."""

_SHOWN_REASONS = 5


@dataclass(slots=True)
class _Run:
    """One run over all molecules: a record each, empty for a failed one, and the reasons for failures by row."""

    records: list[bytes] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The part of a report that is about the predictions."""

    quarantined: int
    reasons: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    unsteady: int = 0
    columns: tuple[ColumnReport, ...] = ()
    speed: Speed | None = None
    run: RunEstimate | None = None
    table: TableEstimate | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """The arguments of `run_canary`, and the molecules (`inchikey`, `smiles`) to run."""

    store: ObjectStore
    library: LibraryManifest
    folder: ModelFolder
    backend: ModelBackend
    settings: Settings
    molecules: pl.DataFrame
    on_progress: OnProgress
    longest_call: float

    @property
    def model(self) -> str:
        return self.folder.model

    @property
    def smiles(self) -> list[str]:
        return self.molecules["smiles"].to_list()


def run_canary(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    size: int,
    *,
    settings: Settings,
    on_progress: OnProgress = ignore_progress,
) -> CanaryReport:
    """Run a model twice over the first `size` molecules, store predictions and a report, and return the report.

    The predictions of the first run are stored as a Parquet file like a shard's; if the model gave none, only the
    report is stored. `on_progress` counts each molecule twice. Raises UsageError if there is no such model, ModelError
    if it cannot be started, or stops for good after it had begun to answer.
    """
    started = time.perf_counter()
    folder = open_model(model, settings)
    backend = open_backend(folder, settings)
    return examine(store, library, folder, backend, size, settings=settings, on_progress=on_progress, started=started)


def examine(
    store: ObjectStore,
    library: LibraryManifest,
    folder: ModelFolder,
    backend: ModelBackend,
    size: int,
    *,
    settings: Settings,
    started: float,
    on_progress: OnProgress = ignore_progress,
    longest_call: float = LONGEST_CALL,
) -> CanaryReport:
    """Run the canary with a given backend; its preparation began at `started` (of `time.perf_counter`).

    The second run's calls are sized to take at most `longest_call` seconds, by the speed of the first run.
    """
    molecules = pl.DataFrame(pl.from_arrow(read_sample(store, library, size)))
    task = _Task(store, library, folder, backend, settings, molecules, on_progress, longest_call)
    listener = _ServedListener(backend) if isinstance(backend, ServedModelBackend) else _Listener(backend)
    with peak_memory() as peaks, backend:
        seconds_to_start = time.perf_counter() - started
        runs = _ask_twice(task, listener)
        example = None if isinstance(runs, ModelError) else _compare_example(task)
        adoption = None if isinstance(runs, ModelError) else _compare_releases(task, runs[0])
    if isinstance(runs, ModelError):
        verdict = _refuse(task, runs, listener)
    else:
        speed = measure_speed(
            listener.calls,
            max(seconds_to_start, _known_start(task)),
            failed=listener.failed,
            failing_share=min(1.0, sum(call.molecules == 1 for call in listener.failed) / (2 * molecules.height)),
        )
        verdict = _judge(task, *runs, listener, speed)
    printed = listener.printed.values()
    report = CanaryReport(
        model=folder.model,
        metadata=folder.metadata,
        release=backend.release,
        declared=backend.columns,
        library_digest=library.digest,
        finished_at=datetime.now(UTC),
        molecules=molecules.height,
        quarantined=verdict.quarantined,
        reasons=verdict.reasons,
        unsteady=verdict.unsteady,
        columns=verdict.columns,
        speed=verdict.speed,
        run=verdict.run,
        table=verdict.table,
        peak_memory=max(peaks, default=None),
        bytes_per_molecule=sum(len(record) + 1 for record in printed) / len(printed) if printed else None,
        adoption=adoption,
        checks=(*verdict.checks, example) if example else verdict.checks,
    )
    put_report(store, report)
    return report


def _ask_twice(task: _Task, listener: "_Listener") -> tuple[_Run, _Run] | ModelError:
    """Return both runs, or the error if the model has other columns than declared or answers no molecule."""
    caller = PatientCaller(task.model, listener, CallSize(task.settings.batch_size))
    batch = min(task.molecules.height, task.settings.batch_size)
    try:
        started = time.perf_counter()
        quarter = -(-batch // _FIRST_CALLS)
        first = _ask(task, caller, quarter)
        seconds_each = (time.perf_counter() - started) / task.molecules.height
        # The whole batch comes last: one-time delays are over by then.
        fits = seconds_each * batch <= task.longest_call
        second = _ask(task, caller, batch if fits else max(1, quarter // 2))
    except OSError as error:
        raise ModelError(f"{task.model} cannot be run: {reason(error)}") from error
    except ModelError as error:
        if caller.answered and not isinstance(error, ColumnsError):
            raise
        return error
    if not caller.answered:
        return ModelError(f"{task.model} answers no molecule: {next(iter(first.failures.values()))}")
    return first, second


def _ask(task: _Task, caller: PatientCaller, batch_size: int) -> _Run:
    run = _Run()
    smiles = task.smiles
    nothing = b"," * (len(task.backend.columns) - 1)
    for start in range(0, len(smiles), batch_size):
        batch = smiles[start : start + batch_size]
        (answer,) = caller.answer([batch])
        if isinstance(answer, GaveUpError):
            answer = Answer([nothing] * len(batch), dict.fromkeys(range(len(batch)), str(answer)))
        run.records += answer.records
        run.failures |= {start + row: why for row, why in answer.failures.items()}
        task.on_progress(len(batch), len(answer.failures))
    return run


def _compare_example(task: _Task) -> Check:
    """Run the model over its own example, and check that it reproduces the author's values."""
    columns = task.backend.columns
    try:
        example = read_example(task.folder, columns)
    except FileNotFoundError as error:
        name = Path(error.filename).relative_to(task.folder.path)
        return Check("example", passed=True, description=f"the model has no example: {name} is missing")
    except ModelError as error:
        return Check("example", passed=False, description=f"the example cannot be compared: {error}")
    caller = PatientCaller(task.model, task.backend, CallSize(task.settings.batch_size))
    try:
        (answer,) = caller.answer([example.smiles])
    except ModelError as error:
        return Check("example", passed=False, description=f"the example cannot be compared: {error}")
    if isinstance(answer, GaveUpError):
        return Check("example", passed=False, description=f"the example cannot be compared: {answer}")
    return check_example(example.expected, read_records(answer.records, columns)[0])


def _compare_releases(task: _Task, run: _Run) -> Adoption | None:
    """Compare the release with earlier ones. None also if it stops answering: then all molecules are computed again."""
    caller = PatientCaller(task.model, task.backend, CallSize(task.settings.batch_size))
    records = [None if row in run.failures else record for row, record in enumerate(run.records)]

    def ask(smiles: Sequence[str]) -> list[bytes | None]:
        printed: list[bytes | None] = []
        for start in range(0, len(smiles), task.settings.batch_size):
            (answer,) = caller.answer([smiles[start : start + task.settings.batch_size]])
            if isinstance(answer, GaveUpError):
                raise answer
            printed += [None if row in answer.failures else record for row, record in enumerate(answer.records)]
        return printed

    try:
        return compare_releases(
            task.store,
            task.model,
            task.backend.release,
            task.backend.columns,
            list(task.library.shards),
            dict(zip(task.smiles, records, strict=True)),
            ask,
        )
    except (GaveUpError, ModelError) as error:
        logger.warning("%s could not be compared with its earlier release: %s", task.model, error)
        return None


def _refuse(task: _Task, error: ModelError, listener: "_Listener") -> _Verdict:
    """Return the verdict on a model that gave no predictions, and delete the predictions of an earlier canary."""
    with suppress(FileNotFoundError):
        obstore.delete(task.store, storage.sample(task.model))
    broken = "schema" if isinstance(error, ColumnsError) else "not_all_null"
    checks = {broken: Check(broken, passed=False, description=str(error))}
    if listener.printed:
        cells = check_cells(listener.printed, task.backend.columns, task.settings.max_failure_rate)
        checks.setdefault(cells.name, cells)
    return _Verdict(task.molecules.height, (), tuple(checks[name] for name in CANARY_CHECKS if name in checks))


def _judge(task: _Task, first: _Run, second: _Run, listener: "_Listener", speed: Speed) -> _Verdict:
    """Return the verdict on a model that answered, and store the predictions of its first run."""
    columns = task.backend.columns
    typed, again = (read_records(run.records, columns)[0] for run in (first, second))
    both = pl.Series([not {row} & {*first.failures, *second.failures} for row in range(typed.height)])
    found = describe_columns(first.records, columns, typed, again, both)
    unsteady = len(first.failures.keys() ^ second.failures.keys())
    run = estimate_run(speed, task.library, task.settings)
    checks = [
        check_cells(listener.printed, columns, task.settings.max_failure_rate),
        check_answers(typed, first.failures),
        check_failures(first.failures, typed.height, task.settings.max_failure_rate),
        check_estimate(run, task.settings),
        check_determinism(found, unsteady),
    ]
    table: TableEstimate | None = None
    with TemporaryDirectory(prefix="precalc-") as scratch:
        path = Path(scratch) / "sample.parquet"
        _write_sample(task, path, typed, len(first.failures))
        try:
            sizes = (shard.rows for shard in task.library.shards.values())
            table = estimate_table(task.model, columns, pq.read_table(path), sizes)
        except TableError as error:
            checks[3] = Check("estimate", passed=False, description=str(error))
        obstore.put(task.store, storage.sample(task.model), path)
    reasons = [(task.smiles[row], why) for row, why in first.failures.items()]
    return _Verdict(
        len(first.failures), tuple(reasons[:_SHOWN_REASONS]), tuple(checks), unsteady, found, speed, run, table
    )


def _write_sample(task: _Task, path: Path, typed: pl.DataFrame, quarantined: int) -> None:
    provenance = Provenance(
        model=task.model,
        release=task.backend.release,
        shard=SAMPLE,
        n_shards=task.library.n_shards,
        shard_digest=task.library.digest,
        raw_digest="",
        quarantined=quarantined,
        columns=task.backend.columns,
    )
    writer = PredictionsWriter(path, provenance)
    writer.write(task.molecules.hstack(typed.get_columns()))
    writer.close()


def _known_start(task: _Task) -> float:
    """Return how many seconds this release took to start in its last canary; 0 if there was none.

    An environment that exists here takes no time, but each machine of a run has to make it.
    """
    report = find_report(task.store, task.model)
    if report and report.speed and report.is_of(task.backend.release, task.backend.columns):
        return report.speed.seconds_to_start
    return 0.0


class _Listener:
    """A backend that records its calls, answered and failed, and the output for each molecule."""

    def __init__(self, backend: ModelBackend) -> None:
        self.columns = backend.columns
        self.release = backend.release
        self.environment = backend.environment
        self.calls: list[Call] = []
        self.failed: list[Call] = []
        self.printed: dict[str, bytes] = {}
        self._backend = backend

    def __enter__(self) -> Self:
        """Return itself: the caller has entered the backend."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the backend open: the caller closes it."""

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """See `ModelBackend.predict`."""
        started = time.perf_counter()
        try:
            records = self._backend.predict(smiles, deadline)
        except BatchError:
            self.failed.append(Call(len(smiles), time.perf_counter() - started))
            raise
        self.calls.append(Call(len(smiles), time.perf_counter() - started))
        self.printed |= zip(smiles, records, strict=True)
        return records


class _ServedListener(_Listener):
    """A listener for a served model."""

    def __init__(self, backend: ServedModelBackend) -> None:
        super().__init__(backend)
        self._served = backend

    def is_healthy(self) -> bool:
        """See `ServedModelBackend.is_healthy`."""
        return self._served.is_healthy()

    def restart(self) -> None:
        """See `ServedModelBackend.restart`."""
        self._served.restart()
