"""Decide whether a new release may reuse the predictions of an earlier one.

The hub's rule is that only a MAJOR release changes predictions. The number alone is no proof, so the canary runs the
new release on molecules whose predictions are stored. It must print the same bytes. The report records the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption, same_major
from precalc_assets.columns import Column
from precalc_assets.inference.stored_parts import Row, parse_part
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.shard_manifest import RawManifest, find_manifest

COMPARED = 500
"""Molecules to compare besides the canary's, spread over all shards. If one molecule in a hundred differed, a sample
of this size would miss it once in 150 times."""


def compare_releases(
    store: ObjectStore,
    model: str,
    release: str,
    columns: Sequence[Column],
    shards: Sequence[str],
    canary: Mapping[str, bytes | None],
    ask: Callable[[Sequence[str]], list[bytes | None]],
) -> Adoption | None:
    """Compare a release with the stored predictions of earlier ones of the same MAJOR.

    Returns None if there are none, or if a part is damaged. Predictions that the release has already adopted are not
    compared again. `canary` maps SMILES to the records that the release has printed, None for a molecule that it could
    not answer; `ask` returns such records for further molecules.
    """
    stored = [manifest for manifest in _manifests(store, model, shards) if manifest.columns == tuple(columns)]
    earlier = [manifest for manifest in stored if same_major(manifest.release, release)]
    if not earlier:
        return next((manifest.adopted for manifest in stored if manifest.release == release), None)
    rows: dict[str, Row] = {}
    each = -(-COMPARED // len(earlier))
    try:
        for number, manifest in enumerate(earlier):
            some = _some_rows(store, manifest, number, each)
            spread = some[:: max(1, len(some) // each)][:each]
            rows |= {row.smiles: row for row in [*spread, *(row for row in some if row.smiles in canary)]}
    except (ValueError, FileNotFoundError):
        return None
    more = [smiles for smiles in rows if smiles not in canary]
    printed = {**canary, **dict(zip(more, ask(more), strict=True))}
    differing = [row for row in rows.values() if printed[row.smiles] != (None if row.reason else row.record)]
    return Adoption(
        computed_by=tuple(sorted({release for manifest in earlier for release in manifest.computed_by})),
        molecules=len(rows),
        different=len(differing),
        example=_describe(differing[0], printed) if differing else "",
        compared_at=datetime.now(UTC),
    )


def _manifests(store: ObjectStore, model: str, shards: Sequence[str]) -> Iterator[RawManifest]:
    for shard in shards:
        try:
            manifest = find_manifest(store, model, shard)
        except ShardError:
            continue  # damaged: the shard is computed again in any case
        if manifest and manifest.parts:
            yield manifest


def _some_rows(store: ObjectStore, manifest: RawManifest, number: int, least: int) -> list[Row]:
    """Return the rows of whole parts of a shard: at least `least` rows, if the shard has that many.

    The first part differs from shard to shard: shard `number` begins with its part of that number. So the first shard
    begins with its first part, which holds the canary's molecules.
    Raises ValueError for a damaged part, FileNotFoundError for a missing one.
    """
    rows: list[Row] = []
    start = number % len(manifest.parts)
    for part in (*manifest.parts[start:], *manifest.parts[:start]):
        if len(rows) < least:
            rows += parse_part(storage.read_object(store, part.name))
    return rows


def _describe(row: Row, printed: Mapping[str, bytes | None]) -> str:
    now = printed[row.smiles]
    before, after = (
        "no answer" if record is None else record[:60].decode("utf-8", "replace")
        for record in (None if row.reason else row.record, now)
    )
    return f"{row.smiles}: stored {before}, now {after}"
