"""What a file is, by its content: it is decompressed, and named as what it is if it holds no molecules.

A name may lie: a spreadsheet named .csv, a login page saved as .sdf. How rows are read does not belong here.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from precalc.errors import MoleculeFileError
from precalc.extras import require

FORMATS = (".csv", ".tsv", ".txt", ".smi", ".cxsmiles", ".sdf", ".xlsx", ".parquet")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

Kind = Literal["text", "SDF", "workbook", "Parquet"]

_BLOCK = 1 << 20
"""Bytes at the beginning by which a file is judged."""


def _zstd(file: BinaryIO) -> BinaryIO:
    require("pyarrow", "parquet")
    import pyarrow as pa

    # It reports a stream that is cut short, which the package zstandard takes for its end.
    return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))


_PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_WORKBOOK = (b"xl/", b"[Content_Types].xml", b"opendocument.spreadsheet")
"""Names within a ZIP that is a spreadsheet; that of a Word document is read as one, and then refused."""


_OTHERS = {
    rb"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    rb"(?i:<!doctype html|<html)": "an HTML page, as a login or an error saved instead of the file; fetch it again",
    rb"<\?xml": "XML; save it as CSV",
    rb"%PDF": "a PDF; copy the table into a spreadsheet and save it as CSV",
    rb"\{\\rtf": "a document in RTF; save it as plain text",
    rb'[{[]\s*["{[]': "JSON; save the SMILES as CSV",
    rb"Rar!": "a RAR archive; unpack it and name the file inside",
    rb"7z\xbc\xaf": "a 7z archive; unpack it and name the file inside",
    rb"(#.*\n|\s)*@<TRIPOS>": "a Mol2 file; save it as SDF",
    rb"(HEADER|TITLE|COMPND|REMARK|CRYST1|ATOM|HETATM) {2,}\S": "a PDB file; save the molecule as SDF",
    rb"(#.*\n|\s)*data_\S+\s+(#|_|loop_)": "a CIF file; save the molecule as SDF",
    rb"\$RXN|\$RDFILE": "a file of reactions; save their molecules as SDF",
    rb"VjCD0100": "a ChemDraw file; save it as SDF",
}
"""Beginnings of what is no list of molecules, and what it is."""

_MOL_BLOCK = re.compile(rb"(?:[^\n]*\n){3}[^\n]*V[23]000")
_CONTROL = bytes({*range(32), 127} - {*b"\t\n\x0b\x0c\r\x1a\x1b"})


@dataclass(frozen=True, slots=True)
class Content:
    """A file's decompressed bytes, what they are, and the first of them, after which `file` goes on if it is text."""

    file: BinaryIO
    kind: Kind
    start: bytes


def suffix_of(path: Path) -> str:
    """Return the end of a file name that says what is in it, in lower case: .csv.gz, or nothing."""
    known = [part.lower() for part in path.suffixes[-2:]]
    last = known[-1:] if known and known[-1] in (*FORMATS, *COMPRESSED) else []
    both = known if last and last[0] in COMPRESSED and known[0] in FORMATS else last
    return "".join(both)


@contextmanager
def open_content(path: Path) -> Iterator[Content]:
    """Open a file of molecules, decompressed. Raises MoleculeFileError if it is missing, damaged, or something else."""
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            unpacked = _decompressed(file, stack)
            start = unpacked.read(_BLOCK)
            kind = _judge(start, path)
            if kind in ("workbook", "Parquet"):
                # Their readers jump; a compressed one has to be in memory whole, as its tables are.
                unpacked = file if unpacked is file else BytesIO(start + unpacked.read())
                unpacked.seek(0)
            yield Content(unpacked, kind, start)
    except FileNotFoundError:
        raise MoleculeFileError(f"{path}: there is no such file; name the one that holds the molecules") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is None:  # as bz2 and pyarrow report damage
            raise _damaged(path, error) from error
        raise MoleculeFileError(f"{path}: cannot be read: {error.strerror}; name a file that can") from error


def _damaged(path: Path, error: Exception) -> MoleculeFileError:
    return MoleculeFileError(f"{path.name}: damaged or cut short: {error}; make or fetch it again")


def _decompressed(file: BinaryIO, stack: ExitStack) -> BinaryIO:
    """Return the file without its compression, if it has one."""
    start = file.read(len(max(_PACKED, key=len)))
    file.seek(0)
    for magic, unpack in _PACKED.items():
        if start.startswith(magic):
            return cast(BinaryIO, stack.enter_context(unpack(file)))
    return file


def _judge(start: bytes, path: Path) -> Kind:
    """Return what a file is. Raises MoleculeFileError with the name of what it is instead."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise MoleculeFileError(f"{path.name}: the file is empty; it needs one molecule per line")
    if start.startswith(b"PAR1"):
        return "Parquet"
    if start.startswith(_OLE) or (start.startswith(_ZIP) and any(name in start for name in _WORKBOOK)):
        return "workbook"
    found = next((what for beginning, what in _OTHERS.items() if re.match(beginning, text)), None)
    if start.startswith(_ZIP):
        found = "a ZIP archive; unpack it and name the file inside"
    if start.startswith(tuple(_PACKED)):
        found = "compressed twice; unpack it once"
    sample = start[:4096]
    if not found and not is_utf16(start) and len(sample.translate(None, _CONTROL)) < 0.9 * len(sample):
        found = "no text, and no format that is known here; save it as CSV in UTF-8"
    if found:
        raise MoleculeFileError(f"{path.name}: this is {found}")
    named_so = suffix_of(path).startswith(".sdf") and b"M  END" in start
    return "SDF" if named_so or _MOL_BLOCK.match(start.replace(b"\r\n", b"\n")) else "text"


def is_utf16(start: bytes) -> bool:
    """Return whether bytes begin with the mark of UTF-16, as Excel's Unicode text does."""
    return start.startswith((b"\xff\xfe", b"\xfe\xff"))
