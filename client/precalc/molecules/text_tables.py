"""Text as rows: CSV of any delimiter, tab-separated text, and SMILES files, whose words are separated by white space.

Text is read in blocks of a megabyte. A block without quotes is split, which is several times as fast as `csv`. In one
with quotes, `csv` reads the rows that it can, and `_record` the others: a quote that does not close in its cell is a
character like others there, so that it costs no row.
"""

import codecs
import csv
import io
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import AnyStr, NamedTuple, cast

from precalc.errors import MoleculeFileError
from precalc.molecules.file_content import Content, is_utf16, suffix_of
from precalc.molecules.molecule_columns import (
    NO_HEADER,
    Columns,
    ReadRows,
    RowBatch,
    Wanted,
    batch_rows,
    first_column,
    header_rank,
    is_known_header,
    read_header,
    texts_of,
)

_BLOCK = 1 << 20
"""Bytes that are read at a time."""
_LONGEST = 1 << 20
"""Characters of a row. No molecule is that long; a file without line ends must not end up in memory as one row."""

_WORDS = " "
"""The delimiter of SMILES files: any white space."""
_DELIMITERS = ("\t", ",", ";", "|")
_SMILES_FILES = (".smi", ".cxsmiles")
_SEEN = 100
"""Rows by which the delimiter and the header are found."""

_LINE = re.compile(r"(\S*(?:[ \t]+\|[^|\n]*\|(?=\s|$))?)\s*(.*)")
"""A line of a SMILES file: the molecule, with its CXSMILES extension, and the rest."""
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_COMMENT = re.compile(r"#[# \t]*")

Row = tuple[int, list[str]]
"""The number of a row's first line, and its cells."""


class _Reading(NamedTuple):
    """How a text is read: the file's name, the line of its first row, what separates the cells, and the columns."""

    file: str
    first_line: int
    delimiter: str
    columns: Columns


def read_text(content: Content, path: Path, wanted: Wanted) -> tuple[tuple[str, ...], ReadRows]:
    """Return a text's columns, and what yields its rows. Raises MoleculeFileError if no column holds molecules."""
    reading = _find_reading(next(text_blocks(content)), path, wanted)
    above = reading.first_line - 1

    def rows(content: Content) -> Iterator[RowBatch]:
        blocks = text_blocks(content)
        opening = "".join(next(blocks).split("\n", above)[above:])
        return _batches(chain([opening], blocks), reading)

    return reading.columns.names, rows


def text_blocks(content: Content) -> Iterator[str]:
    """Yield the text in blocks of whole lines, which end in line feeds."""
    pieces = chain([content.start], iter(partial(content.file.read, _BLOCK), b""))
    if is_utf16(content.start):
        blocks = _whole_lines(map(codecs.getincrementaldecoder("utf-16")("replace").decode, pieces), "\n")
    elif b"\r" in content.start and b"\n" not in content.start:  # as on old Macs
        blocks = (_decode(block).replace("\r", "\n") for block in _whole_lines(pieces, b"\r"))
    else:
        blocks = map(_decode, _whole_lines(pieces, b"\n"))
    yield next(blocks, "").removeprefix("\ufeff")  # UTF-16 without a whole character has no block
    yield from blocks


def _whole_lines(pieces: Iterable[AnyStr], end: AnyStr) -> Iterator[AnyStr]:
    """Yield the pieces cut after line ends; a line that is too long is yielded as it is."""
    rest = end[:0]
    for piece in pieces:
        whole, found, tail = piece.rpartition(end)
        if found or len(rest) > _LONGEST:
            yield rest + whole + found
            rest = tail
        else:
            rest += tail
    if rest:
        yield rest


def _decode(block: bytes) -> str:
    """Return bytes as text, those of a line that is not UTF-8 as what Excel writes in the West."""
    try:
        return block.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_decode_line, block.split(b"\n")))


def _decode_line(line: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")


def _find_reading(text: str, path: Path, wanted: Wanted) -> _Reading:
    """Return the reading that has a header with a known name, or else the one that fits the first line."""
    at, line, fixed = 0, 1, ""
    starts = []  # of what may be the header: the last comment, and the first line that is none
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        if found := _SEPARATOR_LINE.match(text, at):
            fixed = found[1]
        elif found := _COMMENT.match(text, at):
            starts = [(found.end(), line)]
        elif not text[at:end].isspace():
            starts.append((at, line))
            break
        at, line = end, line + 1
    by_name = (_WORDS,) if suffix_of(path).startswith(_SMILES_FILES) else ()
    if at == len(text):
        raise MoleculeFileError(f"{path.name}: the file has no rows, or only comments; it needs one molecule per line")
    likely = fixed or _likely_delimiter(text[at:end], by_name)
    candidates = [fixed] if fixed else [likely, *_DELIMITERS, *by_name]
    for start in starts[::-1]:
        samples = {candidate: _sample(text, *start, candidate) for candidate in candidates}
        ranks = {candidate: header_rank(sample[0][1], wanted) for candidate, sample in samples.items()}
        delimiter = max(ranks, key=ranks.__getitem__)  # of equal ones the likely one, which is first
        if ranks[delimiter] > NO_HEADER:
            break
    else:
        samples = {candidate: _sample(text, *starts[-1], candidate) for candidate in candidates}
        title_above = (each for each, sample in samples.items() if any(is_known_header(row) for _, row in sample[1:]))
        delimiter = next(title_above, likely)
    rows = samples[delimiter]
    find = first_column if delimiter == _WORDS and ranks[delimiter] == NO_HEADER else read_header
    columns = find([cells for _, cells in rows], wanted, path.name, lambda row: f"line {rows[row][0]}")
    lines = [number for number, _ in rows] + [text.count("\n") + 1]
    has_rule = columns.has_header and delimiter == "|" and len(rows) > 1 and _is_rule(rows[1][1])
    return _Reading(path.name, lines[columns.has_header + has_rule], delimiter, columns)


def _is_rule(cells: Sequence[str]) -> bool:
    """Return whether these are the line below the header of a table in Markdown, such as `|:---|---|`."""
    return "---" in "".join(cells) and not "".join(cells).strip(" -:")


def _likely_delimiter(line: str, by_name: Sequence[str]) -> str:
    """Return what separates the cells of a line; no SMILES has a tab or a semicolon, and only extensions commas."""
    if line.startswith("InChI=") and "\t" not in line:  # which has commas, and semicolons between its components
        return _WORDS
    if by_name and (len(line.split()) > 1 or not any(mark in line for mark in ",;")):
        return _WORDS
    if "\t" in line or line.startswith("|"):
        return "\t" if "\t" in line else "|"
    found = _LINE.match(line)
    if (found and "|" in found[1]) or (len(line.split()) > 1 and not any(mark in line for mark in ',;"')):
        return _WORDS
    return ";" if ";" in line and "," not in line else ","


def _sample(text: str, at: int, line: int, delimiter: str) -> list[Row]:
    """Return the first rows from a place on, which is in this line."""
    rows: list[Row] = []
    width = text[at : text.find("\n", at)].count(delimiter) + 1
    while at < len(text) and len(rows) < _SEEN:
        cells, end = _record(text, at, delimiter, width)
        if cells:
            rows.append((line, cells))
        line += text.count("\n", at, end)
        at = end
    return rows


def _batches(blocks: Iterable[str], reading: _Reading) -> Iterator[RowBatch]:
    """Yield the rows of blocks, the first of which begins with the first row."""
    line, rest = reading.first_line, ""
    for block in chain(blocks, [""]):  # the empty one is the end
        text = rest + block
        if '"' in text and reading.delimiter != _WORDS:
            batch, used = _quoted_rows(text, line, reading, is_last=not block)
        else:
            unix = text.replace("\r\n", "\n").removesuffix("\n")
            lines = _checked(unix.split("\n") if text else [], line, reading)
            split = _word_rows if reading.delimiter == _WORDS else _plain_rows
            batch, used = split(lines, line, reading), len(text)
        yield batch
        line += text.count("\n", 0, used)
        rest = text[used:]


def _plain_rows(lines: Sequence[str], first: int, reading: _Reading) -> RowBatch:
    """Return the rows of lines without quotes."""
    delimiter, (names, (place, *_), _) = reading.delimiter, reading.columns
    try:
        if place < len(names) - 1:
            texts = [line.split(delimiter, place + 1)[place].strip() for line in lines]
        else:  # the last column has the rest of the line, but for empty cells
            blank = f"{delimiter} \t"
            texts = [line.split(delimiter, place)[place].rstrip(blank).lstrip() for line in lines]
    except IndexError:
        texts = [""]
    return _batch(lines, first, texts, reading, partial(_cells, delimiter=delimiter))


def _cells(line: str, delimiter: str) -> list[str]:
    cells = line.split(delimiter)
    return cells if len(cells) > 1 or cells[0].strip() else []


def _word_rows(lines: Sequence[str], first: int, reading: _Reading) -> RowBatch:
    """Return the rows of lines of words."""
    width, (place, *_) = len(reading.columns.names), reading.columns.places
    if place == 0 and not any("|" in line or line[:1].isspace() for line in lines):
        texts = [line.split(maxsplit=1)[0] if line else "" for line in lines]
    else:
        texts = [""]
    return _batch(lines, first, texts, reading, lambda line: _words(line, width))


def _batch(
    lines: Sequence[str], first: int, texts: list[str], reading: _Reading, split: Callable[[str], list[str]]
) -> RowBatch:
    """Return a row for each line, with these texts; if one is empty, look at the cells, and leave out empty lines."""

    def whole() -> RowBatch:
        return batch_rows(enumerate(map(split, lines), first), reading.columns, reading.delimiter)

    def cells() -> Sequence[Sequence[str]]:
        cells = [split(line) for line in lines]
        return cells if set(map(len, cells)) == {len(reading.columns.names)} else whole().cells()

    return whole() if "" in texts else RowBatch(range(first, first + len(lines)), texts, cells)


def _words(line: str, width: int) -> list[str]:
    """Return the molecule, and the rest of the line as `width` - 1 cells."""
    found = cast("re.Match[str]", _LINE.match(line))
    return [] if not any(found.groups()) else [found[1], *found[2].split(maxsplit=max(0, width - 2))]


def _quoted_rows(text: str, first: int, reading: _Reading, *, is_last: bool) -> tuple[RowBatch, int]:
    """Return the rows of a text with quotes, and where the first row begins of which it may not have the end."""
    delimiter, columns = reading.delimiter, reading.columns
    lines = _checked(list(io.StringIO(text, newline="\n")), first, reading)
    cells = _tab_cells(lines, len(columns.names)) if delimiter == "\t" else _csv_cells(lines, delimiter)
    if cells and len(cells) == len(lines) and set(map(len, cells)) == {len(columns.names)} and len(cells[0]) > 1:
        return RowBatch(range(first, first + len(lines)), texts_of(cells, columns.places), lambda: cells), len(text)
    rows, used = _careful_rows(text, lines, first, reading, is_last=is_last)
    return batch_rows(rows, columns, delimiter), used


def _csv_cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return []


def _tab_cells(lines: Sequence[str], width: int) -> list[list[str]]:
    """Return the cells of lines of which each is a row, if all have this many: a quote then ends in its cell."""
    cells = [line.rstrip("\r\n").split("\t") for line in lines]
    goes_on = any(cell[:1] == '"' and _unquoted(cell) == cell for cell in cells[-1])
    if goes_on or set(map(len, cells)) != {width}:
        return []
    return [
        [_unquoted(cell) if cell[:1] == '"' else cell for cell in row] if '"' in line else row
        for line, row in zip(lines, cells, strict=True)
    ]


def _careful_rows(
    text: str, lines: Sequence[str], first: int, reading: _Reading, *, is_last: bool
) -> tuple[list[Row], int]:
    """Return the rows one by one, and where the first row begins of which the text may not have the end."""
    delimiter, width = reading.delimiter, len(reading.columns.names)
    starts = list(accumulate(map(len, lines), initial=0))
    rows: list[Row] = []
    at = 0
    while at < len(lines):
        if delimiter != "\t":
            begun = at
            reader = csv.reader(map(lines.__getitem__, range(at, len(lines))), delimiter=delimiter, strict=True)
            with suppress(csv.Error):  # `_record` reads the row that it refuses
                for cells in reader:
                    rows.append((first + at, cells))
                    at = begun + reader.line_num
        if at == len(lines) or (not is_last and starts[-1] - starts[at] < _LONGEST):
            break
        cells, end = _record(text, starts[at], delimiter, width)
        if end - starts[at] > _LONGEST:
            raise _too_long(first + at, reading)
        rows.append((first + at, cells))
        at = bisect_left(starts, end)
    return rows, starts[at]


def _record(text: str, at: int, delimiter: str, width: int) -> tuple[list[str], int]:
    """Return the cells of the row that begins at a place of the text, and the place behind it.

    A cell in quotes may have line ends. But in text with tabs such quotes are inches or seconds, unless the row then
    has the right number of cells, and no line within it has that too.
    """
    end = text.find("\n", at) + 1 or len(text)
    line = text[at:end].removesuffix("\n").removesuffix("\r")
    if delimiter == _WORDS:
        return _words(line, _SEEN), end
    if '"' not in line:
        return _cells(line, delimiter), end
    cells, quoted_end = _quoted_cells(text, at, delimiter)
    others = text[end:quoted_end].removesuffix("\n").split("\n") if quoted_end > end else []
    if delimiter == "\t" and (len(cells) != width or any(other.count("\t") == width - 1 for other in others)):
        return [*map(_unquoted, line.split(delimiter))], end
    return cells, quoted_end


def _unquoted(cell: str) -> str:
    """Return the content of a cell that is in quotes, and any other cell as it is."""
    found = _cell("\t").fullmatch(cell)
    return cell if found is None or found[1] is None else found[1].replace('""', '"')


@cache
def _cell(delimiter: str) -> re.Pattern[str]:
    """Return the pattern of a cell: in quotes that close before a delimiter or a line end, or else as it stands."""
    ends = f"(?=[{re.escape(delimiter)}\\n]|\\r\\n|\\Z)"
    return re.compile(rf'"([^"]*+(?:""[^"]*+)*+)" *{ends}|([^{re.escape(delimiter)}\n]*)')


def _quoted_cells(text: str, at: int, delimiter: str) -> tuple[list[str], int]:
    cells = []
    while found := _cell(delimiter).match(text, at):
        cells.append(found[2] if found[1] is None else found[1].replace('""', '"'))
        at = found.end() + 1
        if text[at - 1 : at] != delimiter:
            break
    if found and found[1] is None:
        cells[-1] = cells[-1].removesuffix("\r")
    # What follows the last cell: nothing, or a line end.
    return cells, min(len(text), at + (text[at - 1 : at + 1] == "\r\n"))


def _checked(lines: list[str], first: int, reading: _Reading) -> list[str]:
    """Return the lines. Raises MoleculeFileError if one is too long."""
    if max(map(len, lines), default=0) > _LONGEST:
        raise _too_long(first + next(at for at, line in enumerate(lines) if len(line) > _LONGEST), reading)
    return lines


def _too_long(line: int, reading: _Reading) -> MoleculeFileError:
    return MoleculeFileError(
        f"{reading.file}: the row in line {line} is over 1 MiB; end a quote that is open there, or shorten the row"
    )
