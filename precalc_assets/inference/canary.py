"""The canary: run a model twice on the library's first molecules by hash, before it runs on all of them.

`canary_checks` judges the predictions; `run_estimate` and `tables.table_cost` extrapolate to the whole library. The
result is a `CanaryReport`.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from precalc.progress import OnProgress, ignore_progress
from precalc.scratch import scratch_folder
from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.inference import canary_checks
from precalc_assets.inference.adoption import compare_releases
from precalc_assets.inference.batching import Answer, OnCall, PatientCaller, ignore_call, machine_error, no_answers
from precalc_assets.inference.call_size import Call, CallSize
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.inference.run_estimate import estimate_run, measure_speed
from precalc_assets.library.library_manifest import LibraryManifest, read_sample
from precalc_assets.models.folder import ModelFolder
from precalc_assets.outcomes import Check, reason
from precalc_assets.platform_errors import ColumnsError, InfrastructureError, ModelError, TableError
from precalc_assets.predictions.canary_report import CanaryReport, Speed, find_report, put_report
from precalc_assets.predictions.cells import count_emptied, read_records
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance
from precalc_assets.processes import peak_memory
from precalc_assets.settings import Settings
from precalc_assets.tables.table_cost import estimate_table

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
    if it cannot be started, or stops for good after it had begun to answer, InfrastructureError if the machine is to
    blame; then nothing is stored or replaced.
    """
    started = time.perf_counter()
    folder = open_model(model, settings)
    backend = open_backend(folder, settings)
    try:
        molecules = pl.DataFrame(pl.from_arrow(read_sample(store, library, size)))
        return Canary(store, library, folder, backend, settings, molecules, on_progress).examine(started)
    except OSError as error:
        raise machine_error(model, reason(error)) from error


@dataclass(frozen=True, slots=True)
class Canary:
    """A model, the molecules (`inchikey`, `smiles`) to run it on, and what came of its calls so far.

    The second run's calls are sized to take at most `longest_call` seconds, by the speed of the first run. `answered`
    and `failed` are the calls of the two runs, `printed` is the model's output for each molecule.
    """

    store: ObjectStore
    library: LibraryManifest
    folder: ModelFolder
    backend: ModelBackend
    settings: Settings
    molecules: pl.DataFrame
    on_progress: OnProgress = ignore_progress
    longest_call: float = LONGEST_CALL
    answered: list[Call] = field(default_factory=list)
    failed: list[Call] = field(default_factory=list)
    printed: dict[str, bytes] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model's id."""
        return self.folder.model

    @property
    def smiles(self) -> list[str]:
        """The molecules' SMILES."""
        return self.molecules["smiles"].to_list()

    def examine(self, started: float) -> CanaryReport:
        """Run the canary, begun at `started` (of `time.perf_counter`); store and return the report."""
        adoption = None
        with peak_memory() as peaks, self.backend:
            seconds_to_start = time.perf_counter() - started
            runs = self.run_twice()
            if not isinstance(runs, ModelError):
                example = self.compare_example()
                adoption = self.compare_releases(runs[0])
        printed = self.printed.values()
        facts: dict[str, Any] = {
            "model": self.model,
            "metadata": self.folder.metadata,
            "release": self.backend.release,
            "declared": self.backend.columns,
            "library_digest": self.library.digest,
            "finished_at": datetime.now(UTC),
            "molecules": self.molecules.height,
            "peak_memory": max(peaks, default=None),
            "bytes_per_molecule": sum(len(record) + 1 for record in printed) / len(printed) if printed else None,
            "adoption": adoption,
        }
        if isinstance(runs, ModelError):
            report = CanaryReport(quarantined=self.molecules.height, checks=self.refuse(runs), **facts)
        else:
            report = self.judge(*runs, self.measure(seconds_to_start), example, facts)
        put_report(self.store, report)
        return report

    def run_twice(self) -> tuple[Answer, Answer] | ModelError:
        """Return both runs, or the error if the model has other columns than declared or answers no molecule."""
        caller = self.caller(self._note)
        batch = min(self.molecules.height, self.settings.batch_size)
        try:
            started = time.perf_counter()
            quarter = -(-batch // _FIRST_CALLS)
            first = self._run(caller, quarter)
            seconds_each = (time.perf_counter() - started) / self.molecules.height
            # The whole batch comes last: one-time delays are over by then.
            fits = seconds_each * batch <= self.longest_call
            second = self._run(caller, batch if fits else max(1, quarter // 2))
        except ModelError as error:
            if isinstance(error, InfrastructureError) or (caller.answered and not isinstance(error, ColumnsError)):
                raise
            return error
        if caller.answered:
            return first, second
        silence = no_answers(self.model, next(iter(first.failures.values())))
        if isinstance(silence, InfrastructureError):
            raise silence
        return silence

    def caller(self, on_call: OnCall = ignore_call) -> PatientCaller:
        """Return a new caller of the model, with the settings of a full run."""
        size, required_values = CallSize(self.settings.batch_size), self.settings.required_values
        return PatientCaller(self.model, self.backend, size, on_call=on_call, required_values=required_values)

    def _note(self, smiles: Sequence[str], seconds: float, records: list[bytes] | None) -> None:
        call = Call(len(smiles), seconds)
        if records is None:
            self.failed.append(call)
        else:
            self.answered.append(call)
            self.printed.update(zip(smiles, records, strict=True))

    def _run(self, caller: PatientCaller, batch_size: int) -> Answer:
        run = Answer([])
        smiles = self.smiles
        for start in range(0, len(smiles), batch_size):
            (answer,) = caller.answer([smiles[start : start + batch_size]])
            run.records.extend(answer.records)
            run.failures.update({start + row: why for row, why in answer.failures.items()})
            self.on_progress(len(answer.records), len(answer.failures))
        return run

    def compare_example(self) -> Check:
        """Run the model over its own example, and check that it reproduces the author's values."""
        columns = self.backend.columns
        try:
            smiles, expected = canary_checks.read_example(self.folder, columns)
            (answer,) = self.caller().answer([smiles])
        except FileNotFoundError as error:
            name = Path(error.filename).relative_to(self.folder.path)
            return Check("example", True, f"the model has no example: {name} is missing", undecided=True)
        except InfrastructureError:
            raise
        except ModelError as error:
            return Check("example", passed=False, description=f"the example cannot be compared: {error}")
        if answer.gave_up:
            return Check("example", passed=False, description=f"the example cannot be compared: {answer.gave_up}")
        return canary_checks.check_example(expected, read_records(answer.records, columns).typed)

    def compare_releases(self, run: Answer) -> Adoption | None:
        """Compare the release with earlier ones. None also if it stops answering: then all is computed again."""
        size = self.settings.batch_size
        caller = self.caller()

        def ask(smiles: Sequence[str]) -> list[bytes | None]:
            printed: list[bytes | None] = []
            for start in range(0, len(smiles), size):
                (answer,) = caller.answer([smiles[start : start + size]])
                if answer.gave_up:
                    raise ModelError(answer.gave_up)
                printed += answer.predictions
            return printed

        try:
            return compare_releases(
                self.store,
                self.model,
                self.backend.release,
                self.backend.columns,
                list(self.library.shards),
                dict(zip(self.smiles, run.predictions, strict=True)),
                ask,
            )
        except InfrastructureError:
            raise
        except ModelError as error:
            logger.warning("%s could not be compared with its earlier release: %s", self.model, error)
            return None

    def measure(self, seconds_to_start: float) -> Speed:
        """Measure the model's speed by the calls of both runs.

        The time to start is at least that of this release's last canary: an environment that exists here takes no time,
        but each machine of a run has to make it.
        """
        report = find_report(self.store, self.model)
        if report and report.speed and report.is_of(self.backend.release, self.backend.columns):
            seconds_to_start = max(seconds_to_start, report.speed.seconds_to_start)
        failing = sum(call.molecules == 1 for call in self.failed) / (2 * self.molecules.height)
        return measure_speed(self.answered, seconds_to_start, failed=self.failed, failing_share=min(1.0, failing))

    def refuse(self, error: ModelError) -> tuple[Check, ...]:
        """Return the checks of a model that gave no predictions, and delete the predictions of an earlier canary."""
        with suppress(FileNotFoundError):
            obstore.delete(self.store, storage.sample(self.model))
        printed, columns = [*self.printed.values()], self.backend.columns
        schema, _ = canary_checks.check_cells(
            read_records(printed, columns).typed, count_emptied([*self.printed], printed, columns)
        )
        if not schema.passed:
            return (schema,)
        broken = "schema" if isinstance(error, ColumnsError) else "not_all_null"
        return (Check(broken, passed=False, description=str(error)),)

    def judge(self, first: Answer, second: Answer, speed: Speed, example: Check, facts: dict[str, Any]) -> CanaryReport:
        """Return the report on a model that answered, and store the predictions of its first run."""
        columns, most = self.backend.columns, self.settings.max_failure_rate
        typed, again = (read_records(run.records, columns).typed for run in (first, second))
        emptied = count_emptied(self.smiles, first.records, columns)
        both = pl.Series([not {row} & {*first.failures, *second.failures} for row in range(typed.height)])
        found = canary_checks.describe_columns(first.records, columns, typed, again, both)
        unsteady = len(first.failures.keys() ^ second.failures.keys())
        run = estimate_run(speed, self.library, self.settings)
        table, estimate = None, canary_checks.check_estimate(run, self.settings)
        with scratch_folder() as scratch:
            path = scratch / "sample.parquet"
            self._write_sample(path, typed, len(first.failures))
            try:
                sizes = (shard.rows for shard in self.library.shards.values())
                table = estimate_table(self.model, columns, pq.read_table(path), sizes)
            except TableError as error:
                estimate = Check("estimate", passed=False, description=str(error))
            obstore.put(self.store, storage.sample(self.model), path)
        return CanaryReport(
            quarantined=len(first.failures),
            reasons=tuple((self.smiles[row], why) for row, why in [*first.failures.items()][:_SHOWN_REASONS]),
            emptied=emptied,
            unsteady=unsteady,
            columns=found,
            speed=speed,
            run=run,
            table=table,
            checks=(
                *canary_checks.check_cells(typed, emptied),
                canary_checks.check_answers(typed, first.failures),
                canary_checks.check_failures(first.failures, typed.height, most),
                estimate,
                canary_checks.check_determinism(found, unsteady),
                example,
            ),
            **facts,
        )

    def _write_sample(self, path: Path, typed: pl.DataFrame, quarantined: int) -> None:
        provenance = Provenance(
            model=self.model,
            release=self.backend.release,
            shard=SAMPLE,
            n_shards=self.library.n_shards,
            shard_digest=self.library.digest,
            raw_digest="",
            quarantined=quarantined,
            columns=self.backend.columns,
        )
        writer = PredictionsWriter(path, provenance, typed.height)
        writer.write(self.molecules.hstack(typed.get_columns()))
        writer.close()
