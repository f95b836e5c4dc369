"""The sizes of calls. A model here is two numbers: seconds per call and seconds per molecule."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from precalc_assets.inference.call_size import Call, CallSize, fit_line, planned_size

BATCH = 1000


def sizes(per_call: float, per_molecule: float, calls: int = 20, size: CallSize | None = None) -> list[int]:
    """Return the sizes of the first calls of a model."""
    size = size or CallSize(BATCH)
    found = []
    for _ in range(calls):
        found.append(size.most)
        size.answered(size.most, per_call + found[-1] * per_molecule, 10 * found[-1])
    return found


def seconds(per_call: float, per_molecule: float, molecules: int) -> float:
    return per_call + molecules * per_molecule


def test_unknown_model_starts_with_a_small_call() -> None:
    assert CallSize(BATCH).most == 50
    assert CallSize(5).most == 5


@given(st.floats(0, 5), st.floats(1e-5, 30))
def test_calls_of_a_model_that_starts_fast_last_30_seconds(per_call: float, per_molecule: float) -> None:
    last = sizes(per_call, per_molecule)[-1]
    lasts = seconds(per_call, per_molecule, last)
    assert lasts <= 31 or last == 1
    assert lasts >= 28 - per_molecule or last == 10 * BATCH


@given(st.floats(0, 60), st.floats(1e-4, 100))
def test_every_call_after_the_first_ends_within_three_minutes(per_call: float, per_molecule: float) -> None:
    assert all(n == 1 or seconds(per_call, per_molecule, n) <= 181 for n in sizes(per_call, per_molecule)[1:])


@given(st.floats(0.1, 60), st.floats(1e-4, 0.05))
def test_starting_takes_at_most_a_third_of_a_call(per_call: float, per_molecule: float) -> None:
    last = sizes(per_call, per_molecule)[-1]
    assert per_call <= seconds(per_call, per_molecule, last) / 2.9 or last == 10 * BATCH


def test_a_model_of_one_molecule_a_minute_is_asked_one_by_one() -> None:
    assert sizes(0.0, 60.0, 5)[1:] == [1, 1, 1, 1]


def test_a_fast_model_s_second_call_has_a_whole_batch_or_more() -> None:
    assert sizes(0.1, 0.001)[1] >= BATCH


@pytest.mark.parametrize("noise", [0.7, 1.3])
def test_uneven_calls_leave_a_slow_model_s_calls_short(noise: float) -> None:
    size = CallSize(BATCH)
    for turn in range(30):
        n = size.most
        took = 0.5 * n * (noise if turn % 2 else 1.0)
        assert took <= 90
        size.answered(n, took, 10 * n)


def test_wide_output_bounds_a_call_but_not_below_a_batch() -> None:
    size = CallSize(BATCH)
    size.answered(1000, 0.1, 1000 * (1 << 13))
    assert size.most == 2048
    size.answered(1000, 0.1, 1000 * (1 << 20))
    assert size.most == BATCH


def test_a_server_that_was_down_gets_one_batch_per_call() -> None:
    size = CallSize(BATCH)
    size.answered(1000, 0.1, 10)
    assert size.most > BATCH
    size.found_down()
    assert size.most == BATCH


@given(st.integers(2, 10_000), st.floats(0.001, 1800))
def test_a_timeout_at_least_halves_the_call(molecules: int, waited: float) -> None:
    size = CallSize(BATCH)
    size.timed_out(molecules, waited)
    assert 1 <= size.most <= molecules // 2
    assert size.limit == size.most


def test_no_call_is_split_before_a_timeout() -> None:
    size = CallSize(BATCH)
    size.answered(50, 300.0, 10)
    assert size.limit == math.inf


def test_calls_grow_again_by_speed_after_a_timeout() -> None:
    size = CallSize(BATCH)
    sizes(5.0, 0.01, 10, size)
    before = size.most
    size.timed_out(before, 1800.0)
    size.answered(4, 5.04, 40)
    assert size.most < before
    size.timed_out(1, 300.0)
    assert sizes(5.0, 0.01, 20, size)[-1] >= before / 2


@given(st.floats(0, 20), st.floats(0.001, 10), st.floats(0.1, 500))
def test_an_affordable_call_ends_in_time(per_call: float, per_molecule: float, left: float) -> None:
    size = CallSize(BATCH)
    sizes(per_call, per_molecule, 3, size)
    n = size.affordable(left)
    assert 0 <= n <= size.most
    assume(n >= size._last.molecules)
    assert seconds(per_call, per_molecule, n) <= left * 1.001


def test_no_call_is_affordable_in_less_than_the_shortest_took() -> None:
    size = CallSize(BATCH)
    size.answered(10, 5.0, 100)
    assert size.affordable(4.9) == 0
    assert size.affordable(10.0) == 20


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1000)), min_size=1))
def test_the_fitted_times_are_never_negative(points: list[tuple[int, float]]) -> None:
    per_call, per_molecule = fit_line(Call(*point) for point in points)
    assert per_call >= 0
    assert per_molecule >= 0


@pytest.mark.parametrize(
    ("per_call", "per_molecule", "planned"),
    [(0.0, 0.5, 60), (0.0, 45.0, 1), (5.0, 0.5, 50), (10.0, 0.5, 80), (60.0, 0.5, 240), (0.1, 0.0, 10_000)],
)
def test_the_planned_size_of_a_known_model(per_call: float, per_molecule: float, planned: int) -> None:
    assert planned_size(per_call, per_molecule, BATCH) == planned
