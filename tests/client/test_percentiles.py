"""Where values stand in the library: distributions, histograms in the terminal, and percentiles beside values."""

from fractions import Fraction

import polars as pl
import pytest
from served_model import remote

from precalc.client import Client
from precalc.expressions import make_question
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.storage import predictions

A = "eos9abc"


@pytest.fixture(scope="module")
def served(make_world):
    """A model whose card is published."""
    world = make_world("percentiles")
    world.write_model()
    world.build_library()
    for step in ("predict", "load"):
        done = world.precalc(step, A)
        assert done.returncode == 0, done.stderr
    return world


@pytest.fixture(params=["tables", "api"])
def source(request, served):
    store_url = f"file://{served.root / 'store'}"
    opened = (
        LocalSource(served.tables, "t", store_url)
        if request.param == "tables"
        else remote(served.tables, store_url=store_url)
    )
    yield opened
    opened.close()


def test_percentiles_are_of_the_whole_library(source, served):
    found = source.distributions(A, ["score", "label"])
    assert list(found) == ["score", "label"]
    assert len(found["score"].percentiles) == 101
    assert found["label"].percentiles == ()
    frame = pl.concat([pl.read_parquet(served.path(predictions(A, shard))) for shard in ("00", "01", "02", "03")])
    scores = sorted(frame["score"])
    assert [scores[max(0, -(-percent * len(scores) // 100) - 1)] for percent in range(101)] == list(
        found["score"].percentiles
    )
    assert (found["score"].minimum, found["score"].maximum) == (scores[0], scores[-1])


def test_a_distribution_of_whole_numbers_passes_through_every_door(source):
    answer = source.screen(make_question(f"{A}.atoms > 3", limit=0, distributions=[f"{A}.atoms"]))
    found = source.distributions(A, ["atoms"])["atoms"]
    assert (answer.distributions[0].minimum, found.minimum, found.maximum) == (4, 1, 17)


def test_a_percentile_counts_molecules_with_at_most_the_value(source, served):
    lengths = sorted(len("C" * n + end) for n in range(1, 16) for end in ("", "O", "N", "Cl"))
    frame = Client(source=source).get(A, ["CC", "CCCCCCCO", "C" * 15 + "Cl", "c1ccccc1"], percentiles=True)
    assert [name for name in frame.columns if name.endswith("_percentile")] == ["score_percentile", "atoms_percentile"]
    assert list(frame.columns).index("score_percentile") == list(frame.columns).index("score") + 1
    for atoms, percentile in zip(frame["atoms"].dropna(), frame["atoms_percentile"].dropna(), strict=True):
        exact = Fraction(100 * sum(length <= atoms for length in lengths), len(lengths))
        assert abs(percentile - exact) <= 1
    assert frame["atoms_percentile"].tolist()[2] == 100
    assert frame["atoms_percentile"].isna().tolist() == [False, False, False, True]


def test_a_histogram_is_drawn_for_all_molecules_or_for_some(served):
    done = served.precalc("describe", A, "atoms")
    assert done.returncode == 0, done.stderr
    assert "least 1, median 9, most 17" in done.stdout
    bars = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines() if "█" in line}
    assert sum(bars.values()) == 60
    done = served.precalc("describe", A, "atoms", "--where", f"{A}.atoms between 3 and 5")
    assert {line.split()[0] for line in done.stdout.splitlines() if "█" in line} == {"3", "4", "5"}
    done = served.precalc("describe", A, "--where", f"{A}.atoms > 3")
    assert (done.returncode, "name a column too" in done.stderr) == (2, True)
    printed = served.precalc("get", A, "CCO", "--percentiles").stdout.splitlines()
    assert "score,score_percentile,atoms,atoms_percentile,label" in printed[0]
