"""The checks of the group, and the evaluation of the whole library's checks."""

import dagster as dg

from precalc_assets.defs.asset_checks import AssetChecks
from precalc_assets.library import LibraryManifest
from precalc_assets.outcomes import Check
from precalc_assets.predictions import LIBRARY_SHARD_CHECKS

LIBRARY = AssetChecks(
    dg.AssetKey("reference_library"),
    {
        "parse_rate": "at least nine tenths of the rows are molecules that RDKit can read",
        "unique_keys": "every row is a molecule of a shard, a duplicate of one, or rejected; none is lost",
    },
)
LIBRARY_SHARDS = AssetChecks(dg.AssetKey("library_shards"), LIBRARY_SHARD_CHECKS)

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
