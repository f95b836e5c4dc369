"""Compare a shard's predictions with the canary's: the release, and the distribution of each column.

A shard holds hundreds of times as many molecules as the canary, from the same library and in the same hash order. So
both are random samples of the same molecules. The thresholds below keep false alarms rare even for thousands of columns
in fifty shards.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from precalc.source import name_some
from precalc_assets.columns import Column
from precalc_assets.outcomes import Check
from precalc_assets.predictions.canary_report import CanaryReport

_MIN_OTHER_VALUES = 100
"""Expected number of values other than the most frequent one, by the canary's rate, above which a constant column is
suspicious: enough even if a value that the canary saw once is in truth twenty times as rare."""

_FALSE_ALARM = 1e-9
"""Probability of a false alarm per column and shard: 2,048 columns in 50 shards raise one in ten thousand models."""

_COLUMNS_AT_ONCE = 128
"""Columns to compare together: memory holds several copies of their values."""

_MIN_VALUES = 100
"""Minimum values of a shard for a comparison: a few molecules say little about a distribution."""

_ROUNDING = 1e-9
"""Tolerance of a mean for rounding, as a share of the largest value: half of float64's digits."""

_MIN_NULL_DIFFERENCE = 0.1
"""Minimum difference in the share of nulls for a warning."""


class Comparison:
    """Compares a shard's values with the canary's, if there is a canary of this release. Memory is constant.

    `columns` are the shard's. Columns that the canary lacks are not compared.
    """

    def __init__(self, canary: CanaryReport | None, release: str, columns: Sequence[Column]) -> None:
        self._why_not = "no canary"
        if canary:
            self._why_not = ""
            if canary.release != release:
                self._why_not = f"the canary is of release {canary.release}"
            elif not (canary.columns and canary.molecules):
                self._why_not = "the canary gave no predictions"
        known = {column.name: column for column in canary.columns} if canary and not self._why_not else {}
        self._molecules = canary.molecules if canary else 0
        self._rows = 0
        # A column with only nulls in the canary cannot be compared.
        self._seen = {c.name: known[c.name] for c in columns if c.name in known and known[c.name].distinct}
        self._numbers = [c.name for c in columns if c.type != "string" and c.name in self._seen]
        self._texts = [c.name for c in columns if c.type == "string" and c.name in self._seen]
        self._at = {name: at for at, name in enumerate(self._numbers)}
        numbers = [self._seen[name] for name in self._numbers]
        self._low = np.array([column.minimum for column in numbers], np.float64)
        self._high = np.array([column.maximum for column in numbers], np.float64)
        self._mean = np.array([column.mean for column in numbers], np.float64)
        n = len(numbers)
        self._count = np.zeros(n, np.int64)
        self._outside = np.zeros(n, np.int64)
        self._sum, self._squares = np.zeros(n), np.zeros(n)
        self._least, self._most = np.full(n, np.inf), np.full(n, -np.inf)
        self._text_count = dict.fromkeys(self._texts, 0)
        self._text: dict[str, str] = {}
        self._text_varies: set[str] = set()

    def add(self, frame: pl.DataFrame) -> None:
        """Take in a batch of the shard's rows."""
        self._rows += frame.height
        if frame.height:
            self._add_numbers(frame)
            self._add_texts(frame)

    def checks(self) -> list[Check]:
        """Return the checks `not_constant` and `distribution`."""
        if self._why_not:
            return [Check(name, True, self._why_not, undecided=True) for name in ("not_constant", "distribution")]
        return [self._not_constant(), self._distribution()]

    def _not_constant(self) -> Check:
        """Check that not all columns that varied in the canary are constant: the model would answer all alike."""
        expected = [name for name in self._seen if self._should_vary(name)]
        constant = self._constant()
        if not expected:
            return Check("not_constant", True, f"{self._rows} molecules are too few to tell", undecided=True)
        still = [name for name in expected if name in constant]
        found = f"{len(expected) - len(still)} of {len(expected)} columns that varied in the canary vary"
        # `distribution` warns about a single constant column.
        if len(still) < len(expected):
            return Check("not_constant", passed=True, description=found)
        first = still[0]
        found = f"{name_some(still)} varied in the canary, but no column does here: {first} is always {constant[first]}"
        return Check("not_constant", passed=False, description=found)

    def _distribution(self) -> Check:
        """Check that each column's values are distributed as in the canary, within statistical precision."""
        odd: dict[str, str] = {}
        for name, how in self._deviations():
            odd.setdefault(name, how)
        compared = len(self._numbers) + len(self._texts)
        if not odd:
            found = f"{compared} columns compared with the canary's {self._molecules} molecules"
            too_few = self._rows < _MIN_VALUES
            if too_few:
                found = f"{self._rows} molecules are too few to tell"
            return Check("distribution", passed=True, description=found, undecided=too_few or not compared)
        first = next(iter(odd))
        others = f"; also {name_some([name for name in odd if name != first])}" if len(odd) > 1 else ""
        found = f"{len(odd)} of {compared} columns differ from the canary: {first} {odd[first]}{others}"
        return Check("distribution", passed=False, description=found)

    def _add_numbers(self, frame: pl.DataFrame) -> None:
        for start in range(0, len(self._numbers), _COLUMNS_AT_ONCE):
            some = slice(start, start + _COLUMNS_AT_ONCE)
            values = frame.select(pl.col(self._numbers[some]).cast(pl.Float64)).to_numpy()
            # Nulls are NaN here, and numbers are finite. If a square overflows, the mean is not compared.
            with np.errstate(over="ignore", invalid="ignore"):
                off = values - self._mean[some]
                self._count[some] += (~np.isnan(values)).sum(axis=0)
                self._outside[some] += ((values < self._low[some]) | (values > self._high[some])).sum(axis=0)
                self._sum[some] += np.nansum(off, axis=0)
                self._squares[some] += np.nansum(off * off, axis=0)
            self._least[some] = np.fmin(self._least[some], np.fmin.reduce(values, axis=0))
            self._most[some] = np.fmax(self._most[some], np.fmax.reduce(values, axis=0))

    def _add_texts(self, frame: pl.DataFrame) -> None:
        for name in self._texts:
            texts = frame[name].drop_nulls()
            self._text_count[name] += len(texts)
            if len(texts) and name not in self._text_varies:
                first = self._text.setdefault(name, texts[0])
                if not (texts == first).all():
                    self._text_varies.add(name)

    def _present(self, name: str) -> int:
        if name in self._text_count:
            return self._text_count[name]
        return int(self._count[self._at[name]])

    def _should_vary(self, name: str) -> bool:
        """Return whether a column varied in the canary, and has enough values here that it should vary, too."""
        column = self._seen[name]
        return self._present(name) * (column.distinct - 1) / self._known(name) >= _MIN_OTHER_VALUES

    def _known(self, name: str) -> int:
        """Return the number of the canary's values in a column, at least 1."""
        return max(1, self._molecules - self._seen[name].nulls)

    def _constant(self) -> dict[str, str]:
        same = self._least == self._most
        found = {name: f"{self._least[at]:g}" for name, at in self._at.items() if same[at]}
        return found | {name: repr(text)[:60] for name, text in self._text.items() if name not in self._text_varies}

    def _deviations(self) -> Iterator[tuple[str, str]]:
        """Yield columns that differ from the canary, with a description, the most obvious first."""
        if self._rows < _MIN_VALUES:
            return
        for name, value in self._constant().items():
            if self._should_vary(name):
                yield name, f"is always {value}, and had {self._seen[name].distinct} values in the canary"
        for name, column in self._seen.items():
            share, known = 1 - self._present(name) / self._rows, column.nulls / self._molecules
            if _differ(share, self._rows, known, self._molecules):
                yield name, f"is null for {share:.0%} of molecules, for {known:.0%} in the canary"
        yield from self._outside_of_range()
        yield from self._other_means()

    def _outside_of_range(self) -> Iterator[tuple[str, str]]:
        """Yield columns with more values outside the canary's range than chance explains, for any distribution."""
        for at, name in enumerate(self._numbers):
            count = int(self._count[at])
            limit = _share_outside(self._known(name))
            share = self._outside[at] / count if count >= _MIN_VALUES else 0.0
            # Six standard errors allow for the shard's own sampling error.
            if share > limit + 6 * math.sqrt(limit * (1 - limit) / max(1, count)):
                low, high = self._low[at], self._high[at]
                yield name, f"is outside the canary's range {low:g} to {high:g} for {share:.0%} of molecules"

    def _other_means(self) -> Iterator[tuple[str, str]]:
        known = np.array([self._known(name) for name in self._numbers], np.float64)
        # An overflow is never reported: comparisons with NaN are false, and nothing exceeds infinity.
        with np.errstate(all="ignore"):
            shift = self._sum / self._count
            variance = np.maximum(self._squares / self._count - shift * shift, 0.0)
            extremes = np.stack([self._least, self._most, self._low, self._high]) - self._mean - shift
            allowed = _allowed_shift(variance, np.abs(extremes).max(axis=0), 1 / (1 / known + 1 / self._count))
            rounding = _ROUNDING * np.maximum(np.abs(self._low), np.abs(self._high))
            odd = (self._count >= _MIN_VALUES) & (np.abs(shift) > allowed + rounding)
        for at in np.flatnonzero(odd):
            mean = self._mean[at]
            yield self._numbers[at], f"has a mean of {mean + shift[at]:.4g}, {mean:.4g} in the canary"


def check_release(release: str, canary: CanaryReport | None, others: Sequence[str]) -> Check:
    """Check that a shard's release equals the canary's, and the `others`, of shards that were validated before it."""
    expected = sorted({*others, *([canary.release] if canary else [])} - {release})
    if expected:
        source = "the canary is" if canary and canary.release in expected else "other shards are"
        found = f"this shard is of release {release}, {source} of {', '.join(expected)}"
        return Check("one_release", passed=False, description=found)
    return Check("one_release", passed=True, description=f"release {release}{'' if canary else '; no canary'}")


@cache
def _share_outside(values: int) -> float:
    """Return an upper limit for the share of a distribution outside the range of n `values`.

    The share has a Beta(2, n - 1) distribution for any continuous distribution (Wilks, "Determination of sample sizes
    for setting tolerance limits", 1941), so it exceeds t with probability (1 - t)^(n - 1) (1 + (n - 1) t), which is
    `_FALSE_ALARM` for the returned t.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        if (1 - share) ** (values - 1) * (1 + (values - 1) * share) > _FALSE_ALARM:
            low = share
        else:
            high = share
    return high


def _allowed_shift(
    variance: NDArray[np.float64], farthest: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return an upper limit for the error of the mean of so many `values`, exceeded with `_FALSE_ALARM`.

    This is Bernstein's bound for values at most `farthest` from their mean. It holds for columns that are mostly zero
    and for long tails, whose means are far from normal.
    """
    doubt = 2 * math.log(2 / _FALSE_ALARM) / values
    slope = doubt * farthest / 3
    allowed: NDArray[np.float64] = slope / 2 + np.sqrt(slope * slope / 4 + doubt * variance)
    return allowed


def _differ(share: float, n: int, known: float, n_known: int) -> bool:
    """Return whether two shares differ by more than seven standard errors and more than `_MIN_NULL_DIFFERENCE`."""
    pooled = (share * n + known * n_known) / (n + n_known)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_known))
    return abs(share - known) > max(_MIN_NULL_DIFFERENCE, 7 * error)
