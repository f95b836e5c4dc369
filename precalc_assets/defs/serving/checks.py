"""The checks of a model's card. Those of shards are made where the shards are, and recorded by `recording`."""

from collections.abc import Iterator

import dagster as dg

from precalc_assets.cards import ModelCard

CARD_CHECKS = {
    "coverage": "every shard is in the table",
    "one_release": "all shards in the table are of one release",
    "one_environment": "all shards of a release were computed in one environment",
}
"""The checks of a model's card, none of which keeps it from being published: name and promise."""


def card_results(card: ModelCard) -> list[dg.AssetCheckResult]:
    """Return the checks of a card, which Dagster wants from the step that publishes it."""
    return [
        _warning("coverage", f"{len(card.shards)} of {card.n_shards} shards are in the table", passed=card.covered),
        _warning("one_release", f"releases: {', '.join(card.releases) or 'none'}", passed=len(card.releases) <= 1),
        _warning(
            "one_environment",
            f"environments: {', '.join(card.environments) or 'unknown'}",
            passed=len(card.environments) <= max(1, len(card.releases)),
        ),
    ]


def card_evaluations(card: ModelCard, asset: dg.AssetKey) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the checks as they are recorded for the model, in a run of a range, too."""
    for found in card_results(card):
        yield dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=str(found.check_name),
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            blocking=False,
            partition=card.model,
        )


def _warning(name: str, found: str, *, passed: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=found)
