"""Settling an execution: which shards its run has landed, and why the others did not land.

Manifests are the truth: a shard has landed if its manifest is there, whatever became of its job, and a successful job
without a manifest has failed.
"""

import obstore

from precalc_assets import storage
from precalc_assets.executions.compute_backend import Engine
from precalc_assets.executions.protocol import Look
from precalc_assets.executions.records import CANCELLED, SAMPLE, VANISHED, Execution, Settled
from precalc_assets.inference import find_report
from precalc_assets.inference.parts import has_parts, outcome
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions import find_manifest


def find_landed(engine: Engine, model: str, shard: str) -> ShardOutcome | None:
    """Return the outcome of a shard whose raw predictions are there, of this library and of the canary's release.

    The outcome is a failure if too many molecules are quarantined. Raises ShardError if the manifest is damaged.
    """
    manifest = find_manifest(engine.store, model, shard)
    if manifest is None or manifest.shard_digest != engine.library.shards[shard].digest:
        return None
    canary = find_report(engine.store, model)
    if canary and not canary.is_of(manifest.release, manifest.columns):
        return None
    return outcome(manifest, engine.settings.max_failure_rate) if has_parts(engine.store, manifest) else None


def conclude(engine: Engine, execution: Execution, look: Look) -> Settled:
    """Return how an execution ended whose run has ended, or is gone."""
    intent, status = execution.intent, look.status
    ended = (status.conclusion if status else None) or VANISHED
    cancelled = execution.cancellation.read() is not None
    landed: list[str] = []
    unfinished: list[str] = []
    failures: dict[str, str] = {}
    for item in intent.items:
        report = execution.shard_report(item).read()
        found = _find_item(engine, intent.model, item, succeeded=ended == "success" and report is None)
        if found and found.landed:
            landed.append(item)
        elif found:
            failures[item] = found.failure
        elif report and report.unfinished:
            unfinished.append(item)
        else:
            failures[item] = report.failure if report else _why_not(item, look)
    if unfinished and (cancelled or not (landed or _has_progressed(execution))):
        why = "there was no time to finish a batch, nor was there the time before"
        failures |= dict.fromkeys(unfinished, "it was cancelled" if cancelled else why)
        unfinished = []
    began = [job.started_at for job in look.jobs if job.started_at]
    queued = (min(began) - status.created_at).total_seconds() if status and began else 0.0
    return Settled(
        conclusion=CANCELLED if cancelled else ended,
        url=status.run.url if status else "",
        jobs=look.jobs,
        landed=tuple(landed),
        unfinished=tuple(unfinished),
        failures=failures,
        queue_seconds=max(0.0, queued),
        runner_seconds=sum(job.runner_seconds for job in look.jobs),
        settled_at=engine.now(),
    )


def _find_item(engine: Engine, model: str, item: str, *, succeeded: bool) -> ShardOutcome | None:
    """Return the outcome of a shard that is there; a canary's report counts if its run `succeeded`."""
    if item == SAMPLE:
        return ShardOutcome(SAMPLE) if succeeded and find_report(engine.store, model) else None
    try:
        return find_landed(engine, model, item)
    except ShardError as error:
        return ShardOutcome(item, failure=str(error))


def _why_not(item: str, look: Look) -> str:
    if look.status is None:
        return "its run is gone, and there are no raw predictions"
    run = look.status.run
    job = next((job for job in look.jobs if item in job.shards), None)
    if job is None:
        return f"its run ended ({look.status.conclusion}) without a job for it: {run.url}"
    return f"its job ended ({job.status}) without raw predictions: {job.url or run.url}"


def _has_progressed(execution: Execution) -> bool:
    """Return whether anything was computed for an execution's shards since it was opened."""
    intent = execution.intent
    return any(
        entry["last_modified"] >= intent.created_at
        for shard in intent.shards
        for chunk in obstore.list(execution.store, storage.raw_prefix(intent.model, shard))
        for entry in chunk
    )
