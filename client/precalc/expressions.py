"""Conditions on predictions as a person writes them, turned into the data of a screen.

    eos3b5e.mol_weight between 200 and 400 and (eos4e40.score > 0.5 or eos4e40.score is null)

A column is a model, a dot and a name; a name that is not a plain word is in double quotes, a text in single quotes. A
quote inside quotes is written twice. Words of the grammar may be in any case. Standard library only: the platform's
Lambda reads the expressions of web pages.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from precalc.errors import UsageError

MOST_CHARACTERS = 20_000
"""Characters of an expression."""

_T = TypeVar("_T")

_OPERATORS = {"=": "eq", "==": "eq", ">": "gt", ">=": "ge", "<": "lt", "<=": "le"}
_SIGNS = {"eq": "=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}

_PLAIN = r"""[^\s"'(),=<>]+"""
"""The name of a column that needs no quotes."""
_TOKEN = re.compile(
    rf"""
    (?P<column>[A-Za-z][A-Za-z0-9_-]*\.(?:"(?:[^"]|"")+"|{_PLAIN}))
    |(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<text>'(?:[^']|'')*')
    |(?P<sign>[<>]=?|==?|[(),])
    |(?P<word>[A-Za-z_]+)
    |(?P<end>\Z)
    """,
    re.VERBOSE,
)
_WIDTH = 60
"""Characters of an expression that its error shows."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """The text, if it is a sign or a word of the grammar, in lower case."""
        return self.text.lower() if self.kind in ("sign", "word") else ""


def parse_conditions(expression: str) -> list[dict[str, Any]]:
    """Return the `where` of a screen. Raises UsageError that shows the place of a mistake.

    >>> parse_conditions("eos3b5e.mol_weight <= 400 and (eos4e40.score > .5 or eos4e40.score is null)")[0]
    {'column': 'eos3b5e.mol_weight', 'op': 'le', 'value': 400}
    """
    return _Parser(expression).conditions() if expression.strip() else []


def parse_order(expression: str) -> list[dict[str, Any]]:
    """Return the `order` of a screen. Raises UsageError that shows the place of a mistake.

    >>> parse_order("eos4e40.score desc, eos3b5e.mol_weight")
    [{'column': 'eos4e40.score', 'descending': True}, {'column': 'eos3b5e.mol_weight', 'descending': False}]
    """
    return _Parser(expression).order() if expression.strip() else []


def parse_names(expression: str) -> list[str]:
    """Return the columns in a text with commas between them. Raises UsageError that shows the place of a mistake.

    >>> parse_names('eos3b5e.mol_weight, eos4e40."the score"')
    ['eos3b5e.mol_weight', 'eos4e40.the score']
    """
    return _Parser(expression).names() if expression.strip() else []


def make_question(
    where: str = "",
    *,
    order: str = "",
    select: str = "",
    limit: int = 100,
    distributions: Sequence[str] = (),
    allow_mixed: bool = False,
) -> dict[str, Any]:
    """Return the data of a screen from its expressions. Raises UsageError that shows the place of a mistake.

    >>> make_question("eos3b5e.mol_weight < 400", limit=3)["where"]
    [{'column': 'eos3b5e.mol_weight', 'op': 'lt', 'value': 400}]
    """
    return {
        "where": parse_conditions(where),
        "order": parse_order(order),
        "select": parse_names(select),
        "limit": limit,
        "distributions": list(distributions),
        "allow_mixed": allow_mixed,
    }


def write_name(column: str) -> str:
    """Return a column as an expression writes it.

    >>> write_name("eos3b5e.mol_weight"), write_name("eos4e40.the score")
    ('eos3b5e.mol_weight', 'eos4e40."the score"')
    """
    model, _, name = column.partition(".")
    if re.fullmatch(_PLAIN, name):
        return column
    return '{}."{}"'.format(model, name.replace('"', '""'))


def write_conditions(where: Sequence[Mapping[str, Any]]) -> str:
    """Return the `where` of a screen as an expression, which `parse_conditions` reads as the same.

    >>> write_conditions([{"column": "eos3b5e.mol_weight", "op": "between", "value": [200, 400]}])
    'eos3b5e.mol_weight between 200 and 400'
    """
    return " and ".join(
        f"({' or '.join(map(_write_condition, entry['any']))})" if "any" in entry else _write_condition(entry)
        for entry in where
    )


def _write_condition(condition: Mapping[str, Any]) -> str:
    name, op = write_name(condition["column"]), condition["op"]
    if op == "is_null":
        return f"{name} is null"
    value = condition["value"]
    if op == "between":
        return f"{name} between {_write_value(value[0])} and {_write_value(value[1])}"
    if op == "in":
        return f"{name} in ({', '.join(map(_write_value, value))})"
    return f"{name} {_SIGNS[op]} {_write_value(value)}"


def _write_value(value: float | int | str) -> str:
    return "'{}'".format(value.replace("'", "''")) if isinstance(value, str) else repr(value)


class _Parser:
    """Reads an expression from left to right; the token at hand decides what may follow."""

    def __init__(self, expression: str) -> None:
        if len(expression) > MOST_CHARACTERS:
            raise UsageError(f"the expression has {len(expression):,} characters; up to {MOST_CHARACTERS:,} are read")
        self._expression = expression
        self._token = self._read(0)

    def conditions(self) -> list[dict[str, Any]]:
        """Read `term and term …`, or `condition or condition …`."""
        terms = [self._term()]
        if self._token.word == "or":
            return [self._any_of(terms[0], "`or` or the end is expected; put alternatives in parentheses")]
        while self._take("and"):
            terms.append(self._term())
        self._expect("", "`and` or the end is expected; put alternatives in parentheses: a > 1 and (b > 1 or c > 1)")
        return terms

    def order(self) -> list[dict[str, Any]]:
        """Read `column [asc|desc], …`."""

        def one() -> dict[str, Any]:
            column = self._column()
            return {"column": column, "descending": self._take("desc") or (self._take("asc") and False)}

        return self._listed(one, "", "`asc`, `desc`, a comma or the end is expected")

    def names(self) -> list[str]:
        """Read `column, …`."""
        return self._listed(self._column, "", "a comma or the end is expected")

    def _term(self) -> dict[str, Any]:
        if not self._take("("):
            return self._condition()
        found = self._condition()
        if self._token.word == "or":
            return self._any_of(found, "`or` or ) is expected; parentheses hold alternatives alone", end=")")
        self._expect(")", "`or` or ) is expected; parentheses hold alternatives alone")
        return found

    def _any_of(self, first: dict[str, Any], otherwise: str, end: str = "") -> dict[str, Any]:
        conditions = [first]
        while self._take("or"):
            conditions.append(self._condition())
        self._expect(end, otherwise)
        return {"any": conditions}

    def _condition(self) -> dict[str, Any]:
        column = self._column()
        if self._take("between"):
            low = self._value()
            self._expect("and", "`and` is expected: between 200 and 400")
            return {"column": column, "op": "between", "value": [low, self._value()]}
        if self._take("in"):
            self._expect("(", "a list in parentheses is expected: in ('low', 'high')")
            return {"column": column, "op": "in", "value": self._listed(self._value, ")", "a comma or ) is expected")}
        if self._take("is"):
            self._expect("null", "`null` is expected; all other conditions leave out molecules without a value")
            return {"column": column, "op": "is_null"}
        operator = _OPERATORS.get(self._token.text)
        if operator is None:
            self._refuse("a comparison is expected: =, >, >=, <, <=, between, in, is null")
        self._next()
        return {"column": column, "op": operator, "value": self._value()}

    def _column(self) -> str:
        if self._token.kind != "column":
            self._refuse("a column is expected, as in eos3b5e.mol_weight")
        model, _, name = self._next().partition(".")
        if name.startswith('"'):
            name = name[1:-1].replace('""', '"')
        return f"{model}.{name}"

    def _value(self) -> float | int | str:
        kind = self._token.kind
        if kind not in ("number", "text"):
            self._refuse("a number is expected, or a text in single quotes")
        text = self._token.text
        value: float | int | str
        if kind == "text":
            value = text[1:-1].replace("''", "'")
        elif not math.isfinite(value := float(text)):
            self._refuse("the number is too large")
        elif text.lstrip("+-").isdigit():
            value = int(text)
        self._next()
        return value

    def _listed(self, read: Callable[[], _T], end: str, otherwise: str) -> list[_T]:
        found = [read()]
        while self._take(","):
            found.append(read())
        self._expect(end, otherwise)
        return found

    def _take(self, word: str) -> bool:
        """Go on if the token is this sign or word, and return whether it is."""
        taken = self._token.word == word
        if taken:
            self._next()
        return taken

    def _expect(self, word: str, otherwise: str) -> None:
        """Go on after this sign or word, or stay at the end if it is empty."""
        if self._token.kind == "end" if word == "" else self._take(word):
            return
        self._refuse(otherwise)

    def _next(self) -> str:
        """Go on to the next token, and return the text of this one."""
        text = self._token.text
        self._token = self._read(self._token.at + len(text))
        return text

    def _read(self, start: int) -> _Token:
        while self._expression[start : start + 1].isspace():
            start += 1
        found = _TOKEN.match(self._expression, start)
        if found and found.lastgroup:
            return _Token(found.lastgroup, found[found.lastgroup], start)
        return _Token("unknown", self._expression[start], start)

    def _refuse(self, what: str) -> NoReturn:
        """Raise an error that shows the place."""
        begin = max(0, self._token.at - _WIDTH // 2)
        line = re.sub(r"\s", " ", self._expression[begin : begin + _WIDTH])
        raise UsageError(f"character {self._token.at + 1}: {what}\n  {line}\n  {' ' * (self._token.at - begin)}^")
