"""What every way of running a model has in common. How one of them starts programs is its own module's business."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from precalc_assets.columns import Column


class BatchError(Exception):
    """A model did not answer a batch; the message is the model's own. A part of the batch may well be answered."""


class ModelRunner(Protocol):
    """A model made ready on entering the context, and put away on leaving it, also after a failure."""

    columns: tuple[Column, ...]
    """The outputs, in order; known before entering."""

    release: str
    """The version string that the model reports."""

    def __enter__(self) -> Self:
        """Make the model ready. Raises ModelError if that cannot be done."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop what was started."""
        ...

    def predict(self, smiles: Sequence[str]) -> list[bytes]:
        """Return what the model prints for these molecules: one CSV record each, in order, without its line end.

        A record has the outputs in the order of `columns`, each as the model printed it; an empty cell without quotes
        is "no value". Raises BatchError if the model does not answer all of the molecules, ModelError if it can answer
        no batch at all.
        """
        ...


@runtime_checkable
class ServedModelRunner(ModelRunner, Protocol):
    """A runner that keeps a program running between calls, which may itself fall ill."""

    def is_well(self) -> bool:
        """Return whether the program is there and says that it is well; whether it answers molecules is not asked."""
        ...

    def restart(self) -> None:
        """Start the program afresh. Raises ModelError if it does not come up again."""
        ...
