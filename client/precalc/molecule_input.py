"""The molecules of a request: InChIKeys and SMILES, mixed, from a file or a list; each SMILES gets its InChIKey here.

A file is read as the reference library's is, and may have a column of InChIKeys instead of SMILES.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from precalc.errors import UsageError
from precalc.identifiers import INCHIKEY
from precalc.molecule_files import KEY_HEADERS, SMILES_HEADERS, open_file, read_rows

_CHUNK = 20_000
"""Rows that are identified together: 3.5 s of RDKit on two cores, against 0.2 s to start its processes."""

_FEW = 300
"""SMILES that are parsed in this process: starting others would take longer."""

_READ_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class MoleculeBatch:
    """Molecules in their order: the text of each, its InChIKey or None, and the reason for each None."""

    texts: list[str]
    inchikeys: list[str | None]
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def split(self, n: int) -> "tuple[MoleculeBatch, MoleculeBatch]":
        """Return the first `n` molecules, and the others."""
        unreadable = self.inchikeys[:n].count(None)
        return (
            MoleculeBatch(self.texts[:n], self.inchikeys[:n], self.reasons[:unreadable]),
            MoleculeBatch(self.texts[n:], self.inchikeys[n:], self.reasons[unreadable:]),
        )


@dataclass(frozen=True, slots=True)
class MoleculeInput:
    """Molecules that may be more than fit into memory, and can be read several times.

    `digest` names the content: the same molecules in the same order have the same one. `total` is their number; for a
    file it also counts blank lines. `read` yields batches of any size without the first so many molecules, and raises
    MoleculeFileError for an unusable file.
    """

    digest: str
    total: int
    read: Callable[[int], Iterator[MoleculeBatch]]

    def batches(self, size: int, skip: int = 0) -> Iterator[MoleculeBatch]:
        """Yield batches of `size`, without the first `skip` molecules."""
        rest = MoleculeBatch([], [])
        for batch in self.read(skip):
            rest = MoleculeBatch(
                rest.texts + batch.texts, rest.inchikeys + batch.inchikeys, rest.reasons + batch.reasons
            )
            while len(rest) >= size:
                whole, rest = rest.split(size)
                yield whole
        if len(rest):
            yield rest


def read_list(texts: Iterable[str]) -> MoleculeInput:
    """Return molecules that are named one by one."""
    stripped = [text.strip() for text in texts]
    digest = hashlib.sha256(json.dumps(stripped).encode()).hexdigest()
    return MoleculeInput(digest, len(stripped), lambda skip: _identify(stripped[skip:]))


def read_file(path: Path) -> MoleculeInput:
    """Return the molecules of a CSV, CSV.gz or SMI file. Raises MoleculeFileError if it cannot be read."""
    digest, lines, end = hashlib.sha256(), 0, b"\n"
    with open_file(path) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            end = chunk[-1:]

    def rows() -> Iterator[tuple[int, str]]:
        return read_rows(path, (*SMILES_HEADERS, *KEY_HEADERS))

    header = next((row - 1 for row, _ in rows()), 0)
    return MoleculeInput(
        digest.hexdigest(),
        max(0, lines + (end != b"\n") - header),
        lambda skip: _identify(text for _, text in islice(rows(), skip, None)),
    )


def identify_once(molecules: MoleculeInput, path: Path) -> MoleculeInput:
    """Return the same molecules with their InChIKeys in a file, for requests of the same ones to several models."""
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in molecules.batches(_FEW):
            total += len(batch)
            file.write(json.dumps([batch.texts, batch.inchikeys, batch.reasons]) + "\n")

    def read(skip: int) -> Iterator[MoleculeBatch]:
        with path.open(encoding="utf-8") as file:
            for batch in (MoleculeBatch(*json.loads(line)) for line in file):
                yield batch.split(skip)[1]
                skip = max(0, skip - len(batch))

    return MoleculeInput(molecules.digest, total, read)


def save_stream(stream: BinaryIO, folder: Path) -> Path:
    """Copy standard input into a file of the folder, named by its format, and return its path: it is read twice.

    The format is SMI if the first line has words, as names after the SMILES, but no comma, tab or semicolon.
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


def _identify(texts: Iterable[str]) -> Iterator[MoleculeBatch]:
    """Yield the molecules with their InChIKeys, in their order."""
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        keys = [text if INCHIKEY.match(text) else None for text in chunk]
        smiles = [at for at, key in enumerate(keys) if key is None]
        yield from _parse(chunk, keys, smiles) if smiles else [MoleculeBatch(chunk, keys)]


def _parse(texts: list[str], keys: list[str | None], smiles: Sequence[int]) -> Iterator[MoleculeBatch]:
    """Yield the texts in pieces as RDKit parses those at the places `smiles`; the others have their keys already."""
    from precalc.smiles_workers import parse_rows

    start = 0
    processes = 1 if len(smiles) <= _FEW else os.cpu_count() or 1
    for parsed in parse_rows(((at, texts[at]) for at in smiles), processes):
        reasons = []
        for row in parsed:
            keys[row.row] = row.inchikey or None
            if row.reason:
                reasons.append(f"{row.smiles[:60]!r}: {row.reason}")
        # The piece ends behind the last parsed SMILES; after the very last one, nothing waits for RDKit any more.
        end = len(texts) if parsed[-1].row == smiles[-1] else parsed[-1].row + 1
        yield MoleculeBatch(texts[start:end], keys[start:end], reasons)
        start = end
