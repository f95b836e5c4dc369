"""What every way of running a model has in common. How one of them starts programs is its own module's business."""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from precalc_assets.columns import Column

_SHORTEST_CALL = 300.0
"""Seconds that any call may take, unless a whole batch may take less: loading a model takes minutes, at worst."""


class BatchError(Exception):
    """A model did not answer a batch; the message is the model's own. A part of the batch may well be answered."""


class CallTimeoutError(BatchError):
    """A model did not answer a batch in the time that a call of its size may take."""


class TimeIsUpError(Exception):
    """There is no time for the next call, or was not enough for the last one: no molecule is to blame for that."""


class ModelBackend(Protocol):
    """A model made ready on entering the context, and put away on leaving it, also after a failure."""

    columns: tuple[Column, ...]
    """The outputs, in order; known before entering."""

    release: str
    """The version string that the model reports."""

    environment: str
    """A name of what the model runs in, the same where that is the same; known after entering, empty before."""

    def __enter__(self) -> Self:
        """Make the model ready. Raises ModelError if that cannot be done."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop what was started."""
        ...

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """Return what the model prints for these molecules: one CSV record each, in order, without its line end.

        A record has the outputs in the order of `columns`, each as the model printed it; an empty cell without quotes
        is "no value". Raises BatchError if the model does not answer all of the molecules, CallTimeoutError if it does
        not answer in time, ModelError if it can answer no batch at all, TimeIsUpError if it has not answered by the
        `deadline` (of `time.monotonic`).
        """
        ...


@runtime_checkable
class ServedModelBackend(ModelBackend, Protocol):
    """A backend that keeps a program running between calls, which may itself fall ill."""

    def is_well(self) -> bool:
        """Return whether the program is there and says that it is well; whether it answers molecules is not asked."""
        ...

    def restart(self) -> None:
        """Start the program afresh. Raises ModelError if it does not come up again."""
        ...


def call_timeout(molecules: int, deadline: float, *, batch_size: int, batch_timeout: float) -> float:
    """Return the seconds that a call may take: a small one gets less than a batch, several batches no more than one.

    Several are sent together only to a model that needs seconds for them. None goes on beyond the `deadline`; raises
    TimeIsUpError where it is over.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeIsUpError
    share = batch_timeout * min(1.0, molecules / batch_size)
    return min(left, max(share, min(batch_timeout, _SHORTEST_CALL)))


def no_answer(timeout: float, deadline: float) -> BatchError | TimeIsUpError:
    """Return the error for a call that took too long: the deadline's fault, where that has cut it short."""
    if time.monotonic() >= deadline:
        return TimeIsUpError()
    return CallTimeoutError(f"no answer within {timeout:g} s (PRECALC_BATCH_TIMEOUT)")
