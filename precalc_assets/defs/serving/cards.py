"""What the UI shows of a model's card: the model, what is served of it, and how its values are distributed."""

from precalc_assets.cards import ModelCard
from precalc_assets.defs.model_metadata import Metadata, model_metadata
from precalc_assets.defs.serving.plots import distribution_table


def card_metadata(card: ModelCard) -> Metadata:
    """Return a card's metadata for its event."""
    shown: Metadata = {
        **model_metadata(
            title=card.title,
            description=card.description,
            tags=card.tags,
            license=card.license,
            publication=card.publication,
            source_code=card.source_code,
            columns=card.columns,
        ),
        "releases": ", ".join(card.releases),
        "dagster/row_count": card.molecules,
        "shards": f"{len(card.shards)} of {card.n_shards}",
        "quarantined": card.quarantined,
    }
    if card.deterministic is not None:
        shown["deterministic"] = card.deterministic
    if card.distributions:
        shown["distributions"] = distribution_table(card.distributions)
    return shown
