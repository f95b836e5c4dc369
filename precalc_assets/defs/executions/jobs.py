"""The jobs that the sensors start, one per asset: a job's assets must have the same partitions."""

import dagster as dg

TRY_MODEL = dg.define_asset_job(
    "try_model",
    selection="sample_predictions",
    description="Runs a model's canary: the model on a sample of the library, twice.",
)
COMPUTE_SHARDS = dg.define_asset_job(
    "compute_shards",
    selection="raw_predictions",
    description="Computes the raw predictions of a model's shards; the rest follows by automation.",
)
