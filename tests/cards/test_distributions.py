"""Distributions over a model's files: exact, of served files only, and for any values."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalc_assets.cards.distributions import BINS, describe_numbers, describe_predictions
from precalc_assets.cards.plots import draw
from precalc_assets.columns import Column
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance, StoredFile
from precalc_assets.storage import open_store, predictions

MODEL = "eos9abc"
COLUMNS = (Column("score", "float", "", ""), Column("count", "integer", "", ""), Column("label", "string", "", ""))


def write(root: Path, shard: str, frame: pl.DataFrame, columns=COLUMNS) -> None:
    path = root / predictions(MODEL, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = Provenance(
        model=MODEL,
        release="v1.0.0",
        shard=shard,
        n_shards=3,
        shard_digest="",
        raw_digest=f"raw {shard}",
        quarantined=0,
        columns=columns,
    )
    writer = PredictionsWriter(path, provenance, frame.height)
    keys = pl.Series("inchikey", ["K"] * frame.height)
    for at in range(0, frame.height, 100):
        writer.write(frame.insert_column(0, keys).insert_column(1, keys.alias("smiles")).slice(at, 100))
        frame = frame.drop("inchikey", "smiles")
    writer.close()


@pytest.fixture
def frames(tmp_path: Path) -> dict[str, pl.DataFrame]:
    random = np.random.default_rng(1)
    made = {}
    for shard, rows in (("00", 700), ("01", 1), ("02", 250)):
        score = [None if value > 2 else value for value in random.normal(size=rows).tolist()]
        label = [None if at % 7 == 0 else f"class {at % 15}" for at in range(rows)]
        made[shard] = pl.DataFrame({"score": score, "count": random.poisson(3, rows), "label": label}).cast(
            {"score": pl.Float64, "label": pl.String}
        )
        write(tmp_path, shard, made[shard])
    return made


def served(shards) -> dict[str, str]:
    return {shard: f"raw {shard}" for shard in shards}


def test_every_value_of_every_file_is_counted_once(tmp_path, frames):
    score, count, label = describe_predictions(open_store(f"file://{tmp_path}"), MODEL, COLUMNS, served(frames))
    everything = pl.concat(frames.values())
    for found, name in ((score, "score"), (count, "count")):
        values = everything[name].drop_nulls()
        assert (found.molecules, found.nulls) == (951, 951 - len(values))
        assert (found.minimum, found.maximum) == (values.min(), values.max())
        assert found.median == pytest.approx(values.median())
        assert sum(found.counts) == len(values)
    assert dict(zip(count.values, count.counts, strict=True)) == {
        value: (everything["count"] == value).sum() for value in range(count.values[-1] + 1)
    }
    texts = everything["label"].drop_nulls()
    assert len(label.values) == 10
    assert all(n == (texts == text).sum() for text, n in zip(label.values, label.counts, strict=True))
    assert sum(label.counts) + label.others == len(texts)
    assert min(label.counts) >= max(
        (texts == f"class {n}").sum() for n in range(15) if f"class {n}" not in label.values
    )


def test_files_that_are_not_served_are_not_counted(tmp_path, frames):
    store = open_store(f"file://{tmp_path}")
    asked = {**served(frames), "00": "another", "07": "gone"}
    assert {found.molecules for found in describe_predictions(store, MODEL, COLUMNS, asked)} == {251}
    other = (COLUMNS[0], Column("count", "float", "", ""), COLUMNS[2])
    assert {found.molecules for found in describe_predictions(store, MODEL, other, served(frames))} == {0}


def test_an_error_names_a_damaged_file(tmp_path, frames):
    path = tmp_path / predictions(MODEL, "02")
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:200] + bytes(100) + whole[300:]):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"shard=02\.parquet is damaged"):
            describe_predictions(open_store(f"file://{tmp_path}"), MODEL, COLUMNS, served(frames))


def test_little_of_a_wide_file_is_read_for_a_few_columns(tmp_path, monkeypatch):
    columns = tuple(Column(f"c{at:03}", "float", "", "") for at in range(300))
    random = np.random.default_rng(1)
    write(tmp_path, "00", pl.DataFrame({c.name: random.normal(size=400) for c in columns}), columns)
    read = []
    whole = StoredFile.read
    monkeypatch.setattr(StoredFile, "read", lambda self, size=-1: read.append(whole(self, size)) or read[-1])
    describe_predictions(open_store(f"file://{tmp_path}"), MODEL, columns[:8], served(["00"]))
    assert sum(map(len, read)) < (tmp_path / predictions(MODEL, "00")).stat().st_size / 4


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(
    st.one_of(st.lists(FLOATS, min_size=1), st.lists(INTEGERS, min_size=1), st.lists(st.integers(-9, 40), min_size=1))
)
def test_every_number_is_in_exactly_one_bin(numbers):
    array = np.array(numbers, np.float64 if isinstance(numbers[0], float) else np.int64)
    found = describe_numbers("c", array, len(array) + 2, 2)
    assert sum(found.counts) == len(array)
    assert 1 <= len(found.counts) <= BINS
    assert all(math.isfinite(edge) for edge in found.edges)
    assert list(found.edges) == sorted(found.edges)
    assert found.minimum <= found.median <= found.maximum
    if found.kind == "values":
        assert dict(zip(found.values, found.counts, strict=True)) == {
            value: numbers.count(value) for value in found.values
        }
    else:
        assert len(found.edges) == len(found.counts) + 1


def test_long_tail_is_in_the_last_bar():
    numbers = np.concatenate([np.arange(1_000) % 10, [5_000]])
    plot = draw(describe_numbers("score", numbers, 1_001, 0))
    assert [bar.label for bar in plot.bars[:3]] == ["up to 0", "1", "2"]
    assert (plot.bars[-1].label, plot.bars[-1].count) == ("9 and more", 101)
    assert plot.summary == "0 to 5,000, median 5"
