"""A model's own example: the molecules of `run_input.csv`, and their values in `run_output.csv`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from precalc_assets.columns import Column
from precalc_assets.inference.output import INPUT_COLUMNS
from precalc_assets.models import ModelFolder
from precalc_assets.platform_errors import ModelError
from precalc_assets.predictions import format_record, read_records, read_text_csv


@dataclass(frozen=True, slots=True)
class Example:
    """Molecules, and the author's values for them, typed like predictions."""

    smiles: list[str]
    expected: pl.DataFrame


def read_example(folder: ModelFolder, columns: Sequence[Column]) -> Example:
    """Read a model's example.

    Raises FileNotFoundError if one of its files is missing, ModelError if the two files do not fit each other or these
    columns.
    """
    examples = folder.framework / "examples"
    given, printed = (_read(examples / name) for name in ("run_input.csv", "run_output.csv"))
    lacking = [column.declared for column in columns if column.declared not in printed.columns]
    if lacking:
        raise ModelError(f"run_output.csv lacks the column {lacking[0]!r} of run_columns.csv")
    known = [name for name in given.columns if name in INPUT_COLUMNS]
    molecules = given[(known or given.columns)[0]].drop_nulls().to_list()
    if printed.height != len(molecules):
        raise ModelError(f"run_output.csv has {printed.height} rows for {len(molecules)} molecules in run_input.csv")
    rows = printed.select(column.declared for column in columns).iter_rows()
    expected, problems = read_records([format_record(row) for row in rows], columns)
    if problems:
        raise ModelError(f"run_output.csv: {next(iter(problems.values()))}")
    return Example(molecules, expected)


def _read(path: Path) -> pl.DataFrame:
    try:
        return read_text_csv(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from None
