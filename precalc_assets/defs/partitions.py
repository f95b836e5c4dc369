"""The dimensions of the graph, and how partition keys are made and read."""

from collections.abc import Iterable
from typing import NamedTuple

import dagster as dg

from precalc_assets.defs.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from precalc_assets.sharding import shard_keys

MODELS = "models"
"""The dynamic dimension's name in the instance: a model is added under it, in the UI or by the command line."""

models = dg.DynamicPartitionsDefinition(name=MODELS)


class ShardPartitions(NamedTuple):
    """The dimensions that depend on the number of shards."""

    shards: dg.StaticPartitionsDefinition
    model_shards: dg.MultiPartitionsDefinition


def shard_partitions(n_shards: int) -> ShardPartitions:
    """Return the dimensions of a graph with so many shards."""
    shards = dg.StaticPartitionsDefinition(shard_keys(n_shards))
    return ShardPartitions(shards, dg.MultiPartitionsDefinition({"model": models, "shard": shards}))


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


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of a run over the partitions from first to last."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
