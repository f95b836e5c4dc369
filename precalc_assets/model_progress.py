"""How far a model is: what the store and its table have of each shard, for `precalc status` and `hub_status`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from precalc_assets.catalogue import CatalogueEntry, read_entry
from precalc_assets.inference.parts import outcome
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.outcomes import reason
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import PrecalcError, TableError
from precalc_assets.predictions.canary_report import CanaryReport, find_report
from precalc_assets.predictions.shard_manifest import RawManifest, find_manifest
from precalc_assets.storage import list_sizes, predictions
from precalc_assets.tables import KeyValueStore

SERVED, PREDICTED, COMPUTED, FAILED, MISSING = "table", "predictions", "raw predictions", "failed", "missing"
"""How far a shard is."""

_AT_ONCE = 8
"""Models whose manifests are read at the same time: a bucket takes some 30 ms for each."""


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """What there is of a model. `manifests` has all raw predictions, `failed` why some of them cannot be used.

    `predicted` are the shards with a Parquet file. `entry` is None without a loaded shard.
    """

    model: str
    shards: tuple[str, ...]
    report: CanaryReport | None
    manifests: Mapping[str, RawManifest]
    failed: Mapping[str, str]
    predicted: tuple[str, ...]
    entry: CatalogueEntry | None

    @property
    def raw(self) -> dict[str, RawManifest]:
        """The shards with raw predictions that can be used."""
        return {shard: manifest for shard, manifest in self.manifests.items() if shard not in self.failed}

    @property
    def served(self) -> tuple[str, ...]:
        """The shards in the table."""
        return tuple(shard for shard in self.shards if self.entry and shard in self.entry.directories)

    @property
    def complete(self) -> bool:
        """Whether readers see every shard."""
        return len(self.served) == len(self.shards)

    @property
    def quarantined(self) -> int:
        """The molecules that the model could not answer."""
        return sum(manifest.quarantined for manifest in self.manifests.values())

    @property
    def runner_hours(self) -> float:
        """The hours that machines have computed what there is."""
        return sum(manifest.seconds_in_all for manifest in self.manifests.values()) / 3600

    def stages(self) -> list[str]:
        """Return how far each shard is, in order."""
        has = {FAILED: self.failed, SERVED: self.served, PREDICTED: self.predicted, COMPUTED: self.manifests}
        return [next((stage for stage in has if shard in has[stage]), MISSING) for shard in self.shards]

    def failures(self) -> list[str]:
        """Return why the canary failed, or why shards did."""
        if self.report and self.report.broken:
            return [f"canary: {check.name}: {check.description}" for check in self.report.broken]
        return [*self.failed.values()]


def find_progress(platform: Platform, model: str, library: LibraryManifest | None = None) -> ModelProgress:
    """Look up how far a model is. Raises LibraryError if there is no library."""
    store, shards = platform.store, (library or platform.library()).shards
    manifests: dict[str, RawManifest] = {}
    failed: dict[str, str] = {}
    for shard in shards:
        try:
            manifest = find_manifest(store, model, shard)
        except PrecalcError as error:
            failed[shard] = reason(error)
            continue
        if manifest:
            manifests[shard] = manifest
            failure = outcome(manifest, platform.settings.max_failure_rate).failure
            failed |= {shard: failure} if failure else {}
    listed = list_sizes(store, f"predictions/model={model}")
    return ModelProgress(
        model=model,
        shards=tuple(shards),
        report=find_report(store, model),
        manifests=manifests,
        failed=failed,
        predicted=tuple(shard for shard in shards if predictions(model, shard) in listed),
        entry=find_entry(platform.tables, model),
    )


def find_all_progress(platform: Platform, models: Sequence[str]) -> list[ModelProgress]:
    """Look up how far these models are. Raises LibraryError if there is no library."""
    library = platform.library()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [*pool.map(lambda model: find_progress(platform, model, library), models)]


def find_entry(tables: KeyValueStore, model: str) -> CatalogueEntry | None:
    """Return what is known of a model's table, or None if there is no table, or a damaged one, or no shard in it."""
    try:
        entry = read_entry(tables, model)
    except TableError:
        return None
    return entry if entry.directories else None
