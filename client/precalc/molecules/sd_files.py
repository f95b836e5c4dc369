"""SDF as rows: a record is a row, its mol block the molecule, and its title and data items are the other cells."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from precalc.errors import MoleculeFileError
from precalc.molecules.file_content import Content
from precalc.molecules.molecule_columns import ReadRows, RowBatch, Wanted
from precalc.molecules.text_tables import text_blocks

_END = "M  END"
_ITEM = re.compile(r"^>.*?<([^\n]*)>[^\n]*\n((?:[^\n]+\n)*)", re.MULTILINE)
_LONGEST = 1 << 20
"""Characters of a record."""
_BATCH = 500


class _Record(NamedTuple):
    block: str
    items: dict[str, str]

    @property
    def title(self) -> str:
        return self.block.partition("\n")[0].strip()


def read_sdf(content: Content, path: Path, wanted: Wanted) -> tuple[tuple[str, ...], ReadRows]:
    """Return `title` and the names of the data items of all records, and what yields the rows, numbered from 1.

    The molecule is the mol block, unless an item is asked for.
    """
    items = dict.fromkeys(name for record in _records(content, path) for name in record.items)
    column = wanted.column
    if column is not None and column not in items:
        way = "leave out --input-column for its structures"
        raise MoleculeFileError(f"{path.name}: no record has an item {column!r}; {way}")

    def rows(content: Content) -> Iterator[RowBatch]:
        records = enumerate(_records(content, path), start=1)
        while batch := list(islice(records, _BATCH)):
            numbers = [number for number, _ in batch]
            texts = [record.items.get(column, "") if column else record.block for _, record in batch]
            cells = [[record.title, *(record.items.get(name, "") for name in items)] for _, record in batch]
            yield RowBatch(numbers, texts, lambda cells=cells: cells)  # type: ignore[misc]

    return ("title", *items), rows


def _records(content: Content, path: Path) -> Iterator[_Record]:
    for text in _texts(text_blocks(content), path):
        block, end, data = text.partition(f"\n{_END}")
        if not end:
            block, start, data = text.partition("\n>")
            data = start + data
        yield _Record(f"{block}\n{_END}\n", {name: value.rstrip("\n") for name, value in _ITEM.findall(data)})


def _texts(blocks: Iterable[str], path: Path) -> Iterator[str]:
    """Yield the text of each record."""
    rest, number = "", 1
    for block in blocks:
        *whole, rest = re.split(r"^\$\$\$\$.*\n?", rest + block.replace("\r\n", "\n"), flags=re.MULTILINE)
        for at, text in enumerate([*whole, rest], start=number):
            if len(text) > _LONGEST:
                raise MoleculeFileError(f"{path.name}: record {at} is over 1 MiB; is its end $$$$ missing?")
        yield from whole
        number += len(whole)
    if rest.strip():
        yield f"{rest}\n"
