"""The card of a model: what readers see of it, and how that is gathered and drawn.

The Lambda imports this package to read cards (`model_card`) and to draw them (`plots`), so nothing heavy is imported
here; `publishing` gathers cards and puts them into the registry, and `distributions` counts their values.
"""

from precalc_assets.cards.model_card import (
    PLOTTED_COLUMNS,
    Distribution,
    ModelCard,
    find_card,
    name_variation,
    publish_card,
    read_card,
)

__all__ = ["PLOTTED_COLUMNS", "Distribution", "ModelCard", "find_card", "name_variation", "publish_card", "read_card"]
