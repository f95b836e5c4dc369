"""What every way of running a model has in common. How one of them starts programs is its own module's business."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import polars as pl

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

    def predict(self, smiles: Sequence[str]) -> pl.DataFrame:
        """Return what the model prints for these molecules, as text: one row each, in order, one column per output.

        Raises BatchError if it does not answer all of them, ModelError if it can answer no batch at all.
        """
        ...
