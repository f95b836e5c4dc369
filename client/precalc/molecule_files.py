"""Files of molecules as rows of text: CSV, CSV.gz or SMI, read as a stream.

Whether the text is a molecule is for `smiles_keys` to say. Exception: a first cell that is a SMILES means that the file
has no header.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from precalc.errors import MoleculeFileError
from precalc.extras import require
from precalc.identifiers import INCHIKEY
from precalc.smiles_keys import is_smiles

SUFFIXES = (".csv", ".csv.gz", ".smi")

SMILES_HEADERS = ("smiles", "input")
"""Names of a SMILES column, in any case; the first one wins. Ersilia's CLI knows the same names."""

KEY_HEADERS = ("inchikey", "key")
"""Names of a column of InChIKeys, for callers that take those too."""

_LONGEST_LINE = 1 << 20
"""Bytes. No molecule is that long; a file without line breaks must not end up in memory as one line."""


class Survey(NamedTuple):
    """Counts of a file: rows that are not blank, without the header, and blank lines."""

    rows: int
    blank_lines: int


def suffix_of(path: Path) -> str:
    """Return which of SUFFIXES a file name ends in. Raises MoleculeFileError if it ends in none of them."""
    name = path.name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise MoleculeFileError(f"{path.name}: molecules are read from {', '.join(SUFFIXES)}; convert or rename the file")


def read_rows(path: Path, headers: Sequence[str] = SMILES_HEADERS) -> Iterator[tuple[int, str]]:
    """Yield (row, text of the molecule, stripped) for each row that is not blank; a row is its line in an editor.

    CSV: the column named by the first of `headers` that the file has, or its only column; separated by commas, tabs or
    semicolons. Without a header (the first cell is a SMILES or an InChIKey), the first column. SMI: the text before the
    first white space.
    Raises MoleculeFileError for a file that is missing, empty, not UTF-8, cut short, or without a column to read.
    """
    return ((row, text) for row, text in _rows(path, headers) if text is not None)


def survey(path: Path) -> Survey:
    """Read a file to its end and count. Raises what `read_rows` raises, before any work is done."""
    rows = blank_lines = 0
    for _, text in _rows(path, SMILES_HEADERS):
        if text is None:
            blank_lines += 1
        else:
            rows += 1
    return Survey(rows, blank_lines)


def _rows(path: Path, headers: Sequence[str]) -> Iterator[tuple[int, str | None]]:
    """Yield (row, text of the molecule), with None for a blank line."""
    return _smi_rows(path) if suffix_of(path) == ".smi" else _csv_rows(path, headers)


def _smi_rows(path: Path) -> Iterator[tuple[int, str | None]]:
    first = True
    for row, line in enumerate(_lines(path), start=1):
        words = line.split(maxsplit=1)
        if words and not (first and words[0].lower() in SMILES_HEADERS):
            yield row, words[0]
        elif not words:
            yield row, None
        first = first and not words
    if first:
        raise _empty(path)


def _csv_rows(path: Path, headers: Sequence[str]) -> Iterator[tuple[int, str | None]]:
    lines = _lines(path)
    opening = []
    for line in lines:
        opening.append(line)
        if line.strip():
            break
    else:
        raise _empty(path)
    column = None
    for row, cells in _records(chain(opening, lines), _delimiter(opening[-1]), path):
        if not any(map(str.strip, cells)):
            yield row, None
        elif column is None:
            column, has_header = _find_column(cells, path, headers)
            if not has_header:
                yield row, cells[column].strip()
        else:
            yield row, cells[column].strip() if column < len(cells) else ""
    if column is None:
        raise _empty(path)


def _records(lines: Iterator[str], delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the number of the line it starts on."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    row = 1
    try:
        for cells in reader:
            yield row, cells
            row = reader.line_num + 1
    except csv.Error as error:
        raise MoleculeFileError(f"{path.name}: row {row}: {error}; mend the quotes there") from error


def _delimiter(line: str) -> str:
    """Return what separates the cells of a file's first line; neither tab nor semicolon occurs in a SMILES."""
    if "\t" in line:
        return "\t"
    return ";" if ";" in line and "," not in line else ","


def _find_column(cells: list[str], path: Path, headers: Sequence[str]) -> tuple[int, bool]:
    """Return the index of the molecules' column, and whether these cells are a header."""
    names = [cell.strip().lower() for cell in cells]
    for header in headers:
        if names.count(header) > 1:
            raise MoleculeFileError(f"{path.name}: two columns are named {header!r}; rename one of them")
        if header in names:
            return names.index(header), True
    if INCHIKEY.match(cells[0].strip()):
        return 0, False
    require("rdkit", "smiles")
    if is_smiles(cells[0]):
        return 0, False
    if len(cells) == 1:
        return 0, True
    found = ", ".join(repr(cell.strip()[:40]) for cell in cells[:20])
    raise MoleculeFileError(
        f"{path.name}: no column is named {' or '.join(headers)}; found {found}; rename the right one"
    )


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file's content, decompressed. Raises MoleculeFileError if it is missing, damaged or unreadable."""
    try:
        with gzip.open(path) if suffix_of(path) == ".csv.gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except FileNotFoundError:
        raise MoleculeFileError(f"{path}: there is no such file; name the one that holds the molecules") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MoleculeFileError(f"{path.name}: damaged or cut short: {error}; make or fetch it again") from error
    except OSError as error:
        raise MoleculeFileError(f"{path}: cannot be read: {error.strerror}") from error


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, with their ends, without the byte order mark."""
    with open_file(path) as file:
        offset = 0
        for line in iter(partial(file.readline, _LONGEST_LINE), b""):
            text = _decode(line, offset, path)
            yield text if offset else text.removeprefix("\ufeff")
            offset += len(line)


def _decode(line: bytes, offset: int, path: Path) -> str:
    """Return a line as text. Raises MoleculeFileError, with the place in the file, for what is not lines of text."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise MoleculeFileError(
            f"{path.name}: byte {place} (0x{line[error.start]:02x}) is not UTF-8 text; save it as CSV in UTF-8"
        ) from None
    if "\0" in text:
        place = offset + line.index(0)
        raise MoleculeFileError(f"{path.name}: byte {place} is zero: this is no text; save it as CSV in UTF-8")
    if len(line) == _LONGEST_LINE and not text.endswith("\n"):
        raise MoleculeFileError(f"{path.name}: the line at byte {offset} is over 1 MiB; is this a list of molecules?")
    if "\r" in text.removesuffix("\n").removesuffix("\r"):
        raise MoleculeFileError(
            f"{path.name}: a line ends in a bare carriage return after byte {offset}; save it with Unix line ends"
        )
    return text


def _empty(path: Path) -> MoleculeFileError:
    return MoleculeFileError(f"{path.name}: the file is empty; it needs one SMILES per line")
