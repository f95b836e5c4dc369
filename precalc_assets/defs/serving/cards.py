"""A model's card as the UI shows it: the model, the served predictions, and their distributions."""

import dagster as dg

from precalc_assets.cards import ModelCard
from precalc_assets.cards.markdown import distribution_table
from precalc_assets.defs.model_description import Metadata, model_metadata


def card_metadata(card: ModelCard) -> Metadata:
    """Return a card's metadata for its event."""
    shown: Metadata = {
        **model_metadata(card.metadata, card.columns),
        "releases": ", ".join(card.releases),
        "environments": ", ".join(card.environments),
        "dagster/row_count": card.molecules,
        "shards": f"{len(card.shards)} of {card.n_shards}",
        "quarantined": card.quarantined,
    }
    if card.deterministic is not None:
        shown["deterministic"] = card.deterministic
    if card.example is not None:
        shown["example"] = card.example
    if card.peak_memory:
        shown["peak_memory_mb"] = round(card.peak_memory / (1 << 20))
    if card.bytes_per_molecule:
        shown["bytes_per_molecule"] = round(card.bytes_per_molecule)
    if card.adopted:
        shown["computed"] = str(card.adopted)
    if card.distributions:
        shown["distributions"] = dg.MetadataValue.md(distribution_table(card.distributions))
    return shown
