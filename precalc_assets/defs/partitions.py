"""The dimensions of the graph, and how a run's partition keys are read."""

from collections.abc import Iterable

import dagster as dg

from precalc_assets.settings import load_settings
from precalc_assets.sharding import shard_keys

shards = dg.StaticPartitionsDefinition(shard_keys(load_settings().n_shards))
MODELS = "models"
"""The dynamic dimension's name in the instance: a model is added under it, in the UI or by the command line."""

models = dg.DynamicPartitionsDefinition(name=MODELS)
model_shards = dg.MultiPartitionsDefinition({"model": models, "shard": shards})


def partition_key(model: str, shard: str) -> dg.MultiPartitionKey:
    """Return the key of a shard of a model, `eos3b5e|07`."""
    return dg.MultiPartitionKey({"model": model, "shard": shard})


def shards_by_model(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group the keys of a run by model: a range may span several."""
    grouped: dict[str, list[str]] = {}
    for key in keys:
        model, shard = key.split("|")
        grouped.setdefault(model, []).append(shard)
    return grouped
