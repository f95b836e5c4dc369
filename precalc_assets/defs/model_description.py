"""A model's metadata, as the UI shows them on assets partitioned by model."""

import html
from collections.abc import Sequence

import dagster as dg

from precalc_assets.columns import Column
from precalc_assets.defs.recording import table_schema
from precalc_assets.model_metadata import ModelMetadata

Metadata = dict[str, dg.MetadataValue | str | int | float | bool]


def model_metadata(metadata: ModelMetadata, columns: Sequence[Column]) -> Metadata:
    """Return a model's metadata for an event. Models come from third parties, so HTML in their Markdown is escaped."""
    shown = {"license": metadata.license, "tags": ", ".join(metadata.tags)}
    links = {"publication": metadata.publication, "source_code": metadata.source_code}
    return {
        "title": metadata.title,
        "description": dg.MetadataValue.md(html.escape(metadata.description, quote=False)),
        "columns": len(columns),
        "dagster/column_schema": table_schema(columns),
        **{name: text for name, text in shown.items() if text},
        **{name: _link(text) for name, text in links.items() if text},
    }


def _link(text: str) -> dg.MetadataValue:
    return dg.MetadataValue.url(text) if text.startswith(("https://", "http://")) else dg.MetadataValue.text(text)
