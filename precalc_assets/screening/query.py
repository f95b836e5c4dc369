"""A screen as data: its conditions, order and columns. `precalc.source` has the answer; no engine belongs here."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError, model_validator

from precalc.identifiers import check_model_id
from precalc.source import Question
from precalc_assets.frozen_record import plain_reason
from precalc_assets.platform_errors import UsageError

MOST_ROWS = 10_000
MOST_MODELS = 8
MOST_CONDITIONS = 100
"""Conditions of a screen, those of alternatives included."""
MOST_COLUMNS = 100
"""Columns that a screen reads. A hundred of the 10,000 molecules of an answer are a million values, 20 MB of JSON."""
MOST_VALUES = 1_000
"""In the list of one condition."""

Operator = Literal["eq", "gt", "ge", "lt", "le", "between", "in", "is_null"]
Value = (
    Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr
)


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(_Data):
    """A condition on one column, written `eos3b5e.mol_weight`.

    `value` is one value; for `between` the two ends, which belong to it; for `in` a list; for `is_null` nothing. A
    molecule without a value meets `is_null` alone. Texts can only be equal, or be in a list.
    """

    column: str
    op: Operator
    value: Value | Annotated[tuple[Value, ...], Field(max_length=MOST_VALUES)] | None = None


class AnyOf(_Data):
    """Alternatives: a molecule meets at least one of them."""

    any: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=MOST_CONDITIONS)]


class Order(_Data):
    """A column to order by. Molecules without a value come last; equal ones are in the order of their InChIKeys."""

    column: str
    descending: bool = False


class Query(_Data):
    """A question by value: the molecules that meet all conditions, in an order, with some columns.

    By default the columns are those that conditions and order name. `limit` is the most rows, 0 to count alone.
    `distributions` are those of the named columns over all molecules that meet the conditions; with `library_bars`,
    numbers are counted in the bars that the model's card has for the library. Predictions of several models are joined
    by InChIKey; they must be of one library, unless `allow_mixed`.
    """

    where: Annotated[tuple[AnyOf | Condition, ...], Field(max_length=MOST_CONDITIONS)] = ()
    order: Annotated[tuple[Order, ...], Field(max_length=MOST_MODELS)] = ()
    select: Annotated[tuple[str, ...], Field(max_length=MOST_COLUMNS)] = ()
    limit: Annotated[StrictInt, Field(ge=0, le=MOST_ROWS)] = 100
    distributions: Annotated[tuple[str, ...], Field(max_length=MOST_MODELS)] = ()
    library_bars: bool = False
    allow_mixed: bool = False

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if len(self.conditions) > MOST_CONDITIONS:
            raise ValueError(f"there are {len(self.conditions):,} conditions; up to {MOST_CONDITIONS} are taken")
        if len(self.columns) > MOST_COLUMNS:
            raise ValueError(f"there are {len(self.columns):,} columns; up to {MOST_COLUMNS} are read")
        return self

    @property
    def conditions(self) -> list[Condition]:
        """All conditions, those of alternatives too."""
        return [one for entry in self.where for one in (entry.any if isinstance(entry, AnyOf) else (entry,))]

    @property
    def selected(self) -> list[str]:
        """The columns of the answer."""
        named = self.select or [*(one.column for one in self.order), *(one.column for one in self.conditions)]
        return list(dict.fromkeys(named))

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        named = [*self.selected, *(c.column for c in self.conditions), *(o.column for o in self.order)]
        return list(dict.fromkeys([*named, *self.distributions]))

    @property
    def models(self) -> list[str]:
        """The models in the order in which they are named. Raises UsageError for none, too many or a malformed one."""
        models = list(dict.fromkeys(check_model_id(split(column)[0]) for column in self.columns))
        if not models:
            raise UsageError("the screen names no column; name one to read, as in eos3b5e.mol_weight")
        if len(models) > MOST_MODELS:
            raise UsageError(f"the screen names {len(models)} models; up to {MOST_MODELS} are joined")
        return models


def split(column: str) -> tuple[str, str]:
    """Return the model and the name of a column. Raises UsageError if there is no dot between them."""
    model, dot, name = column.partition(".")
    if not dot:
        raise UsageError(f"{column[:100]!r} names no column; write the model, a dot and the name: eos3b5e.mol_weight")
    return model, name


def read_question(question: Question) -> Query:
    """Return the query that some data is. Raises UsageError that names the first field that is wrong."""
    try:
        return Query.model_validate(question)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("AnyOf", "Condition"))
        reason = plain_reason(first["msg"])
        raise UsageError(f"the screen's {place}: {reason}" if place else f"the screen: {reason}") from None
