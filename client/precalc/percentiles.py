"""Where values stand in the library: beside each column of numbers, one with the percentile of each value.

The percentile of a value is the share of the library's molecules, in percent and rounded down, that have this value or
a lower one. Of a model with thousands of columns it may be known from a sample of the library alone.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from precalc.errors import UsageError
from precalc.source import Answer, Column, Distribution, OpenModel, Row, Source, Value

SUFFIX = "_percentile"


def find_percentile(value: Value, percentiles: Sequence[float | int]) -> int | None:
    """Return the percentile of a value, from 0 to 100; None if it is none, or if no percentiles are known."""
    if value is None or isinstance(value, str) or not percentiles:
        return None
    return max(0, bisect_right(percentiles, value) - 1)


class ModelWithPercentiles:
    """A model whose rows have the percentile of each number after it."""

    def __init__(self, model: OpenModel, distributions: Mapping[str, Distribution]) -> None:
        self._model = model
        columns = model.info.columns
        found = (distributions.get(column.name) for column in columns)
        self._ranks = [None if each is None else each.percentiles for each in found]
        taken = {column.name for column in columns}
        clashing = [name for name in taken if name + SUFFIX in taken]
        if clashing:
            raise UsageError(f"{model.info.model} has a column {clashing[0]}{SUFFIX} of its own; leave percentiles out")
        extended: list[Column] = []
        for column, ranks in zip(columns, self._ranks, strict=True):
            extended.append(column)
            if ranks is not None:
                said = f"The percent of the library's molecules with at most this {column.name}"
                extended.append(Column(column.name + SUFFIX, "integer", "", said))
        self.info = replace(model.info, columns=tuple(extended))
        self.batch_size = max(1, model.batch_size // 2)
        self.parallel = model.parallel

    def read(self, inchikeys: Sequence[str], *, smiles: Collection[str] = (), reasons: bool = False) -> Answer:
        """See `OpenModel.read`."""
        answer = self._model.read(inchikeys, smiles=smiles, reasons=reasons)
        return answer._replace(rows=[None if row is None else tuple(self._extended(row)) for row in answer.rows])

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        return self._model.smiles(inchikeys)

    def _extended(self, row: Row) -> Iterator[Value]:
        for value, ranks in zip(row, self._ranks, strict=True):
            yield value
            if ranks is not None:
                yield find_percentile(value, ranks)


def open_with_percentiles(source: Source, model: str, columns: Sequence[str] | None = None) -> ModelWithPercentiles:
    """Open a model with the percentiles of its numbers. Raises PrecalcError if it has no predictions."""
    opened = source.open(model, columns)
    numbers = [column.name for column in opened.info.columns if column.type != "string"]
    return ModelWithPercentiles(opened, source.distributions(model, numbers))
