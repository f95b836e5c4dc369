"""Which column of a table holds the molecules, by its name or by its first cells, and whether there is a header.

Where cells come from does not belong here: text, spreadsheets and Parquet have the same rules.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from precalc.errors import MoleculeFileError
from precalc.extras import require
from precalc.identifiers import is_inchi, read_inchikey
from precalc.molecules.file_content import Content
from precalc.molecules.smiles_keys import is_smiles

_SMILES = ("smiles", "isosmiles", "isomericsmiles", "canonicalsmiles", "smilesstring", "smi")
"""Names of a column of SMILES, as `_plain` writes them; the first wins. One with stereo goes before others."""
_VAGUE = ("structure", "input", "mol")
"""Names that count if none of `_SMILES` is there, and no single other column has SMILES in its name."""
_INCHI = ("inchi", "standardinchi", "stdinchi", "inchistring")
_KEYS = ("inchikey", "standardinchikey", "stdinchikey")
_KEY = "key"
"""A column of InChIKeys if its first filled cell is one: it may hold numbers of rows."""

_SEEN = 20
"""Rows whose cells are looked at where no header says what they are."""
_NAMED = 12
"""Columns that a message names."""
NO_HEADER = (0, 0)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

Cells = Sequence[str]


class Columns(NamedTuple):
    """The names of all columns, and the places of those that may hold the molecule: the first filled cell is it."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    has_header: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which molecules a caller reads: of the column that is named or numbered, and whether InChIKeys will do."""

    column: str | None = None
    keys: bool = True


ANY_MOLECULES = Wanted()


class RowBatch(NamedTuple):
    """Rows in their order: the number of each in its file, the text of its molecule, and a function that returns cells.

    The text has no blanks around it; the cells are as written, as many as there are columns. Splitting rows into cells
    takes most of the time, and few callers need them.
    """

    rows: Sequence[int]
    texts: list[str]
    cells: Callable[[], Sequence[Cells]]


ReadRows = Callable[[Content], Iterator[RowBatch]]
"""Yields the rows of a file's content."""


def read_header(rows: Sequence[Cells], wanted: Wanted, file: str, place: Callable[[int], str] = str) -> Columns:
    """Return a table's columns by its first rows, at `place`. Raises MoleculeFileError unless one has the molecules."""
    head, below = rows[0], rows[1:]
    if wanted.column is not None:
        return _chosen(rows, wanted.column, file)
    places = known_columns(head, below, wanted, file)
    if places:
        return Columns(tuple(head), places, has_header=True)
    if any(map(_is_molecule, head[:1])) and not is_known_header([*rows[1:2], []][0]):
        return _without_header(rows, 0)
    for at, row in enumerate(below[:_SEEN], start=1):
        if is_known_header(row):
            raise MoleculeFileError(
                f"{file}: {place(0)} {_shown(head)} is above the header {_shown(row)} in {place(at)}; delete what is "
                "above the header"
            )
    if len(head) == 1:
        return _without_header(rows, 0)
    looks_right = [at for at in range(max(map(len, rows))) if _looks_like_molecules(below[:_SEEN], at)]
    if 0 in looks_right and re.search(r"\W", head[0]):
        return _without_header(rows, 0)  # its first row is no molecule, and is counted as that
    raise MoleculeFileError(
        f"{file}: no column is named smiles or {'inchikey' if wanted.keys else 'inchi'}; found {_shown(head)}"
        f"{_hint(looks_right) or '; rename the right one, or name it with --input-column'}"
    )


def first_column(rows: Sequence[Cells], wanted: Wanted, file: str, _place: Callable[[int], str] = str) -> Columns:
    """Return the columns of words without a header: the molecule, then its name."""
    if wanted.column is not None:
        return _chosen(rows, wanted.column, file)
    if not any(_is_molecule(row[0]) for row in rows[:_SEEN]) and _looks_like_molecules(rows[:_SEEN], 1):
        raise MoleculeFileError(f"{file}: the first column holds no molecules{_hint([1])}")
    return Columns(("input", "name"), (0,), has_header=False)


def known_columns(names: Cells, below: Sequence[Cells], wanted: Wanted, file: str) -> tuple[int, ...]:
    """Return the places of the columns whose names say that they hold molecules; the rows `below` may decide."""
    plain = [_plain(name) for name in names]
    smiles = _one_of(_SMILES, plain, names, file)
    if smiles is None:
        similar = [at for at, name in enumerate(plain) if "smiles" in name]
        similar = [at for at in similar if "iso" in plain[at]] or similar
        smiles = similar[0] if len(similar) == 1 else _one_of(_VAGUE, plain, names, file)
        if smiles is None and similar:
            found = ", ".join(repr(names[at]) for at in similar[:_NAMED])
            raise MoleculeFileError(
                f"{file}: several columns may hold the molecules: {found}; name one with --input-column"
            )
    inchi = _one_of(_INCHI, plain, names, file)
    key = _one_of(_KEYS, plain, names, file)
    if key is None:
        key = next((at for at, name in enumerate(plain) if name.endswith("inchikey")), None)
    if key is None and _KEY in plain:
        at = plain.index(_KEY)
        filled = next((row[at] for row in below if at < len(row) and row[at].strip()), "")
        key = at if read_inchikey(filled) else None
    if smiles is None and inchi is None and key is not None and not wanted.keys:
        raise MoleculeFileError(
            f"{file}: column {names[key]!r} holds InChIKeys, which name a molecule and do not draw it; add its SMILES"
        )
    found_places = (smiles, inchi, key if wanted.keys else None)
    return tuple(at for at in found_places if at is not None)


def is_known_header(cells: Cells) -> bool:
    """Return whether a row has a name that can be nothing but that of a column of molecules."""
    return any(name in (*_SMILES, *_INCHI, *_KEYS) for name in map(_plain, cells))


def header_rank(cells: Cells, wanted: Wanted) -> tuple[int, int]:
    """Return how much a row looks like a header, and its number of cells; NO_HEADER if it does not."""
    plain = [*map(_plain, cells)]
    if is_known_header(cells) or (wanted.column and _plain(wanted.column) in plain):
        return 2, len(cells)
    return (1, len(cells)) if any(name in (*_VAGUE, _KEY) or "smiles" in name for name in plain) else NO_HEADER


def batch_rows(rows: Iterable[tuple[int, list[str]]], columns: Columns, delimiter: str = ",") -> RowBatch:
    """Return rows as a batch, each with as many cells as there are columns.

    An empty line is no row, but an empty cell in quotes is one. A short row gets empty cells. What a row has too much
    goes into its last cell, since it is mostly a name with a comma, or is left out if it is empty.
    """
    width = len(columns.names)
    numbers, whole = [], []
    for number, cells in rows:
        if not cells or (len(cells) == 1 and cells[0].isspace()):
            continue
        if len(cells) < width:
            cells = [*cells, *[""] * (width - len(cells))]
        elif len(cells) > width:
            cells = [*cells[: width - 1], delimiter.join(cells[width - 1 :]).rstrip(delimiter)]
        numbers.append(number)
        whole.append(cells)
    return RowBatch(numbers, texts_of(whole, columns.places), lambda: whole)


def texts_of(cells: Sequence[Cells], places: tuple[int, ...]) -> list[str]:
    """Return the molecule's text of each row: the first cell at `places` that is filled."""
    first, *others = places
    texts = [row[first].strip() for row in cells]
    if others and "" in texts:
        for at, text in enumerate(texts):
            if not text:
                texts[at] = next(filter(None, (cells[at][other].strip() for other in others)), "")
    return texts


def _plain(name: str) -> str:
    """Return a column's name in small letters, without blanks and marks.

    >>> _plain("InChI Key"), _plain("canonical_smiles"), _plain(" #SMILES ")
    ('inchikey', 'canonicalsmiles', 'smiles')
    """
    return re.sub(r"[\W_]+", "", name).lower()


def _one_of(known: Sequence[str], plain: Sequence[str], names: Cells, file: str) -> int | None:
    """Return the place of the first known name. Raises MoleculeFileError if two columns have it."""
    for name in known:
        if plain.count(name) > 1:
            same = ", ".join(repr(each) for each, found in zip(names, plain, strict=True) if found == name)
            raise MoleculeFileError(f"{file}: two columns may hold the molecules: {same}; rename one of them")
        if name in plain:
            return plain.index(name)
    return None


def _chosen(rows: Sequence[Cells], column: str, file: str) -> Columns:
    """Return the columns with the one that is named, or has that number, for the molecules."""
    head = rows[0]
    for same in (str.__eq__, lambda a, b: _plain(a) == _plain(b)):
        if [same(name, column) for name in head].count(True) == 1:
            return Columns(tuple(head), ([same(name, column) for name in head].index(True),), has_header=True)
    width = max(map(len, rows))
    if column.isdecimal() and 0 < int(column) <= width:
        at = int(column) - 1
        if at < len(head) and (is_known_header(head) or _plain(head[at]) in _VAGUE):
            return Columns(tuple(head), (at,), has_header=True)
        return _without_header(rows, at)
    raise MoleculeFileError(f"{file}: no single column is named {column!r}; found {_shown(head)}")


def _without_header(rows: Sequence[Cells], at: int) -> Columns:
    """Return columns that are called `input`, where the molecules are, and column_2 and so on."""
    names = ["input" if place == at else f"column_{place + 1}" for place in range(max(map(len, rows)))]
    return Columns(tuple(names), (at,), has_header=False)


def _looks_like_molecules(rows: Sequence[Cells], at: int) -> bool:
    """Return whether more than half of a column's cells are molecules."""
    return 2 * sum(at < len(row) and _is_molecule(row[at]) for row in rows) > len(rows)


def _is_molecule(text: str) -> bool:
    text = text.strip()
    if is_inchi(text) or read_inchikey(text):
        return True
    require("rdkit", "smiles")
    return is_smiles(text)


def _hint(places: Sequence[int]) -> str:
    for at in places:
        which = f"the {_ORDINALS[at]} column" if at < len(_ORDINALS) else f"column {at + 1}"
        return f"; {which} looks like SMILES: read it with --input-column {at + 1}"
    return ""


def _shown(cells: Cells) -> str:
    more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
    return ", ".join(repr(cell.strip()[:40]) for cell in cells[:_NAMED]) + more
