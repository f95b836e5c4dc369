"""Spreadsheets as rows: the one sheet of a workbook that holds molecules."""

from collections.abc import Iterator
from datetime import date, time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from precalc.errors import MoleculeFileError
from precalc.extras import require
from precalc.molecules.file_content import Content
from precalc.molecules.molecule_columns import ReadRows, RowBatch, Wanted, batch_rows, header_rank, read_header

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

_SEEN = 100
"""Rows by which the header is found."""
_BATCH = 5_000

Row = tuple[int, list[str]]


def read_workbook(content: Content, path: Path, wanted: Wanted) -> tuple[tuple[str, ...], ReadRows]:
    """Return the names of a sheet's columns, and what yields its rows, which have the numbers that they have there.

    Raises MoleculeFileError if no sheet holds molecules, or more than one. Excel's limit of a million rows bounds the
    memory, since a sheet is read as a whole.
    """
    workbook = _open(content, path)
    seen = {name: list(islice(_rows(workbook.get_sheet_by_name(name)), _SEEN)) for name in workbook.sheet_names}
    filled = [name for name, rows in seen.items() if rows]
    if not filled:
        raise MoleculeFileError(f"{path.name}: the workbook is empty; it needs one molecule per row")
    with_header = [name for name in filled if any(header_rank(cells, wanted) > (1, 0) for _, cells in seen[name][:9])]
    if len(with_header) > 1:
        names = " and ".join(map(repr, with_header))
        raise MoleculeFileError(f"{path.name}: the sheets {names} all hold molecules; save one of them as a file")
    name = (with_header or filled)[0]
    columns = read_header([cells for _, cells in seen[name]], wanted, path.name, lambda at: f"row {seen[name][at][0]}")

    def rows(content: Content) -> Iterator[RowBatch]:
        below = islice(_rows(_open(content, path).get_sheet_by_name(name)), int(columns.has_header), None)
        return (batch_rows(batch, columns) for batch in iter(lambda: list(islice(below, _BATCH)), []))

    return columns.names, rows


def _open(content: Content, path: Path) -> "CalamineWorkbook":
    require("python_calamine", "excel")
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        return CalamineWorkbook.from_filelike(content.file)
    except CalamineError as error:
        raise MoleculeFileError(
            f"{path.name}: this is no workbook that can be read ({error}); save it as CSV in UTF-8"
        ) from None


def _rows(sheet: "CalamineSheet") -> Iterator[Row]:
    """Yield the rows of a sheet that have a filled cell, with their numbers."""
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        texts = [_text(cell) for cell in cells]
        if any(texts):
            yield number, texts


def _text(cell: object) -> str:
    """Return a cell as a spreadsheet shows it."""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, (date, time)) else str(cell)
