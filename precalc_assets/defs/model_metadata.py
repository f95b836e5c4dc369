"""What the UI shows of a model itself, at every asset that is by model."""

import html
from collections.abc import Sequence

import dagster as dg

from precalc_assets.columns import Column
from precalc_assets.defs.recording import table_schema

Metadata = dict[str, dg.MetadataValue | str | int | float | bool]


def model_metadata(
    *,
    title: str,
    description: str,
    tags: Sequence[str],
    license: str,  # noqa: A002 - the hub's word
    publication: str,
    source_code: str,
    columns: Sequence[Column],
) -> Metadata:
    """Return a model's metadata for an event. Models are other people's: of their Markdown no HTML is left."""
    shown = {"license": license, "tags": ", ".join(tags)}
    links = {"publication": publication, "source_code": source_code}
    return {
        "title": title,
        "description": dg.MetadataValue.md(html.escape(description, quote=False)),
        "columns": len(columns),
        "dagster/column_schema": table_schema(columns),
        **{name: text for name, text in shown.items() if text},
        **{name: _link(text) for name, text in links.items() if text},
    }


def _link(text: str) -> dg.MetadataValue:
    return dg.MetadataValue.url(text) if text.startswith(("https://", "http://")) else dg.MetadataValue.text(text)
