"""The distributions on a model's card as Markdown, for Dagster's UI."""

import html
from base64 import b64encode
from collections.abc import Sequence

from precalc_assets.cards.model_card import Distribution

_WIDTH, _HEIGHT = 144, 32
_COLOUR = "#8e6bb8"
"""Visible on the UI's light and dark backgrounds."""


def distribution_table(distributions: Sequence[Distribution]) -> str:
    """Return a Markdown table with a row per column; its bars are inline images."""
    rows = ["| column | distribution | from | median | to | null |", "|---|---|--:|--:|--:|--:|"]
    for each in distributions:
        low, median, high = (_number(value) for value in (each.minimum, each.median, each.maximum))
        cells = (_plain(each.column), _values(each), low, median, high, f"{each.nulls:,}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _values(distribution: Distribution) -> str:
    if not any(isinstance(value, str) for value in distribution.values):
        return f"![bars](data:image/svg+xml;base64,{b64encode(_draw(distribution.counts).encode()).decode()})"
    total = sum(distribution.counts) + distribution.others
    shown = zip(distribution.values[:3], distribution.counts, strict=False)
    return ", ".join(f"{_plain(str(value)) or '(empty)'} {count / total:.0%}" for value, count in shown)


def _draw(counts: Sequence[int]) -> str:
    """Return an SVG image with a bar for each count."""
    step, highest = _WIDTH / max(1, len(counts)), max(counts, default=1)
    heights = [max(1.0, _HEIGHT * count / highest) if count else 0.0 for count in counts]
    bars = "".join(
        f"M{at * step:.1f} {_HEIGHT}v-{height:.1f}h{step - 1:.1f}v{height:.1f}z" for at, height in enumerate(heights)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<path fill="{_COLOUR}" d="{bars}"/></svg>'
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _plain(text: str) -> str:
    """Escape a text for Markdown, since models come from third parties."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|~" else letter for letter in escaped)
