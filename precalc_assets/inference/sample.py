"""The canary: a model on the library's first molecules by shard hash, in a place of its own."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
import polars as pl
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.errors import ModelError
from precalc_assets.inference.batching import GaveUpError, PatientCaller
from precalc_assets.inference.runner import ModelRunner
from precalc_assets.library import LibraryManifest, read_sample
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions import PredictionsWriter, Provenance, broken_check, predictions_schema, read_records
from precalc_assets.progress import OnProgress, ignore_progress

SAMPLE = "sample"
"""Stands where a shard's key does: a sample marks no shard as done."""


def predict_sample(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    runner: ModelRunner,
    size: int,
    *,
    batch_size: int,
    on_progress: OnProgress = ignore_progress,
) -> ShardOutcome:
    """Run the model over the first `size` molecules and put validated predictions at `samples/model=….parquet`.

    Raises ModelError if the model answers no molecule, or something else than it declares.
    """
    started = time.perf_counter()
    molecules = pl.DataFrame(pl.from_arrow(read_sample(library=library, store=store, n=size)))
    provenance = Provenance(
        model=model,
        release=runner.release,
        shard=SAMPLE,
        n_shards=library.n_shards,
        shard_digest=library.digest,
        raw_digest="",
        quarantined=0,
        columns=runner.columns,
    )
    quarantined, why = 0, ""
    name = storage.sample(model)
    with TemporaryDirectory(prefix="precalc-") as folder, runner:
        path = Path(folder) / "sample.parquet"
        writer = PredictionsWriter(path, provenance)
        caller = PatientCaller(model, runner)
        for start in range(0, molecules.height, batch_size):
            batch = molecules.slice(start, batch_size)
            (answer,) = caller.answer([batch["smiles"].to_list()])
            if isinstance(answer, GaveUpError):
                raise ModelError(f"the sample of {model}: {answer}")
            frame = batch.hstack(read_records(answer.records, runner.columns)[0].get_columns())
            broken = broken_check(frame, predictions_schema(runner.columns, batch["inchikey"]))
            if broken:
                raise ModelError(f"the sample of {model}: {broken[1]}")
            writer.write(frame)
            quarantined += len(answer.failures)
            why = next(iter(answer.failures.values()), why)
            on_progress(batch.height, len(answer.failures))
        writer.close()
        if quarantined and quarantined == molecules.height:
            raise ModelError(f"the sample of {model}: it answers none of {quarantined} molecules: {why}")
        obstore.put(store, name, path)
        size_bytes = path.stat().st_size
    seconds = time.perf_counter() - started
    return ShardOutcome(
        SAMPLE,
        digest=f"{library.digest}-{runner.release}-{molecules.height}",
        columns=runner.columns,
        facts={
            "rows": molecules.height,
            "quarantined": quarantined,
            "bytes": size_bytes,
            "path": name,
            "release": runner.release,
            "seconds": round(seconds, 3),
            "milliseconds_per_molecule": round(1000 * seconds / max(1, molecules.height), 3),
        },
    )
