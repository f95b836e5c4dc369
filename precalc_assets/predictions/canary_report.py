"""The canary's report on a model, as stored: read by the graph, the card and the commands. `canary` makes it."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import obstore
from obstore.store import ObjectStore
from pydantic import ValidationError

from precalc.source import ColumnType
from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column, columns_digest
from precalc_assets.emptied_cells import EmptiedColumn
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.json_records import ModelId
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.outcomes import Check
from precalc_assets.tables.table_cost import TableEstimate

CANARY_CHECKS = {
    "schema": "the columns are those that run_columns.csv declares, each with cells of its type",
    "cells": "every cell is of its column's type; other cells are emptied",
    "not_all_null": "the model answers molecules, and not only with nulls",
    "failure_rate": "the share of quarantined molecules is at most PRECALC_MAX_FAILURE_RATE",
    "estimate": "a run over the whole library takes at most PRECALC_MAX_RUNNER_HOURS",
    "deterministic": "the model predicts the same in a second run, with other molecules in each call",
    "example": "the model reproduces its own run_output.csv from its run_input.csv",
}
"""The checks of a canary: name and description."""

CANARY_WARNINGS = frozenset({"cells", "deterministic", "example"})
"""Checks that do not block a run when they fail."""


class ColumnReport(FrozenRecord):
    """A column's values in the first run over the sample.

    `seen` is the narrowest type that fits all printed cells, None if there are none. `distinct` counts the different
    values, without null. `largest_difference` is the largest between the two runs, for numbers; `varies` says whether
    the runs differ by more than rounding.
    """

    name: str
    type: ColumnType
    seen: ColumnType | None
    nulls: int
    distinct: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    varies: bool = False
    largest_difference: float | None = None


class Speed(FrozenRecord):
    """A model's speed. A call of n molecules takes about `seconds_per_call + n * seconds_per_further_molecule`.

    `best_batch_size` is the tried call size with the least time per molecule; `seconds_per_molecule` is that time,
    including a share of the fixed time. `seconds_to_start` is the time to make the environment and start the model,
    once per machine. `failing_share` is the share of molecules that make a call fail. A failed call takes
    `seconds_lost_per_failed_call` longer than an answered one of its size, for example by a timeout.
    """

    best_batch_size: int
    seconds_per_molecule: float
    seconds_per_call: float
    seconds_per_further_molecule: float
    seconds_to_start: float
    failing_share: float = 0.0
    seconds_lost_per_failed_call: float = 0.0


class RunEstimate(FrozenRecord):
    """Cost of a run over the whole library: `runner_hours` summed over machines, `wall_hours` elapsed, and dollars."""

    molecules: int
    machines: int
    runner_hours: float
    wall_hours: float
    dollars: float


class CanaryReport(FrozenRecord):
    """The result of running one release of a model twice over the same molecules.

    `quarantined` of the `molecules` had no answer in the first run; `reasons` pairs the first of them with the model's
    messages. `emptied` counts the cells of the others that are not of their column's type. `unsteady` molecules were
    answered in only one of the runs. `peak_memory` is that of the model's largest process, in bytes, without processes
    in a container. `bytes_per_molecule` is the size of the output. `adoption` compares the release with earlier ones
    whose predictions are stored. A failed model has a report, too: the fields that it did not get to are None.
    """

    model: ModelId
    metadata: ModelMetadata
    release: str
    declared: tuple[Column, ...]
    library_digest: str
    finished_at: datetime
    molecules: int
    quarantined: int
    reasons: tuple[tuple[str, str], ...] = ()
    emptied: tuple[EmptiedColumn, ...] = ()
    unsteady: int = 0
    columns: tuple[ColumnReport, ...] = ()
    speed: Speed | None = None
    run: RunEstimate | None = None
    table: TableEstimate | None = None
    peak_memory: int | None
    bytes_per_molecule: float | None
    adoption: Adoption | None
    checks: tuple[Check, ...]

    @property
    def example(self) -> str | None:
        """Result of comparing the model's own example; None if the model failed before that."""
        return next((check.description for check in self.checks if check.name == "example"), None)

    @property
    def deterministic(self) -> bool | None:
        """Whether both runs gave the same predictions for the same molecules; None if there were not two runs."""
        return not (self.varying or self.unsteady) if self.columns else None

    @property
    def varying(self) -> tuple[str, ...]:
        """The columns whose values differ between the runs."""
        return tuple(column.name for column in self.columns if column.varies)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The failed checks that block a run."""
        return tuple(check for check in self.checks if not check.passed and check.name not in CANARY_WARNINGS)

    @property
    def version(self) -> str:
        """Digest of the verdict: it depends on release, columns and determinism, and not on the library."""
        verdict = f"{columns_digest(self.release, self.declared)} {self.deterministic}"
        return hashlib.sha256(verdict.encode()).hexdigest()[:16]

    def is_of(self, release: str, columns: Sequence[Column]) -> bool:
        """Return whether the report is about this release with these columns."""
        return (self.release, self.declared) == (release, tuple(columns))

    def lets_run(self, release: str, columns: Sequence[Column], molecules: int) -> bool:
        """Return whether this release with these columns passed all blocking checks, on at least `molecules`."""
        return self.is_of(release, columns) and not self.broken and self.molecules >= molecules


def put_report(store: ObjectStore, report: CanaryReport) -> None:
    """Store a report in place of the previous one."""
    obstore.put(store, storage.canary_report(report.model), report.model_dump_json().encode())


def find_report(store: ObjectStore, model: str) -> CanaryReport | None:
    """Return a model's report, or None if there is none or it is damaged."""
    try:
        report = CanaryReport.model_validate_json(storage.read_object(store, storage.canary_report(model)))
    except (FileNotFoundError, ValidationError):
        return None
    return report if report.model == model else None
