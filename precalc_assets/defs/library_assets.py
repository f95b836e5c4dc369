"""The assets of the group `library`: the molecules that every model is run over."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from precalc_assets.defs.asset_checks import check_outputs
from precalc_assets.defs.checks import LIBRARY, LIBRARY_SHARDS, library_checks
from precalc_assets.defs.partitions import ShardPartitions
from precalc_assets.defs.recording import Event, Recorder, own_step
from precalc_assets.library.build import build_library
from precalc_assets.platform import Platform
from precalc_assets.predictions.loading import load_library_shards
from precalc_assets.storage import LIBRARY_MANIFEST


def library_assets(partitions: ShardPartitions, days: int) -> list[dg.AssetsDefinition]:
    """Return the library as a whole, and its shards, one partition each.

    Dagster's daemon warns if the library was not materialised for so many days, unless they are 0.
    """
    warn = timedelta(days=days)

    @dg.asset(
        group_name="library",
        pool="library",
        kinds={"rdkit", "parquet"},
        description="The input file, parsed by RDKit, keyed by InChIKey, de-duplicated and cut into shards by hash, as "
        "canonical SMILES. Rejected rows are kept with their reason. Without a file in the store, the NCI set of the "
        "rdkit package is used.",
        check_specs=LIBRARY.specs(),
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=2 * warn, warn_window=warn) if days else None,
    )
    def reference_library(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Build the library from the file in the store."""
        with own_step(context):
            settings = platform.settings
            manifest = build_library(platform.store, None, n_shards=settings.n_shards, processes=settings.processes)
            context.log.info(
                f"{manifest.molecules} molecules in {manifest.n_shards} shards, {manifest.rejected} rows rejected"
            )
            yield dg.MaterializeResult(
                metadata={
                    "dagster/row_count": manifest.molecules,
                    "dagster/uri": platform.uri(LIBRARY_MANIFEST),
                    "source": manifest.source,
                    "rejected_rows": platform.uri(manifest.rejected_file),
                    "other_forms_rows": platform.uri(manifest.other_forms_file),
                    "rows": manifest.rows,
                    "rejected": manifest.rejected,
                    "duplicates": manifest.duplicates,
                    "other_forms": manifest.other_forms,
                    "seconds": manifest.seconds,
                },
                data_version=dg.DataVersion(manifest.digest),
            )
            checks = library_checks(manifest)
            yield from LIBRARY.evaluations_of_whole(context.instance, checks)
            broken = [f"check {check.name} failed: {check.description}" for check in checks if not check.passed]
            if broken:
                raise dg.Failure(description="\n".join(broken), allow_retries=False)
            yield from check_outputs(context)

    @dg.asset(
        deps=[reference_library],
        partitions_def=partitions.shards,
        group_name="library",
        pool="library",
        kinds={"parquet"},
        description="One Parquet file of molecules per shard, and the library's own table, from which readers get "
        "SMILES.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=dg.AutomationCondition.eager(),
        check_specs=LIBRARY_SHARDS.specs(partitions.shards),
    )
    def library_shards(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
        """Verify each shard's molecules and load them into the library's table."""
        with own_step(context):
            library = platform.library()
            recorder = Recorder(context, platform, "reference_library", LIBRARY_SHARDS)
            for outcome in load_library_shards(platform.store, platform.tables, library, context.partition_keys):
                yield from recorder.record(outcome)
            yield from recorder.conclude()

    return [reference_library, library_shards]
