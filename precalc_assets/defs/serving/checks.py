"""The checks of the group, and the evaluation of a card's. `precalc_assets.predictions` evaluates those of shards."""

import dagster as dg

from precalc_assets.cards import ModelCard
from precalc_assets.defs.asset_checks import AssetChecks, Finding
from precalc_assets.outcomes import Check
from precalc_assets.predictions import PREDICTION_CHECKS, PREDICTION_WARNINGS, TABLE_CHECKS

PREDICTIONS = AssetChecks(dg.AssetKey("predictions"), PREDICTION_CHECKS, PREDICTION_WARNINGS)
TABLE = AssetChecks(dg.AssetKey("prediction_table"), TABLE_CHECKS)

_CARD_CHECKS = {
    "coverage": "every shard is in the table",
    "one_release": "all shards in the table are of one release",
    "one_environment": "all shards of a release were computed in one environment",
}
"""All of them are warnings: a card is published anyway."""

CARD = AssetChecks(dg.AssetKey("model_card"), _CARD_CHECKS, _CARD_CHECKS)


def card_finding(card: ModelCard) -> Finding:
    """Evaluate the checks of a card."""
    shards = f"{len(card.shards)} of {card.n_shards} shards are in the table"
    releases = f"releases: {', '.join(card.releases) or 'none'}"
    environments = f"environments: {', '.join(card.environments) or 'unknown'}"
    checks = (
        Check("coverage", card.covered, shards),
        Check("one_release", len(card.releases) <= 1, releases),
        Check("one_environment", len(card.environments) <= max(1, len(card.releases)), environments),
    )
    return Finding(checks, {})
