"""Runs of the graph in this process, stage after stage: what `precalc run` and the job `precalculate_model` share.

After a backfill of raw predictions, the rest follows when the daemon ticks. Here nothing waits for a tick.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple
from uuid import uuid4

import dagster as dg

from precalc.identifiers import is_model_id
from precalc_assets.defs.dagster_internals import (
    MAX_RETRIES_TAG,
    InMemoryJob,
    RegisteredCodeLocationOrigin,
    RemoteRepositoryOrigin,
    RunFailureReason,
    execute_run_iterator,
)
from precalc_assets.defs.dead_runs import CODE_LOCATION, STAGE_TAGS, process_tags, settle_dead_runs
from precalc_assets.defs.partitions import MODELS, partition_key, range_tags
from precalc_assets.inference.canary import CANARY_SIZE
from precalc_assets.inference.opening import open_model
from precalc_assets.platform import Platform
from precalc_assets.sharding import contiguous_ranges

STAGES = ("raw_predictions", "predictions", "prediction_table")
"""The assets of a model's shards; each depends on the one before."""

_ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(CODE_LOCATION), "__repository__")
"""Where Dagster finds the job of these runs. Without it, they are not in the UI's timeline and cannot be repeated."""

PARENT_TAG = "precalc/parent"
"""The tag of a run that another run has started in its own process. Its value is that run's id."""


class OwnRun(NamedTuple):
    """A run that has ended: its asset and model, the partitions that it recorded, their rows, and why it failed."""

    run_id: str
    what: str
    landed: tuple[str, ...]
    rows: int
    seconds: float
    failure: str

    def __str__(self) -> str:
        count = len(self.landed) or int(not self.failure)
        return f"{self.what}: {count} materialized, {self.rows:,} rows, {self.seconds:.1f} s"


class OwnRuns:
    """Starts runs of a graph's assets in this process. Subclasses show their progress."""

    def __init__(
        self, platform: Platform, job: dg.JobDefinition, instance: dg.DagsterInstance, tags: Mapping[str, str]
    ) -> None:
        self.platform = platform
        self.instance = instance
        self._job = job
        self._tags = tags

    def showing(self, what: str, molecules: int) -> AbstractContextManager[object]:  # noqa: ARG002
        """Return a context in which a stage over so many molecules runs."""
        return nullcontext()

    def tell(self, what: str, run_id: str) -> None:
        """Tell of a run that waits or has ended."""

    def precalculate(self, model: str, shards: Sequence[str], config: Mapping[str, object]) -> list[str]:
        """Add a model, run its canary if its release has not passed one, then its shards and its card.

        `config` is that of canary and raw predictions. Returns why runs failed. Raises as `open_model` and `library`.
        """
        folder = open_model(model, self.platform.settings)
        self.platform.library()
        self.instance.add_dynamic_partitions(MODELS, [model])
        if not self.platform.has_passed_canary(folder, CANARY_SIZE):
            failure = self.run_canary(model, CANARY_SIZE, config)
            if failure:
                return [failure]
        return self._run_stages(model, shards, config)

    def run_canary(self, model: str, size: int, config: Mapping[str, object]) -> str:
        """Materialize a model's sample predictions. Returns why the run failed, or an empty string."""
        with self.showing(f"sample_predictions {model}", 2 * min(size, self.platform.library().molecules)):
            return self.materialize("sample_predictions", model, model, {**config, "size": size}).failure

    def _run_stages(self, model: str, shards: Sequence[str], config: Mapping[str, object]) -> list[str]:
        """Materialize shards stage by stage, then its card; a shard that fails a stage skips the next ones."""
        library = self.platform.library()
        left, failures = list(shards), []
        for stage in STAGES:
            landed: set[str] = set()
            with self.showing(f"{stage} {model}", sum(library.shards[shard].rows for shard in left)):
                for part in contiguous_ranges(left):
                    first, last = (partition_key(model, shard) for shard in (part[0], part[-1]))
                    run = self.materialize(stage, first, last, config if stage == STAGES[0] else None)
                    landed |= set(run.landed)
                    failures.append(run.failure)
            left = [shard for shard in left if partition_key(model, shard) in landed]
        if left:
            failures.append(self.materialize("model_card", model, model).failure)
        return [failure for failure in failures if failure]

    def materialize(
        self, asset: str, first: str = "", last: str = "", config: Mapping[str, object] | None = None
    ) -> OwnRun:
        """Materialize an asset's partitions from first to last, with the configuration of its op."""
        run_id = str(uuid4())
        model = first.partition("|")[0] if is_model_id(first.partition("|")[0]) else ""
        tags = {**self._tags, **process_tags(run_id), **({"model": model, **STAGE_TAGS} if model else {})}
        tags |= range_tags(first, last) if first else {}
        started = time.perf_counter()
        created = self.instance.create_run_for_job(
            self._job,
            run_id=run_id,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {asset: {"config": dict(config)}} if config else {},
            },
            asset_selection={dg.AssetKey(asset)},
            # Whoever started the command starts it again; the daemon would do so beside them.
            tags=tags | {MAX_RETRIES_TAG: "0"},
            remote_job_origin=_ORIGIN.get_job_origin(self._job.name),
        )
        events: list[dg.DagsterEvent] = []
        for event in execute_run_iterator(InMemoryJob(self._job), created, self.instance):
            events.append(event)
            pool = event.engine_event_data.metadata.get("pool") if event.is_engine_event else None
            if pool:
                self._explain_wait(f"{asset} {model}".strip(), str(pool.value), run_id)
        end = events[-1]
        why = end.job_failure_data.failure_reason if end.is_job_failure else None
        if not end.is_job_success and why in (None, RunFailureReason.UNEXPECTED_TERMINATION):
            raise KeyboardInterrupt
        failures = [event for event in events if event.is_step_failure]
        # A run of shards also records a canary that Dagster has no record of.
        recorded = [event.step_materialization_data for event in events if event.is_step_materialization]
        landed = [event.materialization for event in recorded if event.materialization.asset_key == dg.AssetKey(asset)]
        counts = [entry.metadata["dagster/row_count"].value for entry in landed]
        run = OwnRun(
            run_id,
            f"{asset} {model}".strip(),
            tuple(entry.partition for entry in landed if entry.partition),
            sum(count for count in counts if isinstance(count, int)),
            time.perf_counter() - started,
            "" if end.is_job_success else why_failed(failures) or f"run {run_id} failed; see it in the UI",
        )
        self.tell(str(run), run_id)
        return run

    def _explain_wait(self, what: str, pool: str, run_id: str) -> None:
        """Tell which runs have the pool's slots. A dead run gives its slot back here, so that nobody waits for it."""
        settle_dead_runs(self.instance)
        holders = self.instance.event_log_storage.get_concurrency_info(pool).active_run_ids
        if holders:
            self.tell(f"{what}: waits for a slot of the pool {pool}, in use by run {', '.join(holders)}", run_id)


def shorten(text: str, most: int) -> str:
    """Return a reason as it is shown, with a mark if it is cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}…"


def why_failed(events: Iterable[dg.DagsterEvent]) -> str:
    """Return the messages of a run's failed steps, a line or more each."""
    return "\n".join(map(why_step_failed, events))


def why_step_failed(event: dg.DagsterEvent) -> str:
    """Return what a failed step said, or else the cause of its error."""
    said, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
    if said and said.description:
        return said.description
    return f"{event.step_key}: {(error.cause or error).message.strip() if error else 'it failed and gave no reason'}"
