"""The pandera schema of predictions, made from a model's columns, and the checks that report it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import polars as pl
import polars.selectors as cs

from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.outcomes import Check
from precalc_assets.predictions.cells import DTYPES
from precalc_assets.predictions.shard_manifest import RawManifest

if TYPE_CHECKING:
    import pandera.polars as pa

KEY_COLUMNS = ("inchikey", "smiles")

PREDICTION_CHECKS = {
    "schema": "every output column exists, in order, with the type that run_columns.csv declares",
    "keys": "the molecules are those of the library's shard, each once, in its order",
    "finite": "every number is finite",
    "nulls": "not every value is null",
    "not_constant": "not all of the columns that varied in the canary are constant",
    "one_release": "the release is the canary's, and that of the other shards",
    "distribution": "each column's values are distributed as in the canary, within its statistical precision",
}
"""The checks of a shard's predictions: name and description."""

PREDICTION_WARNINGS = frozenset({"one_release", "distribution"})
"""Checks that do not block publication: a sample may mislead, and the release may change during a run."""


def predictions_schema(columns: Sequence[Column], inchikeys: pl.Series) -> "pa.DataFrameSchema":
    """Return the schema of predictions for these molecules: `inchikey`, `smiles`, and one column per output.

    Pandera takes about 3 ms per column and check, 12 s for a model of 2,048 outputs; so checks of all output columns
    run on the whole frame.
    """
    import pandera.polars as pa  # takes 0.4 s, so only validation imports it

    expected = _expected(tuple(columns))
    return pa.DataFrameSchema(
        {
            "inchikey": pa.Column(pl.String, unique=True, nullable=False),
            "smiles": pa.Column(pl.String, nullable=False),
        },
        checks=[
            pa.Check(lambda data: _has_schema(data.lazyframe, expected), name="schema"),
            pa.Check(lambda data: _inchikeys(data.lazyframe).equals(inchikeys), name="keys"),
            pa.Check(lambda data: _all_finite(data.lazyframe), name="finite"),
        ],
    )


def broken_check(frame: pl.DataFrame, schema: "pa.DataFrameSchema") -> tuple[str, str] | None:
    """Return the first failed check with pandera's message; None if all pass.

    Only the first, since pandera 0.35 cannot collect the failures of a frame's checks of different kinds.
    """
    import pandera.polars as pa

    try:
        schema.validate(frame)
    except pa.errors.SchemaError as error:
        name = error.check.name if isinstance(error.check, pa.Check) else "keys"
        return name, f"check `{name}` failed: {_first_line(error)} (expected: {PREDICTION_CHECKS[name]})"
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def check_failure_rate(manifest: RawManifest, limit: float) -> Check:
    """Check that a shard's share of quarantined molecules is at most the limit."""
    rate = manifest.quarantined / manifest.rows if manifest.rows else 0.0
    found = f"{manifest.quarantined} of {manifest.rows} molecules quarantined"
    found += f" ({rate:.1%}; limit {limit:.0%}, PRECALC_MAX_FAILURE_RATE)"
    if manifest.quarantined:
        found += f"; the reasons are in {storage.quarantine(manifest.model, manifest.shard)}"
    return Check("failure_rate", rate <= limit, found)


@lru_cache(maxsize=2)
def _expected(columns: tuple[Column, ...]) -> pl.Schema:
    return pl.Schema(
        {**dict.fromkeys(KEY_COLUMNS, pl.String()), **{column.name: DTYPES[column.type]() for column in columns}}
    )


def _has_schema(frame: pl.LazyFrame, expected: pl.Schema) -> bool:
    found = frame.collect_schema()
    return found == expected and found.names() == expected.names()


def _inchikeys(frame: pl.LazyFrame) -> pl.Series:
    return frame.select("inchikey").collect().to_series()


def _all_finite(frame: pl.LazyFrame) -> bool:
    floats = frame.select(cs.float().is_finite().all()).collect()
    return all(floats.row(0)) if floats.width else True
