"""Cells of CSV: exact, or for spreadsheets. How a file is laid out does not belong here.

Exact: a null is an empty cell, an empty text is `""`, and a float is written as `repr` does. For spreadsheets: a text
that one may run as a formula gets an apostrophe in front, as Excel itself marks a text. Standard library only: the
platform's Lambda imports it.
"""

import re
from collections.abc import Callable, Iterable, Sequence

_FORMULA = re.compile(r"(?![+-]?\d+([.,]\d+)*([eE][+-]?\d+)?\Z)[=+\-@\t\r\n]")
"""How a text begins that a spreadsheet may run (OWASP, "CSV Injection"), unless it is a number."""
_NEEDS_QUOTES = re.compile(r'[,"\r\n]|^$')


def csv_cell(value: str | float | None) -> str:
    """Return a value as a cell of CSV, without the comma.

    >>> csv_cell("=C"), csv_cell(""), csv_cell(None), csv_cell(2.0), csv_cell("a,b")
    ('=C', '""', '', '2.0', '"a,b"')
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES.search(value) else value


def spreadsheet_cell(value: str | float | None) -> str:
    """Return a value as a cell that a spreadsheet shows and does not run.

    >>> spreadsheet_cell("=C"), spreadsheet_cell("-1+1"), spreadsheet_cell(-2.0), spreadsheet_cell("-0.97")
    ("'=C", "'-1+1", '-2.0', '-0.97')
    """
    return csv_cell(f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value)


def csv_text(
    names: Sequence[str],
    rows: Iterable[Sequence[str | float | None]],
    cell: Callable[[str | float | None], str] = csv_cell,
) -> str:
    r"""Return a header and a line for each row.

    >>> csv_text(["name", "score"], [("a,b", 0.5), (None, None)])
    'name,score\n"a,b",0.5\n,\n'
    """
    return "".join(f"{','.join(map(cell, line))}\n" for line in (names, *rows))
