"""Several models read as one, for a wide table: each column has its model's id before its name, `eos3b5e.mol_weight`.

Before a model's columns there is one with its statuses, `eos3b5e.status`. What is said of the molecule itself, its
InChIKey, `match` and the library's SMILES, is there once.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from precalc.errors import UsageError
from precalc.source import Answer, Column, ModelInfo, OpenModel, Row, Value
from precalc.statuses import STATUSES, Status

_MOST_VALUES = 1_000_000
"""Values that are read at a time."""


@dataclass(frozen=True, slots=True)
class JoinedInfo(ModelInfo):
    """What is true of several models together; `models` are the single ones."""

    models: tuple[ModelInfo, ...] = ()

    @property
    def citation(self) -> str:
        """See `ModelInfo.citation`."""
        return "; ".join(info.citation for info in self.models)

    @property
    def provenance(self) -> dict[str, object]:
        """See `ModelInfo.provenance`."""
        return {"models": [info.provenance for info in self.models]}

    def row_without_prediction(self, status: str) -> Row | None:
        """See `ModelInfo.row_without_prediction`."""
        return tuple(cell for info in self.models for cell in (status, *[None] * len(info.columns)))


class JoinedModel:
    """Several models as one: a molecule's row holds the rows of all of them.

    Its status is that of the model that has least of it: it is "found" if every model has it.
    """

    def __init__(self, models: Sequence[OpenModel]) -> None:
        self._models = models
        infos = tuple(model.info for model in models)
        digests = {info.library_digest for info in infos}
        self.info: ModelInfo = JoinedInfo(
            source=infos[0].source,
            model=" and ".join(info.model for info in infos),
            columns=tuple(column for info in infos for column in _prefixed_columns(info)),
            releases=tuple(f"{info.model} {release}" for info in infos for release in info.releases),
            library_digest=digests.pop() if len(digests) == 1 else None,
            deterministic=_all_are(info.deterministic for info in infos),
            varying=tuple(f"{info.model}.{name}" for info in infos for name in info.varying),
            updated=max((info.updated for info in infos if info.updated), default=None),
            molecules=max(info.molecules for info in infos),
            shards=min(info.shards for info in infos),
            n_shards=infos[0].n_shards,
            models=infos,
        )
        self.batch_size = max(1, min(*(model.batch_size for model in models), _MOST_VALUES // len(self.info.columns)))
        self.parallel = min(model.parallel for model in models)

    def read(self, inchikeys: Sequence[str], *, smiles: Collection[str] = (), reasons: bool = False) -> Answer:
        """See `OpenModel.read`. The row of a molecule that no model has is None."""
        # The library is the same for all: one of them reads its SMILES.
        first = self._models[0].read(inchikeys, smiles=smiles, reasons=reasons)
        answers = [first, *(model.read(inchikeys, reasons=reasons) for model in self._models[1:])]
        rows: list[Row | None] = []
        statuses: list[Status] = []
        for at in range(len(inchikeys)):
            of_each = [answer.statuses[at] for answer in answers]
            parts = [answer.rows[at] for answer in answers]
            statuses.append(max(of_each, key=STATUSES.index))
            rows.append(self._join(of_each, parts) if any(part is not None for part in parts) else None)
        why: dict[str, list[str]] = defaultdict(list)
        for model, answer in zip(self._models, answers, strict=True):
            for key, reason in answer.reasons.items():
                why[key].append(f"{model.info.model}: {reason}")
        return Answer(rows, statuses, first.smiles, {key: "; ".join(each) for key, each in why.items()})

    def _join(self, statuses: Sequence[Status], parts: Sequence[Row | None]) -> Row:
        joined: list[Value] = []
        for status, part, model in zip(statuses, parts, self._models, strict=True):
            joined += [status, *(part or (None,) * len(model.info.columns))]
        return tuple(joined)

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        return self._models[0].smiles(inchikeys)


OpenFunction = Callable[[str, Sequence[str] | None], OpenModel]
"""Opens a model with some of its columns, or with all."""


def open_joined(open_one: OpenFunction, models: Sequence[str], columns: Sequence[str] | None = None) -> JoinedModel:
    """Open several models as one. `columns` are named as in the table; the models keep their order.

    Raises PrecalcError for a model that cannot be read, UsageError for one of which no column is named.
    """
    models = list(dict.fromkeys(models))
    if not models:
        raise UsageError("no model is named; name one, such as eos3b5e")
    if columns is None:
        return JoinedModel([open_one(model, None) for model in models])
    wanted: dict[str, list[str]] = {model: [] for model in models}
    for name in columns:
        model, _, column = name.partition(".")
        if model not in wanted or not column:
            raise UsageError(f"column {name!r} is of none of the models; write the model first: {models[0]}.{name}")
        wanted[model].append(column)
    for model, names in wanted.items():
        if not names:
            raise UsageError(f"no column of {model} is named; name one as {model}.COLUMN, or leave {model} out")
    return JoinedModel([open_one(model, names) for model, names in wanted.items()])


def _prefixed_columns(info: ModelInfo) -> list[Column]:
    status = Column("status", "string", "", f"What came of the molecule in {info.model}.")
    return [replace(column, name=f"{info.model}.{column.name}") for column in (status, *info.columns)]


def _all_are(answers: Iterable[bool | None]) -> bool | None:
    """Return False if one answer is, else None if one is not known."""
    known = list(answers)
    return False if False in known else None if None in known else True
