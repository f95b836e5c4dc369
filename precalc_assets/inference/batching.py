"""Calling a model so that a bad molecule costs one molecule, and a broken model is found out early."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from precalc_assets.errors import ModelError
from precalc_assets.inference.runner import BatchError, ModelRunner
from precalc_assets.predictions import parse_cells

PATIENCE = 10
"""So many molecules that fail one after the other are not bad molecules: at a failure rate of a tenth, that happens
to good models once in 10^10 molecules."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model printed for a batch: text, one row per molecule; and by row the reasons of those it failed on.

    The rows of failed molecules are null.
    """

    text: pl.DataFrame
    failures: dict[int, str] = field(default_factory=dict)


class GaveUpError(Exception):
    """Too many molecules of a batch failed in a row; the message has the last one's reason."""


class PatientCaller:
    """Calls a model and bisects a batch that it does not answer, down to the molecules that it cannot answer."""

    def __init__(self, model: str, runner: ModelRunner) -> None:
        self._model = model
        self._runner = runner
        self._answered = False
        self._streak = 0

    @property
    def answered(self) -> bool:
        """Whether the model has answered any molecule."""
        return self._answered

    def answer(self, batches: Sequence[Sequence[str]]) -> list[Answer | GaveUpError]:
        """Return an answer for each batch of SMILES; all are sent in one call, as long as that goes well.

        Raises ModelError when the model has answered nothing at all and lost our patience.
        """
        if len(batches) == 1:
            if self._answered:
                self._streak = 0
            try:
                return [self._bisect(batches[0])]
            except GaveUpError as error:
                if not self._answered:
                    raise ModelError(f"{self._model} answers no molecule: {error}") from None
                return [error]
        try:
            together = self._call([smiles for batch in batches for smiles in batch])
        except (BatchError, GaveUpError):
            middle = len(batches) // 2
            return [*self.answer(batches[:middle]), *self.answer(batches[middle:])]
        return _split(together, [len(batch) for batch in batches])

    def _call(self, smiles: Sequence[str]) -> Answer:
        """Call the model once. A row without any value, or with a cell that is not of its type, is a failure."""
        text = self._runner.predict(smiles)
        typed, problems = parse_cells(text, self._runner.columns)
        silent = typed.select(pl.all_horizontal(pl.all().is_null())).to_series()
        problems |= {row: problems.get(row, "the model printed no value") for row in silent.arg_true().to_list()}
        if len(problems) < text.height:
            self._answered = True
            self._streak = 0
        else:
            self._count_failures(text.height, next(iter(problems.values())))
        if problems:
            good = pl.Series([row not in problems for row in range(text.height)])
            text = text.select(pl.when(good).then(pl.all()))
        return Answer(text, problems)

    def _bisect(self, smiles: Sequence[str]) -> Answer:
        try:
            return self._call(smiles)
        except BatchError as error:
            if len(smiles) == 1:
                self._count_failures(1, str(error))
                nothing = pl.DataFrame(
                    {column.name: [None] for column in self._runner.columns}, _text_schema(self._runner)
                )
                return Answer(nothing, {0: str(error)})
        middle = len(smiles) // 2
        left, right = self._bisect(smiles[:middle]), self._bisect(smiles[middle:])
        shifted = {row + middle: why for row, why in right.failures.items()}
        return Answer(pl.concat([left.text, right.text]), {**left.failures, **shifted})

    def _count_failures(self, molecules: int, why: str) -> None:
        self._streak += molecules
        if self._streak >= PATIENCE:
            raise GaveUpError(f"{self._streak} molecules in a row failed, the last with: {why}")


def _text_schema(runner: ModelRunner) -> pl.Schema:
    return pl.Schema({column.name: pl.String() for column in runner.columns})


def _split(together: Answer, lengths: Sequence[int]) -> list[Answer | GaveUpError]:
    answers: list[Answer | GaveUpError] = []
    start = 0
    for length in lengths:
        failures = {row - start: why for row, why in together.failures.items() if start <= row < start + length}
        answers.append(Answer(together.text.slice(start, length), failures))
        start += length
    return answers
