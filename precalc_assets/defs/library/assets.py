"""The assets of the group `library`: the molecules that every model is run over."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from precalc_assets.defs.asset_checks import AssetChecks
from precalc_assets.defs.library.checks import LIBRARY_CHECKS, library_check_results
from precalc_assets.defs.partitions import shards
from precalc_assets.defs.recording import Event, Recorder, clear_failures
from precalc_assets.defs.resources import Platform
from precalc_assets.library import build_library, ensure_source, fetch_source
from precalc_assets.predictions import LIBRARY_SHARD_CHECKS, load_library_shards
from precalc_assets.storage import LIBRARY_MANIFEST, REJECTED

SHARD_CHECKS = AssetChecks(dg.AssetKey("library_shards"), LIBRARY_SHARD_CHECKS, shards)


@dg.asset(
    group_name="library",
    kinds={"rdkit", "parquet"},
    description="The input file, parsed by RDKit, keyed by InChIKey, de-duplicated and cut into shards by hash. "
    "Rejected rows are kept with their reason. Without a file in the store, the NCI set of the rdkit package is used.",
    check_specs=[
        dg.AssetCheckSpec(name, asset="reference_library", description=promise, blocking=True)
        for name, promise in LIBRARY_CHECKS.items()
    ],
)
def reference_library(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Build the library from the file in the store."""
    with clear_failures():
        settings = platform.settings
        ensure_source(platform.store)
        with TemporaryDirectory(prefix="precalc-") as folder:
            source = fetch_source(platform.store, Path(folder))
            manifest = build_library(platform.store, source, n_shards=settings.n_shards, processes=settings.processes)
        context.log.info(
            f"{manifest.molecules} molecules in {manifest.n_shards} shards, {manifest.rejected} rows rejected"
        )
        yield dg.MaterializeResult(
            metadata={
                "dagster/row_count": manifest.molecules,
                "dagster/uri": platform.uri(LIBRARY_MANIFEST),
                "source": manifest.source,
                "rejected_rows": platform.uri(REJECTED),
                "rows": manifest.rows,
                "rejected": manifest.rejected,
                "duplicates": manifest.duplicates,
                "seconds": manifest.seconds,
            },
            data_version=dg.DataVersion(manifest.digest),
            check_results=library_check_results(manifest),
        )


@dg.asset(
    deps=[reference_library],
    partitions_def=shards,
    group_name="library",
    kinds={"parquet"},
    description="One Parquet file of molecules per shard, and the library's own table, from which readers get SMILES.",
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=dg.AutomationCondition.eager(),
    check_specs=SHARD_CHECKS.specs(),
)
def library_shards(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Event]:
    """Verify each shard's molecules and load them into the library's table."""
    with clear_failures():
        library = platform.library()
        recorder = Recorder(context, platform, "reference_library", SHARD_CHECKS)
        yield from recorder.record(
            load_library_shards(platform.store, platform.tables, library, context.partition_keys)
        )
        yield from recorder.conclude()
