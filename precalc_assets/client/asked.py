"""What is asked for: InChIKeys and SMILES, mixed, from a file or a list; each SMILES turned into its InChIKey here.

A file is read as the reference library's is, with one thing more: a column of InChIKeys by its name.
"""

import csv
import gzip
import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TextIO

from precalc_assets.errors import LibraryError, UsageError
from precalc_assets.sharding import INCHIKEY

_CHUNK = 20_000
"""Rows that are identified together: 3.5 s of RDKit on two cores, against 0.2 s to start its processes."""

_FEW = 300
"""SMILES that are parsed in this process: starting others would take longer."""

_READ_BYTES = 1 << 20
_KEY_HEADERS = ("inchikey", "key")
_SMILES_HEADERS = ("smiles", "input")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Asked:
    """Molecules in the order asked: the text of each, its InChIKey or None, and why those with None have none."""

    texts: list[str]
    inchikeys: list[str | None]
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)


class Molecules(Protocol):
    """Molecules that are asked for, which may be more than fit into memory, and may be gone through several times."""

    digest: str
    """A name of the content: the same for the same molecules in the same order."""

    total: int
    """How many there are; for a file about how many, since blank lines are counted."""

    def batches(self, size: int, skip: int = 0) -> Iterator[Asked]:
        """Yield batches of `size`, without the first `skip` molecules. Raises LibraryError for a file of no use."""
        ...


class MoleculeList:
    """Molecules that somebody has named one by one."""

    def __init__(self, texts: Sequence[str], *, processes: int) -> None:
        self._texts = [text.strip() for text in texts]
        self._processes = processes
        self.total = len(self._texts)
        self.digest = hashlib.sha256(json.dumps(self._texts).encode()).hexdigest()

    def batches(self, size: int, skip: int = 0) -> Iterator[Asked]:
        """See `Molecules.batches`."""
        return _regrouped(_identified(self._texts[skip:], self._processes), size)


class MoleculeFile:
    """A file of molecules: CSV, CSV.gz or SMI. Raises LibraryError if it is not there or cannot be read."""

    def __init__(self, path: Path, *, processes: int) -> None:
        self._path = path
        self._processes = processes
        self.digest, lines = _survey(path)
        self.total = max(0, lines - _lines_before(path))

    def batches(self, size: int, skip: int = 0) -> Iterator[Asked]:
        """See `Molecules.batches`."""
        return _regrouped(_identified(islice(_texts(self._path), skip, None), self._processes), size)


class IdentifiedMolecules:
    """Other molecules, identified once and kept in a file, for several models that are asked for the same ones."""

    def __init__(self, molecules: Molecules, path: Path) -> None:
        self._path = path
        self.digest, self.total = molecules.digest, 0
        with path.open("w", encoding="utf-8") as file:
            for batch in molecules.batches(_FEW):
                self.total += len(batch)
                file.write(json.dumps([batch.texts, batch.inchikeys, batch.reasons]) + "\n")

    def batches(self, size: int, skip: int = 0) -> Iterator[Asked]:
        """See `Molecules.batches`."""
        return _regrouped(self._pieces(skip), size)

    def _pieces(self, skip: int) -> Iterator[Asked]:
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                batch = Asked(*json.loads(line))
                if skip < len(batch):
                    unreadable = sum(key is None for key in batch.inchikeys[:skip])
                    yield Asked(batch.texts[skip:], batch.inchikeys[skip:], batch.reasons[unreadable:])
                skip = max(0, skip - len(batch))


def keep_stream(stream: BinaryIO, folder: Path) -> Path:
    """Copy standard input into a folder, named by what it holds, and return where: a file can be read again.

    Names without a comma, tab or semicolon in the first line may follow the SMILES after a blank, as in a SMI file.
    """
    opening = stream.read(_READ_BYTES)
    if not opening.strip():
        raise UsageError("standard input is empty; pipe molecules into it, or name a file with -i")
    first = opening.lstrip().splitlines()[0]
    is_smi = len(first.split()) > 1 and not any(mark in first for mark in b',;\t"')
    suffix = ".csv.gz" if opening.startswith(_GZIP) else ".smi" if is_smi else ".csv"
    path = folder / f"standard input{suffix}"
    with path.open("wb") as file:
        file.write(opening)
        shutil.copyfileobj(stream, file, _READ_BYTES)
    return path


def _survey(path: Path) -> tuple[str, int]:
    """Return the digest of a file's content, and how many lines it has."""
    digest, lines, end = hashlib.sha256(), 0, b"\n"
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                end = chunk[-1:]
    except FileNotFoundError:
        raise LibraryError(f"{path}: there is no such file; name the one that holds the molecules") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LibraryError(f"{path.name}: damaged or cut short: {error}; make or fetch it again") from None
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest(), lines + (end != b"\n")


def _lines_before(path: Path) -> int:
    """Return how many lines there are before the first molecule."""
    if _find_keys(path):
        return 1
    from precalc_assets.library import read_rows

    return next((row - 1 for row, _ in read_rows(path)), 0)


def _texts(path: Path) -> Iterator[str]:
    keys = _find_keys(path)
    if keys:
        return _cells(path, keys)
    from precalc_assets.library import read_rows

    return (text for _, text in read_rows(path))


class _KeyColumn(NamedTuple):
    """Where the InChIKeys of a CSV file are, and what is between its cells."""

    at: int
    delimiter: str


def _find_keys(path: Path) -> _KeyColumn | None:
    """Return which column of a CSV file is one of InChIKeys by name, if none is one of SMILES."""
    if path.name.lower().endswith(".smi"):
        return None
    with _open_text(path) as file:
        try:
            header = next((line for line in file if line.strip()), "")
        except UnicodeDecodeError:
            return None  # `read_rows` says what is wrong with it, and where
    # A spreadsheet writes semicolons where a comma is in numbers.
    delimiter = "\t" if "\t" in header else ";" if ";" in header and "," not in header else ","
    names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    if set(_SMILES_HEADERS) & set(names):
        return None
    return next((_KeyColumn(names.index(name), delimiter) for name in _KEY_HEADERS if name in names), None)


def _cells(path: Path, keys: _KeyColumn) -> Iterator[str]:
    with _open_text(path) as file:
        try:
            rows = (row for row in csv.reader(file, delimiter=keys.delimiter, strict=True) if any(map(str.strip, row)))
            for row in islice(rows, 1, None):
                yield row[keys.at].strip() if keys.at < len(row) else ""
        except (csv.Error, UnicodeDecodeError) as error:
            raise LibraryError(f"{path.name}: {error}; save it as CSV in UTF-8") from None


def _open_text(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _identified(texts: Iterable[str], processes: int) -> Iterator[Asked]:
    """Yield the molecules in pieces, in their order, with their InChIKeys."""
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        matches = INCHIKEY.match
        keys = [text if matches(text) else None for text in chunk]
        strange = [at for at, key in enumerate(keys) if key is None]
        if strange:
            yield from _parsed(chunk, keys, strange, processes)
        else:
            yield Asked(chunk, keys)


def _parsed(chunk: list[str], keys: list[str | None], strange: list[int], processes: int) -> Iterator[Asked]:
    """Yield a chunk in pieces as RDKit gets on with what are no InChIKeys."""
    from precalc_assets.library.parsing import parse_rows

    start = 0
    for parsed in parse_rows(((at, chunk[at]) for at in strange), 1 if len(strange) <= _FEW else processes):
        reasons = []
        for row in parsed:
            if row.inchikey:
                keys[row.row] = row.inchikey
            else:
                reasons.append(f"{row.smiles[:60]!r}: {row.reason}")
        # Up to the last one that is parsed: what follows may wait for RDKit.
        end = parsed[-1].row + 1
        yield Asked(chunk[start:end], keys[start:end], reasons)
        start = end
    if start < len(chunk):
        yield Asked(chunk[start:], keys[start:])


def _regrouped(pieces: Iterable[Asked], size: int) -> Iterator[Asked]:
    texts: list[str] = []
    keys: list[str | None] = []
    reasons: list[str] = []
    for piece in pieces:
        texts += piece.texts
        keys += piece.inchikeys
        reasons += piece.reasons
        while len(texts) >= size:
            lost = keys[:size].count(None)
            yield Asked(texts[:size], keys[:size], reasons[:lost])
            del texts[:size], keys[:size], reasons[:lost]
    if texts:
        yield Asked(texts, keys, reasons)
