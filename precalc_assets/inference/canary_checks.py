"""Judge a model by its output for the sample and for its own example: describe its columns, and make the checks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from precalc.source import ColumnType, name_some
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import EmptiedColumn, describe_emptied
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.inference.output import INPUT_COLUMNS
from precalc_assets.models.folder import ModelFolder
from precalc_assets.outcomes import Check
from precalc_assets.platform_errors import ModelError
from precalc_assets.predictions.canary_report import ColumnReport, RunEstimate
from precalc_assets.predictions.cells import format_record, read_records, read_text_csv
from precalc_assets.settings import Settings

_ROUNDING = 1e-6
"""Tolerance between runs, as a share of a float column's largest magnitude. Single-precision sums that depend on the
other molecules of a batch differ by less."""

_CLOSE = 1e-3
"""Tolerance for the example, as a share of a column's largest magnitude: machines and libraries round differently, and
authors round their examples."""

_SHOWN_REASONS = 3

_MOST_EXAMPLE_BYTES = 64 << 20
"""Limit on a file of a model's example; most have three molecules."""

_TYPES: tuple[tuple[ColumnType, type[pl.DataType]], ...] = (("integer", pl.Int64), ("float", pl.Float64))


def check_cells(first: pl.DataFrame, emptied: Sequence[EmptiedColumn]) -> tuple[Check, Check]:
    """Check that each column has cells of its type, and that it has no others."""
    wrong = [each for each in emptied if first[each.column].null_count() == first.height]
    found = f"{first.width:,} columns as run_columns.csv declares them"
    if wrong:
        names, example = name_some([each.column for each in wrong]), wrong[0]
        found = f"no cell of {names} is of its column's type: {example.column} is {example.example!r} "
        found += f"({example.smiles}); correct the model, or declare the column as string in its run_columns.csv"
    return Check("schema", not wrong, found), Check("cells", not emptied, describe_emptied(emptied))


def check_answers(first: pl.DataFrame, failures: Mapping[int, str]) -> Check:
    """Check that the model answered molecules, and not only with nulls."""
    silent = [name for name in first.columns if first[name].null_count() == first.height]
    found = f"{first.height - len(failures)} of {first.height} molecules answered"
    if failures:
        found += f" ({next(iter(failures.values()))})"
    if silent:
        found += f"; nothing but nulls in {name_some(silent)}"
    return Check("not_all_null", len(silent) < first.width, found)


def check_failures(failures: Mapping[int, str], molecules: int, max_failure_rate: float) -> Check:
    """Check that the sample's failure rate is within the limit for a shard; list the most common reasons first."""
    found = f"{len(failures)} of {molecules} molecules quarantined (limit {max_failure_rate:.0%})"
    reasons = [f"{times} × {why}" for why, times in Counter(failures.values()).most_common(_SHOWN_REASONS)]
    passed = len(failures) <= max_failure_rate * molecules
    if reasons:
        found += f": {'; '.join(reasons)}"
    way_out = "" if passed else "; correct the model, or raise PRECALC_MAX_FAILURE_RATE"
    return Check("failure_rate", passed, found + way_out)


def check_estimate(estimate: RunEstimate, settings: Settings) -> Check:
    """Check that a run over the library takes at most PRECALC_MAX_RUNNER_HOURS."""
    found = (
        f"{estimate.runner_hours:,.2f} runner-hours for {estimate.molecules:,} molecules, "
        f"${estimate.dollars:,.2f} (limit {settings.max_runner_hours:g} hours, PRECALC_MAX_RUNNER_HOURS)"
    )
    passed = estimate.runner_hours <= settings.max_runner_hours
    return Check("estimate", passed, found if passed else f"{found}; raise the limit if the model is worth it")


def check_determinism(columns: Sequence[ColumnReport], unsteady: int) -> Check:
    """Check that both runs gave the same predictions."""
    varying = [column for column in columns if column.varies]
    found = []
    if varying:
        names = name_some([column.name for column in varying])
        found.append(f"{len(varying)} of {len(columns)} columns vary between runs: {names}")
        worst = max(varying, key=lambda column: column.largest_difference or 0.0)
        if worst.largest_difference:
            found.append(f"by {worst.largest_difference:.4g} at most, in {worst.name}")
    if unsteady:
        found.append(f"{unsteady} molecules were answered in only one of the runs")
    return Check("deterministic", not found, "; ".join(found) or "both runs predicted the same")


def check_example(expected: pl.DataFrame, predicted: pl.DataFrame) -> Check:
    """Check that the model reproduces its example, exactly or within `_CLOSE`."""
    gaps, different = {}, []
    for name in expected.columns:
        differs, largest = _compare(expected[name], predicted[name])
        if differs and not _is_close(expected[name], predicted[name], largest):
            different.append(name)
        gaps[name] = largest or 0.0
    worst = max(different or gaps, key=lambda name: gaps[name])
    by = f"by {gaps[worst]:.4g} at most, in {worst}"
    if different:
        names = f"{len(different)} of {len(gaps)} columns are different: {name_some(different)}"
        found = f"{names}; {by}" if gaps[worst] else names
    else:
        found = f"close: values differ {by}" if gaps[worst] else f"equal, in {expected.height} molecules"
    return Check("example", not different, found)


def describe_columns(
    printed: Sequence[bytes],
    columns: Sequence[Column],
    first: pl.DataFrame,
    second: pl.DataFrame,
    answered_twice: pl.Series,
) -> tuple[ColumnReport, ...]:
    """Describe each column by both runs, compared where `answered_twice`, and by the cells as `printed`."""
    text = read_records(printed, [Column(column.name, "string", "", "") for column in columns]).typed
    return tuple(
        _describe(column, text[column.name], first[column.name], second[column.name], answered_twice)
        for column in columns
    )


def _describe(
    column: Column, text: pl.Series, first: pl.Series, second: pl.Series, answered_twice: pl.Series
) -> ColumnReport:
    values = first.drop_nulls()
    numbers = pl.Series(dtype=pl.Float64) if column.type == "string" else values.cast(pl.Float64)
    varies, difference = _compare(first.filter(answered_twice), second.filter(answered_twice))
    return ColumnReport(
        name=column.name,
        type=column.type,
        seen=_narrowest_type(text.filter(first.is_not_null()).str.strip_chars()),
        nulls=first.null_count(),
        distinct=values.n_unique(),
        minimum=_number(numbers.min()),
        maximum=_number(numbers.max()),
        mean=_number(numbers.mean()),
        varies=varies,
        largest_difference=difference,
    )


def _compare(first: pl.Series, second: pl.Series) -> tuple[bool, float | None]:
    """Return whether two runs differ by more than rounding, and the largest difference of numbers."""
    differs = bool(first.ne_missing(second).any())
    if first.dtype == pl.String:
        return differs, None
    gaps = (first.cast(pl.Float64) - second.cast(pl.Float64)).abs()
    largest = _number(gaps.max())
    if differs and first.dtype == pl.Float64 and first.is_null().equals(second.is_null()):
        differs = (largest or 0.0) > _ROUNDING * (_number(first.abs().max()) or 0.0)
    return differs, largest


def _is_close(expected: pl.Series, predicted: pl.Series, largest: float | None) -> bool:
    if largest is None or not expected.is_null().equals(predicted.is_null()):
        return False
    return largest <= _CLOSE * (_number(expected.cast(pl.Float64).abs().max()) or 0.0)


def _number(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _narrowest_type(text: pl.Series) -> ColumnType | None:
    if text.is_empty():
        return None
    return next((kind for kind, dtype in _TYPES if not text.cast(dtype, strict=False).null_count()), "string")


def read_example(folder: ModelFolder, columns: Sequence[Column]) -> tuple[list[str], pl.DataFrame]:
    """Return the SMILES of a model's example, and the author's values for them, typed like predictions.

    Raises FileNotFoundError if one of its files is missing, ModelError if the two files do not fit each other or these
    columns.
    """
    examples = folder.framework / "examples"
    given, printed = (_read_example_file(examples / name) for name in ("run_input.csv", "run_output.csv"))
    lacking = [column.declared for column in columns if column.declared not in printed.columns]
    if lacking:
        raise ModelError(f"run_output.csv lacks the column {lacking[0]!r} of run_columns.csv")
    known = [name for name in given.columns if name in INPUT_COLUMNS]
    molecules = given[(known or given.columns)[0]].drop_nulls().to_list()
    if printed.height != len(molecules):
        raise ModelError(f"run_output.csv has {printed.height} rows for {len(molecules)} molecules in run_input.csv")
    rows = printed.select(column.declared for column in columns).iter_rows()
    return molecules, read_records([format_record(row) for row in rows], columns).typed


def _read_example_file(path: Path) -> pl.DataFrame:
    try:
        return read_text_csv(read_foreign(path, _MOST_EXAMPLE_BYTES))
    except (ValueError, ForeignFileError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from None
