"""The jobs that the sensors start, and the runs of a request, an execution or a campaign: the earlier, and the next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

import dagster as dg

from precalc_assets.defs.dagster_internals import ASSET_PARTITION_RANGE_START_TAG, ROOT_RUN_ID_TAG, WILL_RETRY_TAG
from precalc_assets.defs.partitions import MODELS, partition_key, range_tags
from precalc_assets.executions.following import ATTEMPTS
from precalc_assets.sharding import shard_keys

# A job's assets must have the same partitions.
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
_JOBS = {"sample_predictions": TRY_MODEL, "raw_predictions": COMPUTE_SHARDS}


class Attempts:
    """The runs of an asset that were started for one request, execution or campaign, whose id is in a tag."""

    def __init__(self, asset: str, tag: str, tag_value: str, runs: Sequence[dg.DagsterRun]) -> None:
        self._asset = asset
        self._job = _JOBS[asset].name
        self._tag = tag
        self._tag_value = tag_value
        self._runs = [run for run in runs if run.job_name == self._job]

    @classmethod
    def find(cls, instance: dg.DagsterInstance, asset: str, tag: str, tag_value: str) -> Self:
        """Find the runs by their tag."""
        return cls(asset, tag, tag_value, instance.get_runs(dg.RunsFilter(tags={tag: tag_value})))

    @property
    def made(self) -> int:
        """The number of attempts. An attempt has one run per contiguous range of partitions."""
        ranges = Counter(run.tags.get(ASSET_PARTITION_RANGE_START_TAG) for run in self._runs)
        return max(ranges.values(), default=0)

    @property
    def under_way(self) -> bool:
        """Whether a run has not ended, or Dagster is about to retry it."""
        return any_under_way(self._runs)

    @property
    def done(self) -> bool:
        """Whether the last run succeeded."""
        return bool(self._runs) and self._runs[0].is_success

    @property
    def over(self) -> bool:
        """Whether no more runs may start: the last run was cancelled, or all attempts are used up."""
        cancelled = bool(self._runs) and self._runs[0].status is dg.DagsterRunStatus.CANCELED
        return cancelled or self.made >= ATTEMPTS

    def next_run(self, first: str, last: str, config: Mapping[str, object]) -> dg.RunRequest:
        """Return the next run. Its key counts attempts, since Dagster never runs a key again."""
        return dg.RunRequest(
            run_key=f"{self._tag_value}/{first}/{self.made + 1}",
            job_name=self._job,
            run_config={"ops": {self._asset: {"config": dict(config)}}},
            tags={self._tag: self._tag_value, "model": first.partition("|")[0], **range_tags(first, last)},
        )

    def next_of_shards(self, model: str, n_shards: int) -> dg.RunRequest:
        """Return the next run over all shards of a model."""
        keys = [partition_key(model, shard) for shard in shard_keys(n_shards)]
        return self.next_run(keys[0], keys[-1], {})


def run_and_retries(instance: dg.DagsterInstance, run_id: str) -> list[dg.DagsterRun]:
    """Return a run and Dagster's retries of it, newest first; none if this instance has no such run."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        return []
    again = instance.get_runs(dg.RunsFilter(tags={ROOT_RUN_ID_TAG: run.root_run_id or run_id}))
    return [*again] if run.root_run_id else [*again, run]


def any_under_way(runs: Sequence[dg.DagsterRun]) -> bool:
    """Return whether one of these runs has not ended, or Dagster is about to retry it."""
    retried = {run.parent_run_id for run in runs}
    return any(
        not run.is_finished or (run.tags.get(WILL_RETRY_TAG) == "true" and run.run_id not in retried) for run in runs
    )


def new_models(instance: dg.DagsterInstance, models: set[str]) -> list[dg.AddDynamicPartitionsRequest]:
    """Return the Dagster request that adds partitions for new models, if there are any."""
    new = models.difference(instance.get_dynamic_partitions(MODELS))
    return [dg.AddDynamicPartitionsRequest(MODELS, sorted(new))] if new else []
