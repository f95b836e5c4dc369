"""What is promised of the reference library as a whole."""

import dagster as dg

from precalc_assets.library import LibraryManifest

LIBRARY_CHECKS = {
    "parse_rate": "at least nine tenths of the rows are molecules that RDKit can read",
    "unique_keys": "every row is a molecule of a shard, a duplicate of one, or rejected; none is lost",
}

_LOWEST_PARSE_RATE = 0.9
"""Below, the file is more likely to be of another kind than to be dirty."""


def library_check_results(manifest: LibraryManifest) -> list[dg.AssetCheckResult]:
    """Evaluate the library's checks."""
    rate = 1 - manifest.rejected / manifest.rows
    accounted = manifest.molecules + manifest.duplicates + manifest.rejected
    return [
        dg.AssetCheckResult(
            check_name="parse_rate",
            passed=rate >= _LOWEST_PARSE_RATE,
            description=f"{rate:.2%} of {manifest.rows} rows parsed",
            metadata={"parse_rate": rate},
        ),
        dg.AssetCheckResult(
            check_name="unique_keys",
            passed=accounted == manifest.rows,
            description=f"{manifest.molecules} molecules, {manifest.duplicates} duplicates and {manifest.rejected} "
            f"rejected are {accounted} of {manifest.rows} rows",
        ),
    ]
