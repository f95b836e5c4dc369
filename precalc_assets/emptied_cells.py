"""Counts of cells that are served as null because they are not of their column's type, and the words for them.

A model may print `inf`, a number out of range or an error's text in a column of numbers. Such a cell is emptied, and
the molecule keeps its other values. The raw predictions have the cell as it was printed.
"""

from collections.abc import Iterable, Sequence

from precalc_assets.frozen_record import FrozenRecord

_NAMED = 3
"""Columns that a message describes; it counts the others."""


class EmptiedColumn(FrozenRecord):
    """The emptied cells of one column: their number, the first of them as printed (shortened), and its molecule."""

    column: str
    cells: int
    example: str
    smiles: str


def merge_emptied(counted: Iterable[EmptiedColumn]) -> tuple[EmptiedColumn, ...]:
    """Add up the cells of each column, with the first example; the columns with the most cells come first."""
    merged: dict[str, EmptiedColumn] = {}
    for each in counted:
        before = merged.get(each.column)
        merged[each.column] = before.model_copy(update={"cells": before.cells + each.cells}) if before else each
    return tuple(sorted(merged.values(), key=lambda each: (-each.cells, each.column)))


def count_cells(emptied: Sequence[EmptiedColumn]) -> int:
    """Return how many cells are emptied in all columns together."""
    return sum(each.cells for each in emptied)


def describe_emptied(emptied: Sequence[EmptiedColumn]) -> str:
    """Return how many cells are emptied, with the columns that have the most and an example of each."""
    if not emptied:
        return "every cell is of its column's type"
    named = [f"{each.cells:,} in {each.column}, such as {each.example!r} of {each.smiles}" for each in emptied[:_NAMED]]
    if len(emptied) > _NAMED:
        named.append(f"{len(emptied) - _NAMED:,} more columns")
    return f"{count_cells(emptied):,} cells are not of their column's type and are emptied: {'; '.join(named)}"
