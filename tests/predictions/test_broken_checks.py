"""A batch of predictions that breaks a promise is refused by the check of that promise."""

import polars as pl
import pytest

from precalc_assets.columns import Column
from precalc_assets.predictions.validate import broken_check

COLUMNS = (Column("score", "float", "", ""), Column("atoms", "integer", "", ""))
KEYS = pl.Series("inchikey", ["A", "B"])
BATCH = pl.DataFrame({"inchikey": KEYS, "smiles": ["C", "N"], "score": [0.5, None], "atoms": [1, 2]})


@pytest.mark.parametrize(
    ("batch", "broken", "found"),
    [
        (BATCH, None, ""),
        (BATCH.clear(), "keys", "not those of the library's shard"),
        (BATCH.drop("atoms"), "schema", "'atoms'"),
        (BATCH.rename({"atoms": "bonds"}), "schema", "'bonds'"),
        (BATCH.select("inchikey", "smiles", "atoms", "score"), "schema", ""),
        (BATCH.cast({"atoms": pl.Int32}), "schema", "Int32"),
        (BATCH.reverse(), "keys", "not those of the library's shard"),
        (BATCH.with_columns(inchikey=pl.Series(["A", "A"])), "keys", "not those of the library's shard"),
        (BATCH.with_columns(smiles=pl.Series(["C", None])), "keys", "not those of the library's shard"),
        (BATCH.with_columns(score=pl.Series([0.5, float("inf")])), "finite", "'score'"),
        (BATCH.with_columns(score=pl.Series([None, float("nan")])), "finite", "'score'"),
        (BATCH.with_columns(score=pl.Series([None, None], dtype=pl.Float64)), None, ""),
    ],
)
def test_a_broken_promise_is_named(batch: pl.DataFrame, broken: str | None, found: str) -> None:
    result = broken_check(batch, COLUMNS, KEYS)
    assert (result and result[0]) == broken
    assert found in (result or ("", ""))[1]
