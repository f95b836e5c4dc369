"""Compute backends: what executions ask of one, the errors by which it says that it did not do it, and the engine.

Each backend is a module of its own, such as `github`. When a backend is asked for what is in `protocol`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from obstore.store import ObjectStore

from precalc_assets.executions.records import Intent, Job, Record, Run
from precalc_assets.library import LibraryManifest
from precalc_assets.platform_errors import ExecutionError
from precalc_assets.settings import Settings


class BackendError(ExecutionError):
    """The backend did not do what it was asked for."""


class RefusedError(BackendError):
    """The backend refused for good: nothing was done, and asking again changes nothing.

    `status` is the backend's own number for the reason, such as an HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotNowError(BackendError):
    """Nothing was done, and it may be asked for again after `wait`: a rate limit, or the backend was not reached."""

    def __init__(self, message: str, wait: timedelta) -> None:
        super().__init__(message)
        self.wait = wait


class LimitError(NotNowError):
    """A rate limit, which binds all processes of an installation."""


class UnansweredError(BackendError):
    """Nobody knows whether it was done: the server failed, or its answer did not come or says nothing."""


class RunStatus(Record):
    """A run as the backend shows it.

    `conclusion` is None until the run has ended: then `success`, or the backend's word for how else it ended.
    """

    run: Run
    conclusion: str | None
    created_at: datetime


class ComputeBackend(Protocol):
    """A service that computes executions on machines of its own.

    Every method raises NotNowError and UnansweredError, and RefusedError in the backend's words where it refuses.
    A backend retries reads by itself, and sends a request that changes something once.
    """

    def launch(self, intent: Intent) -> Run:
        """Start a run that computes an execution."""

    def look_up(self, intent: Intent) -> Run | None:
        """Return the first run of an execution by its key, None if none is listed. A list may lag behind."""

    def status(self, intent: Intent, run_id: int) -> RunStatus | None:
        """Return how a run of an execution is, or None if it is gone. Refusing to show runs is a RefusedError."""

    def jobs(self, run_id: int) -> list[Job]:
        """Return the jobs of a run, each in its last attempt."""

    def cancel(self, run_id: int, *, force: bool = False) -> None:
        """Request the end of a run; with `force`, also of one that ignored a request. An ended run stays as it is."""


@dataclass(frozen=True)
class Engine:
    """A compute backend, and the store and the library that it works with.

    `say` gets the lines that a waiting person reads.
    """

    store: ObjectStore
    backend: ComputeBackend
    library: LibraryManifest
    settings: Settings
    say: Callable[[str], None] = lambda _: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep

    def wait_until(self, moment: datetime) -> None:
        """Sleep until a moment; not at all if it is past."""
        self.sleep(max(0.0, (moment - self.now()).total_seconds()))
