"""The interface of compute backends, their errors, and the engine that executions work with.

Each backend is a module of its own: `github`, `slurm`. `protocol` says when a backend is asked for what.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from obstore.store import ObjectStore

from precalc_assets.executions.records import Compute, Intent, Job, Moment, Run
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.inference.parts import find_landed
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import ExecutionError
from precalc_assets.processes import printable
from precalc_assets.settings import Settings


class BackendError(ExecutionError):
    """The backend did not do what it was asked to do."""


class RefusedError(BackendError):
    """The backend refused for good; `status` is its own number for the reason, such as an HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotNowError(BackendError):
    """Nothing was done, and the request may be repeated after `wait`: a rate limit, or the backend was not reached."""

    def __init__(self, message: str, wait: timedelta) -> None:
        super().__init__(message)
        self.wait = wait


class LimitError(NotNowError):
    """A rate limit, which binds all processes of an installation."""


class UnansweredError(BackendError):
    """It is unknown whether it was done: the server failed, or its answer is missing or cannot be read."""


def tail(log: str, lines: int = 20) -> str:
    """Return the last lines of a log, of at most 300 characters each, without control characters."""
    return "\n".join(printable(line) for line in log.rstrip().splitlines()[-lines:])


class RunStatus(FrozenRecord):
    """A run as the backend shows it, with its jobs, each in its last attempt.

    `conclusion` is None until the run has ended: then `success`, or the backend's word for how else it ended.
    """

    run: Run
    conclusion: str | None
    created_at: Moment
    jobs: tuple[Job, ...] = ()


class ComputeBackend(Protocol):
    """A service that computes executions on machines of its own.

    Every method raises NotNowError, UnansweredError, and RefusedError with the backend's own message. A backend
    retries reads by itself, and sends a request that changes something only once.
    """

    def launch(self, intent: Intent) -> Run:
        """Start a run that computes an execution."""

    def look_up(self, intent: Intent) -> Run | None:
        """Return the first run of an execution by its key, None if none is listed. A list may lag behind."""

    def status(self, intent: Intent, run: Run) -> RunStatus | None:
        """Return the status of a run, None if it is gone. Raises RefusedError if the backend refuses to show runs."""

    def read_log(self, intent: Intent, job: Job) -> str:
        """Return the end of what a job of an execution's run has printed, about a screen of it."""

    def cancel(self, intent: Intent, run: Run, *, force: bool = False) -> None:
        """Request the end of a run; with `force`, also of one that ignored a request. An ended run stays as it is."""


@dataclass(frozen=True)
class Engine:
    """What executions work with: store, library and backends. `say` gets the lines that a waiting person reads.

    `open_backend` returns the backend of an execution, which may be another one than that of new ones, `compute`.
    """

    store: ObjectStore
    compute: Compute
    open_backend: Callable[[Compute], ComputeBackend]
    library: LibraryManifest
    settings: Settings
    say: Callable[[str], None] = lambda _: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep

    def find_landed(self, model: str, shard: str) -> ShardOutcome | None:
        """Return the outcome of a shard whose raw predictions are there; see `parts.find_landed`."""
        return find_landed(self.store, self.library, model, shard, self.settings.max_failure_rate)

    def wait_until(self, moment: datetime) -> None:
        """Sleep until a moment; not at all if it is past."""
        self.sleep(max(0.0, (moment - self.now()).total_seconds()))
