"""The distributions on a model's card, as the UI shows them at the asset: a line of bars in a table.

The UI's Markdown shows no image that is part of the text, so the bars are characters.
"""

import html
from collections.abc import Sequence

import dagster as dg

from precalc_assets.cards import Distribution

_BARS = "▁▂▃▄▅▆▇█"


def distribution_table(distributions: Sequence[Distribution]) -> dg.MetadataValue:
    """Return a table of Markdown with a row for each column."""
    rows = ["| column | from | values | to | median | null |", "|---|--:|---|:--|--:|--:|"]
    for each in distributions:
        low, median, high = (_number(value) for value in (each.minimum, each.median, each.maximum))
        cells = (_plain(each.column), low, _values(each), high, median, f"{each.nulls:,}")
        rows.append(f"| {' | '.join(cells)} |")
    return dg.MetadataValue.md("\n".join(rows))


def _values(distribution: Distribution) -> str:
    if any(isinstance(value, str) for value in distribution.values):
        total = sum(distribution.counts) + distribution.others
        shown = zip(distribution.values[:3], distribution.counts, strict=False)
        return ", ".join(f"{_plain(str(value)) or '(empty)'} {count / total:.0%}" for value, count in shown)
    highest = max(distribution.counts, default=1)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // highest)] if count else " " for count in distribution.counts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _plain(text: str) -> str:
    """Return a text that Markdown takes for nothing else: models are other people's."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|~" else letter for letter in escaped)
