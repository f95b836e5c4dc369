"""A query prepared for any engine: its models opened, its columns and values checked, and the shards that answer it.

Whatever two engines must agree on belongs here, so that they give the same answer with the same `id`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, NamedTuple

from precalc.identifiers import find_columns
from precalc.source import ScreenAnswer, ScreenedColumn, ScreenedModel, Value
from precalc_assets.catalogue import CatalogueEntry, read_cards, read_entry
from precalc_assets.columns import Column
from precalc_assets.platform_errors import MissingTableError, UsageError
from precalc_assets.screening.query import Condition, Operator, Query, split
from precalc_assets.tables import KeyValueStore

KEY, SMILES = "inchikey", "smiles"

_LEAST, _MOST = -(2**63), 2**63 - 1

_ENTRY_SECONDS = 60.0
"""How long a model's entry is used, as in the read API: reading it takes a request for each hundred shards."""

Find = Callable[[str], CatalogueEntry | None]
"""Returns a model's entry, None for an unknown model."""
Names = Callable[[], Sequence[str]]
"""Returns all models."""


class Entries:
    """The models' entries in some tables, each of which is used for a while. Threads may share them."""

    def __init__(self, tables: KeyValueStore) -> None:
        self._tables = tables
        self._known: dict[str, tuple[float, CatalogueEntry]] = {}

    def find(self, model: str) -> CatalogueEntry | None:
        """Return a model's entry, or None if it has no table."""
        now = time.monotonic()
        known = {name: each for name, each in self._known.items() if now - each[0] < _ENTRY_SECONDS}
        if model not in known:
            try:
                known[model] = now, read_entry(self._tables, model)
            except MissingTableError:
                return None
            self._known = known
        return known[model][1]

    def names(self) -> list[str]:
        """Return all models."""
        return list(read_cards(self._tables))

    def forget(self) -> None:
        """Read all entries anew."""
        self._known = {}


class Comparison(NamedTuple):
    """A condition with values of its column's type: `gt ge lt le` have one, `between` both ends, `in` any number."""

    op: Operator
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A query that can be answered.

    `shards` are those to read of each model. With `by_position`, all models have the same molecules in them, in the
    same order.
    """

    query: Query
    entries: Mapping[str, CatalogueEntry]
    columns: Mapping[str, Column]
    shards: Mapping[str, Sequence[str]]
    by_position: bool

    def comparison(self, condition: Condition) -> Comparison:
        """Return a condition of the query with values of its column's type, so that engines compare alike."""
        op, value = condition.op, condition.value
        column = self.columns[condition.column]
        given: tuple[Any, ...] = value if isinstance(value, tuple) else () if value is None else (value,)
        if op in ("eq", "in"):
            return Comparison("in", tuple(one for each in given for one in _equal_to(each, column)))
        if op != "is_null" and column.type == "integer":
            return Comparison("between", _whole_ends(op, given[0], given[-1]))
        return Comparison(op, tuple(map(float, given)))

    def n_rows(self, model: str) -> int:
        """Return the number of molecules in the shards to read of a model."""
        directories = self.entries[model].directories
        return sum(directories[shard].rows for shard in self.shards[model])

    def answer(self, matched: int, screened: int, rows: Sequence[Sequence[Value]], **more: Any) -> ScreenAnswer:  # noqa: ANN401 - fields
        """Return an engine's answer: `rows` have `inchikey`, `smiles` and the selected columns."""
        selected = self.query.selected
        return ScreenAnswer(
            id=self._identify(),
            matched=matched,
            screened=screened,
            models=tuple(map(self._screened, self.entries)),
            columns=(
                ScreenedColumn(KEY, "string"),
                ScreenedColumn(SMILES, "string"),
                *(ScreenedColumn(name, self.columns[name].type) for name in selected),
            ),
            rows=tuple(map(tuple, rows)),
            **{"distributions": (), **more},
        )

    def _identify(self) -> str:
        """Return the digest of the question and of the files that answer it."""
        files = [
            entry.directories[shard].file_sha256
            for model, entry in self.entries.items()
            for shard in self.shards[model]
        ]
        return sha256("\n".join([self.query.model_dump_json(), *files]).encode()).hexdigest()[:32]

    def _screened(self, model: str) -> ScreenedModel:
        entry, shards = self.entries[model], self.shards[model]
        return ScreenedModel(
            model=model,
            releases=tuple(sorted({entry.directories[shard].release for shard in shards})),
            library_digest=entry.library_digest,
            shards=len(shards),
            n_shards=entry.reader.n_shards,
            molecules=self.n_rows(model),
        )


def make_plan(query: Query, find: Find, names: Names) -> Plan:
    """Prepare a query.

    Raises UsageError for an unknown model or column, for a value of another type than its column, and for models of
    different libraries.
    """
    entries = {model: _open(model, find, names) for model in query.models}
    columns = {name: _find_column(entries, name) for name in query.columns}
    for condition in query.conditions:
        _check(condition, columns[condition.column])
    shards, by_position = _choose_shards(entries, allow_mixed=query.allow_mixed)
    return Plan(query, entries, columns, shards, by_position)


def _open(model: str, find: Find, names: Names) -> CatalogueEntry:
    entry = find(model)
    if entry is None:
        near = get_close_matches(model, names(), n=1)
        hint = f"the nearest is {near[0]}" if near else "`precalc models` lists those that have"
        raise MissingTableError(f"{model} has no predictions; {hint}")
    return entry


def _find_column(entries: Mapping[str, CatalogueEntry], name: str) -> Column:
    model, column = split(name)
    columns = entries[model].reader.columns
    return columns[find_columns(model, [known.name for known in columns], [column])[0]]


def _choose_shards(
    entries: Mapping[str, CatalogueEntry], *, allow_mixed: bool
) -> tuple[dict[str, Sequence[str]], bool]:
    """Return the shards to read of each model, and whether all have the same molecules in the same order.

    Of one library these are the shards that all models have. Of several, a molecule may be in another shard of each
    model, so these are all. Raises UsageError for models of different libraries that are not allowed.
    """
    first, *others = entries.values()
    common = [shard for shard in first.directories if all(shard in other.directories for other in others)]
    if _same_molecules(entries, common):
        return dict.fromkeys(entries, common), True
    if not allow_mixed:
        named = ", ".join(entries)
        raise UsageError(
            f"{named} were predicted for different libraries; run `precalc run` for those of the older one, or allow "
            "mixed libraries to screen the molecules that all have"
        )
    return {model: list(entry.directories) for model, entry in entries.items()}, False


def _same_molecules(entries: Mapping[str, CatalogueEntry], shards: Sequence[str]) -> bool:
    """Return whether these shards have the same molecules in all models, and so the same order."""
    return all(
        len({(entry.reader.n_shards, entry.directories[shard].shard_digest) for entry in entries.values()}) == 1
        for shard in shards
    )


def _check(condition: Condition, column: Column) -> None:
    """Raise UsageError for a value that cannot be compared with its column."""
    value, op, name = condition.value, condition.op, condition.column
    values: tuple[Any, ...] = value if isinstance(value, tuple) else () if value is None else (value,)
    expected = {"is_null": "no value", "between": "two values, the ends", "in": "a list of values"}.get(op, "one value")
    n_wanted = {"is_null": 0, "between": 2, "in": len(values) or 1}.get(op, 1)
    if len(values) != n_wanted or isinstance(value, tuple) != (op in ("between", "in")):
        raise UsageError(f"{name}: {op} takes {expected}")
    is_text = column.type == "string"
    if is_text and op not in ("eq", "in", "is_null"):
        raise UsageError(f"{name} has texts, which can only be equal (=) or in a list (in), not {op}")
    for one in values:
        if isinstance(one, str) != is_text:
            kind = "texts; write the value in quotes" if is_text else "numbers, not texts"
            raise UsageError(f"{name} has {kind}: {one!r:.50}")
    if op == "between" and values[0] > values[1]:
        raise UsageError(f"{name}: nothing is between {values[0]} and {values[1]}; the lower end comes first")


def _equal_to(value: float | int | str, column: Column) -> tuple[float | int | str, ...]:
    """Return the values of a column's type that are equal to this one: both zeros, or none for 2.5 among integers."""
    if isinstance(value, str):
        return (value,)
    if column.type == "integer":
        return (int(value),) if value == int(value) and _LEAST <= value <= _MOST else ()
    return (0.0, -0.0) if value == 0 else (float(value),) if float(value) == value else ()


def _whole_ends(op: str, low: Any, high: Any) -> tuple[int, int]:  # noqa: ANN401 - numbers
    """Return the least and the greatest integer that meet a comparison; if none does, the least is the greater."""
    least = {"gt": math.floor(low) + 1, "ge": math.ceil(low), "between": math.ceil(low)}.get(op, _LEAST)
    greatest = {"lt": math.ceil(high) - 1, "le": math.floor(high), "between": math.floor(high)}.get(op, _MOST)
    if least > _MOST or greatest < _LEAST:
        return 1, 0
    return max(least, _LEAST), min(greatest, _MOST)
