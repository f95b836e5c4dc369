"""What the jobs of a run say of themselves: which shards each computed, how long it waited and how long it ran."""

import re
from collections.abc import Sequence

from precalc_assets.errors import UsageError
from precalc_assets.executions.github import Job, WorkflowRun
from precalc_assets.executions.records import JobSummary
from precalc_assets.sharding import parse_shards

_JOB_SHARDS = re.compile(r"predict\b.*?(?P<shards>[0-9][0-9,-]*)\)?", re.IGNORECASE)
"""What the workflow calls the jobs that predict: `Predict 00-06,08`."""


def summarise(n_shards: int, jobs: Sequence[Job]) -> tuple[JobSummary, ...]:
    """Return what is kept of jobs."""
    return tuple(
        JobSummary(
            name=job.name,
            url=job.html_url or "",
            conclusion=job.conclusion or job.status,
            shards=computed_shards(n_shards, job),
            queue_seconds=_waited(job),
            runner_seconds=runner_seconds(job),
        )
        for job in jobs
    )


def computed_shards(n_shards: int, job: Job) -> tuple[str, ...]:
    """Return the shards that a job computes, by its name; none for a job that does something else."""
    found = _JOB_SHARDS.fullmatch(job.name)
    if found is None:
        return ()
    try:
        return tuple(parse_shards(found["shards"], n_shards))
    except UsageError:
        return ()


def _has_begun(job: Job) -> bool:
    """Return whether a job has had a runner; one that was skipped or cancelled before has not."""
    return job.status in ("in_progress", "completed") and job.conclusion != "skipped"


def _waited(job: Job) -> float:
    return max(0.0, (job.started_at - job.created_at).total_seconds()) if _has_begun(job) else 0.0


def runner_seconds(job: Job) -> float:
    """Return how long a job had a runner; nothing before it has ended."""
    if not _has_begun(job) or job.completed_at is None:
        return 0.0
    return max(0.0, (job.completed_at - job.started_at).total_seconds())


def queue_seconds(run: WorkflowRun, jobs: Sequence[Job]) -> float:
    """Return how long a run waited for its first runner."""
    began = [job.started_at for job in jobs if _has_begun(job)]
    return max(0.0, (min(began) - run.created_at).total_seconds()) if began else 0.0
