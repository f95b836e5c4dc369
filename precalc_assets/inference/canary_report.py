"""What the canary found out about a model, as it is kept in the store: read by the graph, the card and the commands.

How it is found out is in `canary`.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import obstore
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict, ValidationError

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column, ColumnType, columns_digest
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.outcomes import Check
from precalc_assets.tables.table_cost import TableEstimate

CANARY_CHECKS = {
    "schema": "the columns are those that run_columns.csv declares, and their values are of its types",
    "not_all_null": "the model answers molecules, and not with nulls alone",
    "failure_rate": "no more of the sample is quarantined than PRECALC_MAX_FAILURE_RATE allows of a shard",
    "estimate": "a run over the whole library takes no longer than PRECALC_MAX_RUNNER_HOURS allows",
    "deterministic": "the model predicts the same when it is asked again, with other molecules beside",
    "example": "the model reproduces its own run_output.csv from its run_input.csv",
}
"""The checks of a canary: name and promise."""

CANARY_WARNINGS = frozenset({"deterministic", "example"})
"""Those of them that keep no model from being run."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ColumnReport(_Record):
    """A column's values in the first run over the sample.

    `seen` is the narrowest type that all printed cells are of, empty if there are none. `distinct` counts values other
    than nulls. `largest_difference` is between the two runs, of numbers; `varies` says that it is more than rounding.
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


class Speed(_Record):
    """How long the model takes: n molecules in a call `seconds_per_call + n * seconds_per_further_molecule`, about.

    `best_batch_size` is the one of those tried at which a molecule took the least; `seconds_per_molecule` is that, its
    share of the call included. `seconds_to_start` is for making the environment and starting the model, once a machine.
    A call fails on the `failing_share` of molecules, and a failed call takes `seconds_lost_per_failed_call` longer than
    one of its size that is answered: a time-out does.
    """

    best_batch_size: int
    seconds_per_molecule: float
    seconds_per_call: float
    seconds_per_further_molecule: float
    seconds_to_start: float
    failing_share: float = 0.0
    seconds_lost_per_failed_call: float = 0.0


class RunEstimate(_Record):
    """What a run over the whole library takes: hours of one machine, hours from start to end, and dollars."""

    molecules: int
    machines: int
    runner_hours: float
    wall_hours: float
    dollars: float


class CanaryReport(_Record):
    """What came of running one release of a model over the same molecules twice.

    `quarantined` of the `molecules` had no answer in the first run, `reasons` has the first of them with the model's
    words; `unsteady` had one in one of the runs alone. `peak_memory` is that of the model's largest process, in bytes;
    those in a container are not seen. `bytes_per_molecule` is what the model prints. `adoption` compares the release
    with earlier ones whose predictions are stored. What could not be found out, because the model stopped before, is
    None: a report is kept of a model that fails, too.
    """

    model: str
    metadata: ModelMetadata
    release: str
    declared: tuple[Column, ...]
    library_digest: str
    finished_at: datetime
    molecules: int
    quarantined: int
    reasons: tuple[tuple[str, str], ...]
    unsteady: int
    columns: tuple[ColumnReport, ...]
    speed: Speed | None
    run: RunEstimate | None
    table: TableEstimate | None
    peak_memory: int | None
    bytes_per_molecule: float | None
    adoption: Adoption | None
    checks: tuple[Check, ...]

    @property
    def example(self) -> str | None:
        """What was found when the model's own example was compared; None if the model had been given up before."""
        return next((check.description for check in self.checks if check.name == "example"), None)

    @property
    def deterministic(self) -> bool | None:
        """Whether both runs answered the same molecules with the same; None if there were no two runs."""
        return not (self.varying or self.unsteady) if self.columns else None

    @property
    def varying(self) -> tuple[str, ...]:
        """The columns whose values differ between the runs."""
        return tuple(column.name for column in self.columns if column.varies)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that keep the model from being run."""
        return tuple(check for check in self.checks if not check.passed and check.name not in CANARY_WARNINGS)

    @property
    def version(self) -> str:
        """Name of the verdict: the same for the same release, columns and determinism, whatever the library."""
        verdict = f"{columns_digest(self.release, self.declared)} {self.deterministic}"
        return hashlib.sha256(verdict.encode()).hexdigest()[:16]

    def is_of(self, release: str, columns: Sequence[Column]) -> bool:
        """Return whether the report is about this release with these columns."""
        return (self.release, self.declared) == (release, tuple(columns))

    def lets_run(self, release: str, columns: Sequence[Column], molecules: int) -> bool:
        """Return whether this release with these columns broke no check that blocks, with so many molecules."""
        return self.is_of(release, columns) and not self.broken and self.molecules >= molecules


def put_report(store: ObjectStore, report: CanaryReport) -> None:
    """Put a report in place of the one before."""
    obstore.put(store, storage.canary_report(report.model), report.model_dump_json().encode())


def find_report(store: ObjectStore, model: str) -> CanaryReport | None:
    """Return a model's report, or None where no canary was run. A damaged one is as good as none."""
    try:
        return CanaryReport.model_validate_json(bytes(obstore.get(store, storage.canary_report(model)).bytes()))
    except (FileNotFoundError, ValidationError):
        return None
