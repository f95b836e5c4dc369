"""Comparing predictions with the canary: constant models are refused, differences warn, and chance does not."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from precalc_assets.columns import Column
from precalc_assets.inference.canary import run_canary
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.predictions.against_canary import Comparison, check_release
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.validate import PREDICTION_CHECKS, validate_shards
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

MODEL = "eos9abc"
SAMPLE = 100


@dataclass(frozen=True)
class Seen:
    name: str
    nulls: int
    distinct: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None


@dataclass(frozen=True)
class Canary:
    release: str
    molecules: int
    columns: tuple[Seen, ...]


def canary_of(frame: pl.DataFrame, release: str = "v1") -> Canary:
    seen = []
    for series in frame:
        values = series.drop_nulls()
        figures = (None,) * 3 if series.dtype == pl.String else (values.min(), values.max(), values.mean())
        seen.append(Seen(series.name, series.null_count(), values.n_unique(), *figures))
    return Canary(release, frame.height, tuple(seen))


def compare(canary: Canary | None, frame: pl.DataFrame, release: str = "v1") -> dict[str, tuple[bool, str]]:
    kinds = {pl.Float64: "float", pl.Int64: "integer", pl.String: "string"}
    columns = [Column(series.name, kinds[type(series.dtype)], "", "") for series in frame]
    comparison = Comparison(canary, release, columns)
    for start in range(0, frame.height, 300):
        comparison.add(frame.slice(start, 300))
    return {check.name: (check.passed, check.description) for check in comparison.checks()}


KINDS = {
    "normal": lambda random, n: random.normal(50, 3, n),
    "uniform": lambda random, n: random.random(n),
    "long tails": lambda random, n: np.exp(3 * random.normal(size=n)),
    "no mean at all": lambda random, n: random.standard_cauchy(n),
    "mostly zero": lambda random, n: random.poisson(0.01, n),
    "hardly ever one": lambda random, n: (random.random(n) < 0.002).astype(np.float64),
    "huge": lambda random, n: random.normal(size=n) * 1e300,
    "counts": lambda random, n: random.poisson(4, n),
    "always the same": lambda random, n: np.full(n, 0.1),
}


def drawn(kind: str, rows: int, seed: int, columns: int = 40) -> pl.DataFrame:
    random = np.random.default_rng([seed, *kind.encode()])
    return pl.DataFrame({f"c{at}": KINDS[kind](random, rows) for at in range(columns)})


@pytest.mark.parametrize("kind", KINDS)
def test_chance_raises_no_alarm_for_any_distribution(kind):
    for seed in range(5):
        found = compare(canary_of(drawn(kind, SAMPLE, seed)), drawn(kind, 3_000, 100 + seed))
        assert {name: passed for name, (passed, _) in found.items()} == {"not_constant": True, "distribution": True}


def test_constant_models_fail_and_constant_columns_warn():
    canary = canary_of(drawn("normal", SAMPLE, 1, columns=3))
    shard = drawn("normal", 1_000, 2, columns=3)
    stuck = shard.with_columns(c0=pl.lit(50.0))
    assert compare(canary, stuck)["not_constant"] == (True, "2 of 3 columns that varied in the canary vary")
    assert compare(canary, stuck)["distribution"] == (
        False,
        "1 of 3 columns differ from the canary: c0 is always 50, and had 100 values in the canary",
    )
    assert compare(canary, shard.with_columns(pl.lit(50.0).alias(name) for name in shard.columns))["not_constant"] == (
        False,
        "c0, c1, c2 varied in the canary, but no column does here: c0 is always 50",
    )


def test_a_missing_rare_value_warns_only_if_it_was_expected():
    rare = pl.DataFrame({"hit": [1] * 3 + [0] * 97})
    small, large = (pl.DataFrame({"hit": [0] * rows}) for rows in (2_000, 20_000))
    assert compare(canary_of(rare), small)["not_constant"] == (True, "2000 molecules are too few to tell")
    passed, found = compare(canary_of(rare), large)["not_constant"]
    assert (passed, found) == (False, "hit varied in the canary, but no column does here: hit is always 0")


def test_texts_are_compared_too():
    canary = canary_of(pl.DataFrame({"label": [f"class {at % 3}" for at in range(99)]}))
    varied = pl.DataFrame({"label": [f"class {at % 2}" for at in range(6_000)]})
    assert compare(canary, varied)["not_constant"][0]
    passed, found = compare(canary, pl.DataFrame({"label": ["class 1"] * 6_000}))["not_constant"]
    assert not passed
    assert found.endswith("label is always 'class 1'")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (pl.col("c0") * 2, "c0 is outside the canary's range"),
        (pl.lit(50.0) + (pl.col("c0") - 50) / 10 + 4, "c0 has a mean of 54"),
        (pl.when(pl.col("c0") > 50).then(pl.col("c0")), "c0 is null for 5"),
    ],
)
def test_a_difference_is_described_with_column_and_figures(change, found):
    canary = canary_of(drawn("normal", SAMPLE, 1, columns=2))
    shard = drawn("normal", 3_000, 2, columns=2).with_columns(c0=change)
    passed, said = compare(canary, shard)["distribution"]
    assert not passed
    assert said.startswith(f"1 of 2 columns differ from the canary: {found}")


def test_without_a_canary_of_the_release_nothing_is_compared():
    shard = pl.DataFrame({"c0": [0.5] * 1_000})
    assert set(compare(None, shard).values()) == {(True, "no canary")}
    other = canary_of(drawn("normal", SAMPLE, 1, columns=1), release="v2")
    assert set(compare(other, shard).values()) == {(True, "the canary is of release v2")}
    assert set(compare(Canary("v1", SAMPLE, ()), shard).values()) == {(True, "the canary gave no predictions")}


def test_a_mixture_of_releases_is_named():
    canary = Canary("v1", SAMPLE, ())
    assert check_release("v1", canary, ["v1"]).passed
    assert check_release("v1", None, []).passed
    assert check_release("v2", canary, ["v1"]).description == "this shard is of release v2, the canary is of v1"
    assert check_release("v2", None, ["v1", "v2"]).description == "this shard is of release v2, other shards are of v1"
    assert not check_release("v2", None, ["v1"]).passed


def test_a_constant_shard_is_refused_and_an_unusual_one_is_not(world):
    """Use the raw predictions and the canary's report of a model that really ran."""
    library = world.build_library(["C" * n + end for n in range(1, 101) for end in ("O", "N", "Cl", "Br", "S", "F")])
    columns = (("score", "float"),)

    def validate(answer: str) -> list:
        world.write_model(columns=columns, answer=answer)
        settings = Settings(batch_size=1_000, max_failure_rate=0.5)
        list(predict_shards(world.store, library, MODEL, world.backend(), shard_keys(4), settings=settings))
        report = find_report(world.store, MODEL)
        outcomes = validate_shards(
            world.store, read_manifest(world.store), MODEL, shard_keys(4), max_failure_rate=0.5, canary=report
        )
        return list(outcomes)

    world.write_model(columns=columns, answer="return repr(len(smiles) * 1.5)")
    settings = Settings(models_dir=str(world.models_dir), cache_dir=world.cache_dir, n_shards=4)
    assert run_canary(world.store, library, MODEL, SAMPLE, settings=settings).broken == ()
    good = validate("return repr(len(smiles) * 1.5)")
    assert all(outcome.landed and all(check.passed for check in outcome.checks) for outcome in good)
    assert {check.name for check in good[0].checks} == set(PREDICTION_CHECKS)

    world.path(f"raw/model={MODEL}").rename(world.root / "good")
    odd = validate("return repr(len(smiles) * 15.0)")
    assert all(outcome.landed for outcome in odd)
    assert all([c.name for c in outcome.checks if not c.passed] == ["distribution"] for outcome in odd)

    world.path(f"raw/model={MODEL}").rename(world.root / "odd")
    before = world.objects("predictions")
    same = validate("return '1.5'")
    assert all("score is always 1.5" in outcome.failure for outcome in same)
    assert all([(c.name, c.passed) for c in outcome.checks] == [("not_constant", False)] for outcome in same)
    assert world.objects("predictions") == before
