"""Cells of the CSV that readers open in spreadsheets: one rule, by which every value comes back exactly.

A null is an empty cell, an empty text is `""`, and a float is written as `repr` does. A text that a spreadsheet may
run as a formula gets an apostrophe in front, and so does a text that already looks like that: removing one apostrophe
(`plain_text`) therefore always restores the text. How a file is laid out does not belong here. Standard library only:
the platform's Lambda imports it.
"""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How a text begins that a spreadsheet may run (OWASP, "CSV Injection"), with or without apostrophes in front."""
_NEEDS_QUOTES = re.compile(r'[,"\r\n]|^$')
_SPECIAL = re.compile(f"^{_FORMULA.pattern}|{_NEEDS_QUOTES.pattern}")


def csv_cell(value: str | float | None) -> str:
    """Return a value as a cell of CSV, without the comma."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    if not _SPECIAL.search(value):
        return value
    text = f"'{value}" if _FORMULA.match(value) else value
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def plain_text(cell: str) -> str:
    """Return the text that a cell stands for: without the apostrophe that keeps spreadsheets from running it.

    >>> plain_text("'=SUM(A1)"), plain_text("''=1"), plain_text("'quoted'"), plain_text("CCO")
    ('=SUM(A1)', "'=1", "'quoted'", 'CCO')
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
