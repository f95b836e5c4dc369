"""The checks of a model's card. Those of shards are made where the shards are, and recorded by `recording`."""

import dagster as dg

from precalc_assets.cards import ModelCard

CARD_CHECKS = {
    "coverage": "every shard is in the table",
    "one_release": "all shards in the table are of one release",
}
"""The checks of a model's card, none of which keeps it from being published: name and promise."""


def card_results(card: ModelCard) -> list[dg.AssetCheckResult]:
    """Return the checks of a card."""
    return [
        _warning("coverage", f"{len(card.shards)} of {card.n_shards} shards are in the table", passed=card.covered),
        _warning("one_release", f"releases: {', '.join(card.releases) or 'none'}", passed=len(card.releases) <= 1),
    ]


def _warning(name: str, found: str, *, passed: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=found)
