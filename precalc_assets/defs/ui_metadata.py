"""What Dagster's UI shows of models, canaries and cards. Models come from third parties, so their texts are escaped."""

import html
from base64 import b64encode
from collections.abc import Iterable, Sequence
from itertools import groupby

import dagster as dg

from precalc.source import Distribution
from precalc_assets.cards.model_card import ModelCard
from precalc_assets.cards.plots import draw
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import count_cells
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.model_progress import COMPUTED, FAILED, MISSING, PREDICTED, SERVED
from precalc_assets.models.hub_registry import HubRegistry
from precalc_assets.platform import Platform
from precalc_assets.predictions.canary_report import CanaryReport
from precalc_assets.storage import HUB_MODELS, canary_report, sample

Metadata = dict[str, dg.MetadataValue | str | int | float | bool]

_SHOWN_COLUMNS = 20
"""Columns in an event's table schema, which stands above an event's other facts. Every shard has an event."""

_SIZE = 'width="144" height="32" preserveAspectRatio="none"'
_COLOUR = "#8e6bb8"
"""Visible on the UI's light and dark backgrounds, as those below."""

_STAGE_COLOURS = {SERVED: "#2f9e6e", PREDICTED: "#8ccfb0", COMPUTED: _COLOUR, FAILED: "#d1495b", MISSING: "#8885"}
_ROW, _LABEL, _MAP = 16, 90, 600
"""Pixels of the picture of all shards: a row's height, and the width of labels and of a row of shards."""


def table_schema(columns: Sequence[Column]) -> dg.MetadataValue:
    """Return a model's first columns."""
    shown = [
        dg.TableColumn(column.name, type=column.type, description=column.description)
        for column in columns[:_SHOWN_COLUMNS]
    ]
    return dg.MetadataValue.table_schema(dg.TableSchema(shown))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> dg.MetadataValue:
    """Return a table of plain texts."""
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def heat_map(rows: Sequence[tuple[str, Sequence[str]]]) -> dg.MetadataValue:
    """Return a picture of models × shards, whose colours say how far each shard is. Equal neighbours are one box."""
    height = _ROW * (len(rows) + 1)
    drawn = []
    for at, (stage, colour) in enumerate(_STAGE_COLOURS.items()):
        drawn.append(f'<rect x="{_LABEL + 118 * at}" y="2" width="10" height="10" fill="{colour}"/>')
        drawn.append(f'<text x="{_LABEL + 118 * at + 14}" y="11">{stage}</text>')
    for row, (model, stages) in enumerate(rows, 1):
        drawn.append(f'<text x="0" y="{_ROW * row + 11}">{html.escape(model)}</text>')
        width, at = _MAP / max(1, len(stages)), 0
        for stage, group in groupby(stages):
            n = len([*group])
            box = f'x="{_LABEL + width * at:.1f}" y="{_ROW * row + 1}" width="{width * n:.1f}" height="{_ROW - 3}"'
            drawn.append(f'<rect {box} fill="{_STAGE_COLOURS[stage]}"/>')
            at += n
    size = f'width="{_LABEL + _MAP}" height="{height}" viewBox="0 0 {_LABEL + _MAP} {height}"'
    style = 'font-family="sans-serif" font-size="11" fill="#888"'
    return dg.MetadataValue.md(
        _image("shards", f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(drawn)}</svg>')
    )


def canary_metadata(report: CanaryReport, platform: Platform) -> Metadata:
    """Return what the UI shows of a canary: the model, its speed, and the cost of a full run and of its table."""
    shown: Metadata = {
        **_model_metadata(report.metadata, report.declared),
        "release": report.release,
        "dagster/row_count": report.molecules,
        "dagster/uri": platform.uri(sample(report.model)),
        "report": platform.uri(canary_report(report.model)),
        "quarantined": report.quarantined,
        "varying_columns": len(report.varying),
        **_size_metadata(report),
    }
    if report.speed:
        shown["best_batch_size"] = report.speed.best_batch_size
        shown["milliseconds_per_molecule"] = round(1000 * report.speed.seconds_per_molecule, 3)
        shown["seconds_per_call"] = round(report.speed.seconds_per_call, 3)
        shown["seconds_to_start"] = round(report.speed.seconds_to_start, 3)
    if report.run:
        shown["full_run_runner_hours"] = round(report.run.runner_hours, 3)
        shown["full_run_wall_hours"] = round(report.run.wall_hours, 3)
        shown["full_run_dollars"] = round(report.run.dollars, 2)
    if report.table:
        shown["table_write_units"] = round(report.table.write_units)
        shown["table_write_dollars"] = round(report.table.write_dollars, 4)
        shown["table_gigabytes"] = round(report.table.gigabytes, 6)
        shown["table_dollars_per_month"] = round(report.table.dollars_per_month, 4)
    return shown


def card_metadata(card: ModelCard) -> Metadata:
    """Return what the UI shows of a card: the model, the served predictions, and their distributions."""
    shown: Metadata = {
        **_model_metadata(card.metadata, card.columns),
        "releases": ", ".join(card.releases),
        "environments": ", ".join(card.environments),
        "dagster/row_count": card.molecules,
        "shards": f"{len(card.shards)} of {card.n_shards}",
        "quarantined": card.quarantined,
        "emptied_cells": count_cells(card.emptied),
        **_size_metadata(card),
    }
    if card.deterministic is not None:
        shown["deterministic"] = card.deterministic
    if card.example is not None:
        shown["example"] = card.example
    if card.runner_hours is not None and card.dollars is not None:
        shown["runner_hours"] = round(card.runner_hours, 3)
        shown["dollars"] = round(card.dollars, 2)
    if card.adopted:
        shown["computed"] = str(card.adopted)
    if card.distributions:
        shown["distributions"] = dg.MetadataValue.md(_distribution_table(card.distributions, len(card.columns)))
    return shown


def hub_metadata(registry: HubRegistry, changes: Sequence[str], platform: Platform) -> Metadata:
    """Return what the UI shows of the hub's registry: counts, changes, and the table of models."""
    rows = [model.row(platform.settings) for model in registry.models]
    return {
        "dagster/row_count": len(rows),
        "dagster/uri": platform.uri(HUB_MODELS),
        "source": registry.source,
        "computable": len(registry.computable(platform.settings)),
        "unreadable": len(registry.unreadable),
        "changes": "; ".join(changes) or "none",
        "models": markdown_table([*rows[0]] if rows else (), ([*row.values()] for row in rows)),
    }


def _model_metadata(metadata: ModelMetadata, columns: Sequence[Column]) -> Metadata:
    texts = {"license": metadata.license, "tags": ", ".join(metadata.tags)}
    links = {"publication": metadata.publication, "source_code": metadata.source_code}
    shown: Metadata = {
        "title": metadata.title,
        "description": dg.MetadataValue.md(html.escape(metadata.description, quote=False)),
        "columns": len(columns),
        "dagster/column_schema": table_schema(columns),
        **{name: text for name, text in texts.items() if text},
    }
    for name, text in links.items():
        is_url = text.startswith(("https://", "http://"))
        if text:
            shown[name] = dg.MetadataValue.url(text) if is_url else dg.MetadataValue.text(text)
    return shown


def _size_metadata(measured: CanaryReport | ModelCard) -> Metadata:
    shown: Metadata = {}
    if measured.peak_memory:
        shown["peak_memory_mb"] = round(measured.peak_memory / (1 << 20))
    if measured.bytes_per_molecule:
        shown["bytes_per_molecule"] = round(measured.bytes_per_molecule)
    return shown


def _distribution_table(distributions: Sequence[Distribution], columns: int) -> str:
    """Return a Markdown table with a row per shown column, of so many; its bars are inline images."""
    rows = ["| column | distribution | from | median | to | null |", "|---|---|--:|--:|--:|--:|"]
    for each in distributions:
        figures = ("" if value is None else f"{value:,.4g}" for value in (each.minimum, each.median, each.maximum))
        rows.append(f"| {' | '.join((_plain(each.column), _values(each), *figures, f'{each.nulls:,}'))} |")
    if columns > len(distributions):
        rows += ["", f"The first {len(distributions)} of {columns:,} columns."]
    return "\n".join(rows)


def _values(distribution: Distribution) -> str:
    if not any(isinstance(value, str) for value in distribution.values):
        return _image("bars", _draw(distribution))
    total = sum(distribution.counts) + distribution.others
    shown = zip(distribution.values[:3], distribution.counts, strict=False)
    return ", ".join(f"{_plain(str(value)) or '(empty)'} {count / total:.0%}" for value, count in shown)


def _image(alternative: str, svg: str) -> str:
    return f"![{alternative}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"


def _draw(distribution: Distribution) -> str:
    plot = draw(distribution)
    bars = "".join(f"M{bar.x} {bar.y}h{bar.w}v{bar.h}h-{bar.w}z" for bar in plot.bars)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {_SIZE} viewBox="0 0 {plot.width} {plot.height}">'
        f'<path fill="{_COLOUR}" d="{bars}"/></svg>'
    )


def _plain(text: str) -> str:
    """Escape a text for Markdown."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|~" else letter for letter in escaped)
