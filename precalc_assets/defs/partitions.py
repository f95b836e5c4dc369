"""The graph's partitions, and their keys."""

from collections.abc import Iterable
from typing import NamedTuple

import dagster as dg

from precalc_assets.defs.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from precalc_assets.sharding import shard_keys

MODELS = "models"
"""The name of the dynamic partitions to which the UI and the command line add models."""

models = dg.DynamicPartitionsDefinition(name=MODELS)


class ShardPartitions(NamedTuple):
    """The partitions that depend on the number of shards."""

    shards: dg.StaticPartitionsDefinition
    model_shards: dg.MultiPartitionsDefinition


def shard_partitions(n_shards: int) -> ShardPartitions:
    """Return the partitions of a graph with this number of shards."""
    shards = dg.StaticPartitionsDefinition(shard_keys(n_shards))
    return ShardPartitions(shards, dg.MultiPartitionsDefinition({"model": models, "shard": shards}))


def partition_key(model: str, shard: str) -> dg.MultiPartitionKey:
    """Return the key of a model's shard, such as `eos3b5e|07`."""
    return dg.MultiPartitionKey({"model": model, "shard": shard})


def shards_by_model(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group a run's shards by model: a range of partitions may span several models."""
    grouped: dict[str, list[str]] = {}
    for key in keys:
        model, shard = key.split("|")
        grouped.setdefault(model, []).append(shard)
    return grouped


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of a run over the partitions from first to last."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
