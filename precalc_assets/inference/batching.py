"""Call a model so that a bad molecule loses only itself, and a broken model is detected early."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import polars as pl

from precalc_assets.inference.call_size import CallSize
from precalc_assets.inference.model_backend import (
    BatchError,
    CallTimeoutError,
    ModelBackend,
    ServedModelBackend,
    TimeIsUpError,
)
from precalc_assets.platform_errors import ModelError
from precalc_assets.predictions import read_records
from precalc_assets.waiting import told_while_waiting

logger = logging.getLogger(__name__)

PATIENCE = 10
"""Consecutive failures after which a model that has answered no molecule counts as broken. At a failure rate of 10%,
a good model has such a streak once in 10^10 molecules."""

_HOPELESS = 100
"""Consecutive failures that end a batch of a model that has answered others: each failure costs several calls."""

_CHECKED_BYTES = 1 << 20
"""Bytes of records whose cell types are checked at a time; parsing takes 20 times as much memory."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to a batch: one record per molecule, and the reasons for failures by row.

    The record of a failed molecule has empty cells.
    """

    records: list[bytes]
    failures: dict[int, str] = field(default_factory=dict)


class GaveUpError(Exception):
    """The model has stopped answering, or answers none of a batch. The message has the reason."""


class PatientCaller:
    """Calls a model, and bisects a failed batch down to the molecules that the model cannot answer.

    The fault may be the model's own. Machines run out of memory, and servers have died after some thousands of
    molecules, or answered only nulls from some moment on (ersilia #1871, #831). So before a molecule is blamed, the
    model is called with a witness: a molecule that it has answered before. If it fails on the witness, no molecule is
    blamed, and a served model is restarted.

    `size` learns from every call how many molecules the next one can have; after a timeout, larger batches are split.
    `on_answer` receives the records of answered molecules by SMILES after each call, before the batch is complete.
    """

    def __init__(
        self,
        model: str,
        backend: ModelBackend,
        size: CallSize,
        deadline: float = math.inf,
        on_answer: Callable[[Mapping[str, bytes]], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._backend = backend
        self._size = size
        self._deadline = deadline
        self._on_answer = on_answer
        self._nothing = b"," * (len(backend.columns) - 1)
        self._answered = False
        self._streak = 0
        self._witness: str | None = None

    def set_witness(self, smiles: str | None) -> None:
        """Set the witness to a molecule that this release answered in an earlier run, unless there is one."""
        self._witness = self._witness or smiles

    @property
    def answered(self) -> bool:
        """Whether the model has answered any molecule."""
        return self._answered

    def answer(self, batches: Sequence[Sequence[str]]) -> list[Answer | GaveUpError]:
        """Return an answer for each batch of SMILES. All are sent in one call, unless it fails or calls time out.

        Raises ModelError when the model fails on `PATIENCE` molecules in a row and has answered none, TimeIsUpError
        when the deadline passes before the last call has ended.
        """
        if len(batches) == 1:
            try:
                return [self._bisect(batches[0])]
            except GaveUpError as error:
                if not self._answered:
                    raise ModelError(f"{self._model} answers no molecule: {error}") from None
                self._streak = 0
                return [error]
        if sum(map(len, batches)) <= self._size.limit:
            with suppress(BatchError, GaveUpError):
                together = self._call([smiles for batch in batches for smiles in batch])
                return _split(together, [len(batch) for batch in batches])
        middle = len(batches) // 2
        return [*self.answer(batches[:middle]), *self.answer(batches[middle:])]

    def _bisect(self, smiles: Sequence[str]) -> Answer:
        if len(smiles) <= self._size.limit:
            try:
                return self._call(smiles)
            except BatchError as error:
                if len(smiles) == 1:
                    self._blame(1, str(error))
                    return Answer([self._nothing], {0: str(error)})
        middle = len(smiles) // 2
        left, right = self._bisect(smiles[:middle]), self._bisect(smiles[middle:])
        shifted = {row + middle: why for row, why in right.failures.items()}
        return Answer([*left.records, *right.records], {**left.failures, **shifted})

    def _call(self, smiles: Sequence[str]) -> Answer:
        """Call the model, and retry once if it was unhealthy and has been restarted.

        Raises BatchError if it does not answer the batch, or answers none of it. It may still answer parts of it.
        """
        try:
            answer = self._ask(smiles)
        except BatchError:
            if not self._restarted_if_unhealthy(alone=len(smiles) == 1) or len(smiles) > 1:
                raise
            answer = self._ask(smiles)
        if len(answer.failures) == len(smiles) >= PATIENCE and isinstance(self._backend, ServedModelBackend):
            self._backend.restart()
            answer = self._ask(smiles)
        if len(answer.failures) < len(smiles):
            self._answered = True
            self._streak = 0
            answered = {text: answer.records[row] for row, text in enumerate(smiles) if row not in answer.failures}
            self._witness = next(iter(answered))
            self._on_answer(answered)
            return answer
        why = next(iter(answer.failures.values()))
        if len(smiles) >= PATIENCE and self._witness:
            raise BatchError(why)
        self._blame(len(smiles), why)
        return answer

    def _restarted_if_unhealthy(self, *, alone: bool) -> bool:
        """Restart a served model if it is unhealthy; return whether it was restarted.

        If the failed call had one molecule `alone`, a healthy model must also answer the witness.
        """
        if not isinstance(self._backend, ServedModelBackend):
            return False
        healthy = self._backend.is_healthy()
        if healthy and not (alone and self._fails_on_witness()):
            return False
        if not healthy:
            self._size.found_down()
        self._backend.restart()
        return True

    def _blame(self, molecules: int, why: str) -> None:
        """Count failed molecules. Raises GaveUpError when the model is to blame and not the molecules."""
        self._streak += molecules
        if self._fails_on_witness():
            raise GaveUpError(f"it fails on {self._witness} too, which it answered before: {why}")
        self._answered |= self._witness is not None
        if self._streak >= (_HOPELESS if self._answered else PATIENCE):
            raise GaveUpError(f"{self._streak} molecules in a row failed, the last with: {why}")

    def _fails_on_witness(self) -> bool:
        if self._witness is None:
            return False
        if isinstance(self._backend, ServedModelBackend) and not self._backend.is_healthy():
            self._backend.restart()
        try:
            return bool(self._ask([self._witness]).failures)
        except BatchError:
            return True

    def _ask(self, smiles: Sequence[str]) -> Answer:
        """Call the model once. A row without any value, or with a cell of the wrong type, is a failure."""
        if time.monotonic() >= self._deadline:
            raise TimeIsUpError
        records = self._predict(smiles)
        failures: dict[int, str] = {}
        step = 1 + _CHECKED_BYTES * len(records) // max(1, sum(map(len, records)))
        for start in range(0, len(records), step):
            try:
                typed, problems = read_records(records[start : start + step], self._backend.columns)
            except ValueError as error:
                raise BatchError(f"the model's output cannot be read as CSV: {error}") from None
            failures |= {start + row: "the model printed no value" for row in _rows_without_values(typed)}
            failures |= {start + row: why for row, why in problems.items()}
        for row in failures:
            records[row] = self._nothing
        return Answer(records, failures)

    def _predict(self, smiles: Sequence[str]) -> list[bytes]:
        started = time.monotonic()
        call = f"a call of {len(smiles):,} molecule{'s' * (len(smiles) > 1)}"
        try:
            with told_while_waiting(call, lambda line: logger.info("%s: %s", self._model, line)):
                records = self._backend.predict(smiles, self._deadline)
        except CallTimeoutError:
            self._size.timed_out(len(smiles), time.monotonic() - started)
            raise
        self._size.answered(len(smiles), time.monotonic() - started, sum(map(len, records)))
        return records


def _rows_without_values(typed: pl.DataFrame) -> list[int]:
    """Return the rows without any value. Usually some column has a value in every row, which is checked first."""
    if not all(column.null_count() for column in typed.iter_columns()):
        return []
    return typed.select(pl.all_horizontal(pl.all().is_null())).to_series().arg_true().to_list()


def _split(together: Answer, lengths: Sequence[int]) -> list[Answer | GaveUpError]:
    answers: list[Answer | GaveUpError] = []
    start = 0
    for length in lengths:
        failures = {row - start: why for row, why in together.failures.items() if start <= row < start + length}
        answers.append(Answer(together.records[start : start + length], failures))
        start += length
    return answers
