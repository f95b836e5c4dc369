"""The checks of each asset, and the evaluation of those of the library and of cards.

The work itself evaluates the others: `inference` the canary's, `predictions` those of shards.
"""

import dagster as dg

from precalc_assets.cards.model_card import ModelCard
from precalc_assets.defs.asset_checks import AssetChecks
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.outcomes import Check
from precalc_assets.predictions.canary_report import CANARY_CHECKS, CANARY_WARNINGS
from precalc_assets.predictions.loading import LIBRARY_SHARD_CHECKS, TABLE_CHECKS
from precalc_assets.predictions.validate import PREDICTION_CHECKS, PREDICTION_WARNINGS, RAW_CHECKS, RAW_WARNINGS
from precalc_assets.screening.full_scan import SCREEN_CHECK

_CARD_CHECKS = {
    "coverage": "every shard is in the table",
    "one_release": "all shards in the table are of one release",
    "one_environment": "all shards of a release were computed in one environment",
    **SCREEN_CHECK,
}
"""All of them are warnings: a card is published anyway."""

LIBRARY = AssetChecks(
    dg.AssetKey("reference_library"),
    {
        "parse_rate": "at least nine tenths of the rows are molecules that RDKit can read",
        "unique_keys": "every row is a molecule of a shard, a duplicate of one, or rejected; none is lost",
    },
)
LIBRARY_SHARDS = AssetChecks(dg.AssetKey("library_shards"), LIBRARY_SHARD_CHECKS)
CANARY = AssetChecks(dg.AssetKey("sample_predictions"), CANARY_CHECKS, CANARY_WARNINGS)
RAW = AssetChecks(dg.AssetKey("raw_predictions"), RAW_CHECKS, RAW_WARNINGS)
PREDICTIONS = AssetChecks(dg.AssetKey("predictions"), PREDICTION_CHECKS, PREDICTION_WARNINGS)
TABLE = AssetChecks(dg.AssetKey("prediction_table"), TABLE_CHECKS)
CARD = AssetChecks(dg.AssetKey("model_card"), _CARD_CHECKS, _CARD_CHECKS)

_LOWEST_PARSE_RATE = 0.9
"""Below this rate, the file is probably not a library at all."""


def library_checks(manifest: LibraryManifest) -> list[Check]:
    """Evaluate the library's checks."""
    rate = 1 - manifest.rejected / manifest.rows
    accounted = manifest.molecules + manifest.duplicates + manifest.rejected
    return [
        Check("parse_rate", rate >= _LOWEST_PARSE_RATE, f"{rate:.2%} of {manifest.rows} rows parsed"),
        Check(
            "unique_keys",
            accounted == manifest.rows,
            f"{manifest.molecules} molecules, {manifest.duplicates} duplicates and {manifest.rejected} rejected are "
            f"{accounted} of {manifest.rows} rows",
        ),
    ]


def card_checks(card: ModelCard) -> list[Check]:
    """Evaluate the checks of a card, but for that of screens, which reads the files."""
    shards = f"{len(card.shards)} of {card.n_shards} shards are in the table"
    releases = f"releases: {', '.join(card.releases) or 'none'}"
    environments = f"environments: {', '.join(card.environments) or 'unknown'}"
    return [
        Check("coverage", card.covered, shards),
        Check("one_release", len(card.releases) <= 1, releases),
        Check("one_environment", len(card.environments) <= max(1, len(card.releases)), environments),
    ]
