"""The plot of a column's distribution: bars in the units of a canvas, with labels and a text alternative.

`cards.distributions` computes the distribution; the template `plot.html` renders the plot.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from precalc.source import Distribution

WIDTH, HEIGHT = 240, 100
_GAP = 1.0
_DIGITS = (*"0123456789", "-")
_LARGEST_WHOLE = 1e15
_LEAST = 1.5
"""The least height of a bar, so that one molecule among a million is visible."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its rectangle on the canvas, the label of its values, and its molecules; `share` is in percent."""

    x: float
    y: float
    w: float
    h: float
    label: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Plot:
    """A column's plot.

    `texts` says that the values are texts, to be shown beside their bars. `low` and `high` label the ends of the axis.
    `alternative` is the text alternative of the image.
    """

    column: str
    summary: str
    alternative: str
    bars: tuple[Bar, ...]
    texts: bool
    low: str
    high: str
    peak: int
    molecules: int
    width: int = WIDTH
    height: int = HEIGHT


def draw(distribution: Distribution) -> Plot:
    """Return the plot of a distribution."""
    labels = _labels(distribution)
    counts = list(distribution.counts)
    texts = any(isinstance(value, str) for value in distribution.values)
    if texts and distribution.others:
        labels, counts = [*labels, "any other"], [*counts, distribution.others]
    summary = _summary(distribution)
    alternative = f"{distribution.column}: {summary}"
    if counts:
        most = max(range(len(counts)), key=counts.__getitem__)
        share = counts[most] / max(1, sum(counts))
        alternative = f"Histogram of {alternative}; most molecules, {share:.0%}, at {labels[most]}"
    ends = _ends(distribution) if distribution.edges else (labels[0], labels[-1]) if labels else ("", "")
    return Plot(
        column=distribution.column,
        summary=summary,
        alternative=alternative,
        bars=tuple(_bars(labels, counts)),
        texts=texts,
        low=ends[0],
        high=ends[1],
        peak=max(counts, default=0),
        molecules=distribution.molecules,
    )


def short_number(value: float) -> str:
    """Format a number for people: whole numbers in full, others to four digits."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    # 12,346 rather than 1.235e+04.
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _labels(distribution: Distribution) -> list[str]:
    if distribution.kind == "values":
        return [value if isinstance(value, str) else short_number(value) for value in distribution.values]
    inner = [short_number(edge) for edge in distribution.edges[1:-1]]
    low, high = _ends(distribution)
    if not inner:
        return [low if low == high else f"{low} to {high}"]
    if is_whole(distribution):
        # A bin has the whole numbers from its edge to the one before the next.
        spans = [(int(start), int(end) - 1) for start, end in pairwise(distribution.edges[1:-1])]
        between = [short_number(first) if first == last else f"{first:,} to {last:,}" for first, last in spans]
        return [f"up to {distribution.edges[1] - 1:,.0f}", *between, f"{distribution.edges[-2]:,.0f} and more"]
    first = f"{low} to {inner[0]}" if low.startswith(_DIGITS) else f"up to {inner[0]}"
    last = f"{inner[-1]} to {high}" if high.startswith(_DIGITS) else f"{inner[-1]} and more"
    return [first, *(f"{low} to {high}" for low, high in pairwise(inner)), last]


def is_whole(distribution: Distribution) -> bool:
    """Return whether the bins are of whole numbers: their edges are some, and so is the median, or half of one."""
    median = distribution.median or 0.0
    return (2.0 * median).is_integer() and all(e.is_integer() and abs(e) < _LARGEST_WHOLE for e in distribution.edges)


def _ends(distribution: Distribution) -> tuple[str, str]:
    """Return the labels of the ends of a histogram's axis: its extremes, or an edge that values lie beyond."""
    low, high = distribution.edges[0], distribution.edges[-1]
    least, most = distribution.minimum, distribution.maximum
    below = least is not None and least < low
    above = most is not None and most > high
    return (
        f"≤ {short_number(low)}" if below else short_number(low if least is None else least),
        f"≥ {short_number(high)}" if above else short_number(high if most is None else most),
    )


def _summary(distribution: Distribution) -> str:
    words = []
    if distribution.minimum is not None and distribution.maximum is not None:
        words.append(f"{short_number(distribution.minimum)} to {short_number(distribution.maximum)}")
    if distribution.median is not None:
        words.append(f"median {short_number(distribution.median)}")
    if distribution.nulls:
        words.append(f"{distribution.nulls:,} without a value")
    return ", ".join(words) or ("no values" if not sum(distribution.counts) else "")


def _bars(labels: list[str], counts: list[int]) -> list[Bar]:
    highest = max(counts, default=0)
    step = WIDTH / max(1, len(counts))
    total = max(1, sum(counts))
    bars = []
    for at, (label, count) in enumerate(zip(labels, counts, strict=True)):
        height = max(_LEAST, HEIGHT * count / highest) if count else 0.0
        width = step - min(_GAP, step / 4)
        bars.append(
            Bar(
                x=round(at * step, 2),
                y=round(HEIGHT - height, 2),
                w=round(width, 2),
                h=round(height, 2),
                label=label,
                count=count,
                share=round(100 * count / total, 1),
            )
        )
    return bars
