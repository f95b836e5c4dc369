"""A plan as SQL, in what Trino and DuckDB have in common.

Identifiers are quoted and their columns known; values are literals of their column's type. No text of a user is SQL.
"""

from collections.abc import Callable
from dataclasses import dataclass

from precalc_assets.screening.plan import KEY, SMILES, Comparison, Plan
from precalc_assets.screening.query import AnyOf, Condition, split

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True, slots=True)
class Statements:
    """`count` counts the molecules that all models have and those that match; `rows` selects the first of these."""

    count: str
    rows: str


def write_sql(plan: Plan, table: Callable[[str], str]) -> Statements:
    """Return the SQL of a plan; `table` returns the table of a model as SQL writes it."""
    names = {model: f"m{at}" for at, model in enumerate(plan.entries)}
    joined = " ".join(
        f"JOIN {table(model)} AS {name} ON {name}.{KEY} = m0.{KEY}" if at else f"FROM {table(model)} AS {name}"
        for at, (model, name) in enumerate(names.items())
    )

    def column(name: str) -> str:
        model, own = split(name)
        return f"{names[model]}.{quoted(own)}"

    def condition(one: Condition) -> str:
        return _write(column(one.column), plan.comparison(one))

    def any_of(entry: AnyOf | Condition) -> str:
        return " OR ".join(map(condition, entry.any)) if isinstance(entry, AnyOf) else condition(entry)

    def order_of(name: str) -> str:
        # Trino puts -0.0 before 0.0, and the sum of the two is 0.0.
        return f"{column(name)} + CAST('0' AS DOUBLE)" if plan.columns[name].type == "float" else column(name)

    where = " AND ".join(f"({any_of(entry)})" for entry in plan.query.where) or "1 = 1"
    orders = [
        f"{order_of(order.column)} {'DESC' if order.descending else 'ASC'} NULLS LAST" for order in plan.query.order
    ]
    shown = [f"m0.{KEY}", f"m0.{SMILES}", *map(column, plan.query.selected)]
    select = ", ".join(f"{text} AS c{at}" for at, text in enumerate(shown))
    return Statements(
        count=f"SELECT count(*) AS screened, count(CASE WHEN {where} THEN 1 END) AS matched {joined}",
        rows=f"SELECT {select} {joined} WHERE {where} ORDER BY {', '.join([*orders, f'm0.{KEY} ASC'])} "
        f"LIMIT {plan.query.limit}",
    )


def quoted(name: str) -> str:
    """Return a name as an identifier."""
    return '"{}"'.format(name.replace('"', '""'))


def _write(column: str, comparison: Comparison) -> str:
    op, values = comparison.op, list(map(_literal, comparison.values))
    if op == "is_null":
        return f"{column} IS NULL"
    if op == "in":
        return f"{column} IN ({', '.join(values)})" if values else "1 = 0"
    return f"{column} BETWEEN {values[0]} AND {values[1]}" if op == "between" else f"{column} {_SIGNS[op]} {values[0]}"


def _literal(value: float | int | str) -> str:
    if isinstance(value, str):
        return "'{}'".format(value.replace("'", "''"))
    return f"CAST('{value!r}' AS {'BIGINT' if isinstance(value, int) else 'DOUBLE'})"
