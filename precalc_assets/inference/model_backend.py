"""The interface of model backends, with their errors and timeouts. Each backend has its own module."""

import math
import time
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

from precalc_assets.columns import Column
from precalc_assets.settings import Settings

_SHORTEST_CALL = 300.0
"""Minimum timeout of a call in seconds, unless a whole batch has less: loading a model can take minutes."""


class BatchError(Exception):
    """A model did not answer a batch; the message is the model's own. It may still answer parts of the batch."""


class CallTimeoutError(BatchError):
    """A model did not answer a batch within the timeout for a call of its size."""


class TimeIsUpError(Exception):
    """The deadline left no time for the next call, or cut the last one short. No molecule is to blame."""


class ModelBackend(Protocol):
    """A context that prepares a model on entry and stops it on exit, also after a failure."""

    columns: tuple[Column, ...]
    """The outputs, in order; known before entering."""

    release: str
    """The version string that the model reports."""

    environment: str
    """Name of the environment that the model runs in, equal for equal environments; may be empty before entering."""

    def __enter__(self) -> Self:
        """Prepare the model. Raises ModelError if that fails."""
        ...

    def __exit__(self, *error: object) -> None:
        """Stop the model."""
        ...

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """Return the model's output for these molecules: one CSV record each, in order, without the line end.

        A record has the outputs in the order of `columns`, each as the model printed it; an empty cell without quotes
        is "no value". Raises BatchError if the model does not answer all molecules, CallTimeoutError if it does not
        answer in time, ModelError if it cannot answer any batch, TimeIsUpError if it has not answered by the
        `deadline` (of `time.monotonic`).
        """
        ...


@runtime_checkable
class ServedModelBackend(ModelBackend, Protocol):
    """A backend that keeps a server running between calls. The server may become unhealthy."""

    def is_healthy(self) -> bool:
        """Return whether the server runs and reports itself healthy. It need not answer molecules."""
        ...

    def restart(self) -> None:
        """Restart the server. Raises ModelError if it does not come up again."""
        ...


def call_timeout(molecules: int, deadline: float, settings: Settings) -> float:
    """Return the timeout of a call in seconds, in proportion to its size, at most PRECALC_BATCH_TIMEOUT.

    Several batches get no more than one: they are sent together only to a model that needs seconds for them. No call
    lasts beyond the `deadline`; raises TimeIsUpError if it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeIsUpError
    share = settings.batch_timeout * min(1.0, molecules / settings.batch_size)
    return min(left, max(share, min(settings.batch_timeout, _SHORTEST_CALL)))


def no_answer(timeout: float, deadline: float) -> BatchError | TimeIsUpError:
    """Return the error for a call that timed out: TimeIsUpError if the deadline has cut it short."""
    if time.monotonic() >= deadline:
        return TimeIsUpError()
    return CallTimeoutError(f"no answer within {timeout:g} s (PRECALC_BATCH_TIMEOUT)")
