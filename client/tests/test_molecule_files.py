"""Library files as people make them: what is read from them, and what is said of those that cannot be read."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from precalc.errors import MoleculeFileError
from precalc.molecule_files import Survey, read_rows, survey

READABLE = {
    "header": ("a.csv", b"smiles\nCCO\nCCN\n", [(2, "CCO"), (3, "CCN")]),
    "byte order mark": ("a.csv", b"\xef\xbb\xbfsmiles\nCCO\n", [(2, "CCO")]),
    "byte order mark, no header": ("a.csv", b"\xef\xbb\xbfCCO\n", [(1, "CCO")]),
    "windows line ends": ("a.csv", b"smiles\r\nCCO\r\n\r\nCCN\r\n", [(2, "CCO"), (4, "CCN")]),
    "blank lines": ("a.csv", b"\n\nsmiles\n\nCCO\n  \n,\nCCN", [(5, "CCO"), (8, "CCN")]),
    "no line end at the end": ("a.csv", b"smiles\nCCO", [(2, "CCO")]),
    "smiles in the second column": ("a.csv", b"id,SMILES\n1,CCO\n2,CCN\n", [(2, "CCO"), (3, "CCN")]),
    "a column called input": ("a.csv", b"key,Input\n1,CCO\n", [(2, "CCO")]),
    "smiles wins over input": ("a.csv", b"input,smiles\n1,CCO\n", [(2, "CCO")]),
    "the only column, whatever its name": ("a.csv", b"structure\nCCO\n", [(2, "CCO")]),
    "no header": ("a.csv", b"CCO\nCCN\n", [(1, "CCO"), (2, "CCN")]),
    "no header, with names": ("a.csv", b"CCO,ethanol\n", [(1, "CCO")]),
    "quoted cells": ("a.csv", b'name,smiles\n"a ""b"", c","CCO"\n', [(2, "CCO")]),
    "a cell of two lines": ("a.csv", b'name,smiles\n"a\nb",CCO\nc,CCN\n', [(2, "CCO"), (4, "CCN")]),
    "blanks around cells": ("a.csv", b" smiles ,name\n CCO ,x\n", [(2, "CCO")]),
    "short rows": ("a.csv", b"name,smiles\na,CCO\nb\n", [(2, "CCO"), (3, "")]),
    "tabs": ("a.csv", b"name\tsmiles\nx, y\tCCO\n", [(2, "CCO")]),
    "semicolons": ("a.csv", b"smiles;name\nCCO;x\n", [(2, "CCO")]),
    "a suffix in capitals": ("A.CSV", b"smiles\nCCO\n", [(2, "CCO")]),
    "gzip": ("a.csv.gz", gzip.compress(b"smiles\r\nCCO\r\n"), [(2, "CCO")]),
    "smi": ("a.smi", b"CCO\tethanol, 96 %\nCCN amine\n\nC\r\n", [(1, "CCO"), (2, "CCN"), (4, "C")]),
    "smi with a header": ("a.smi", b"smiles name\nCCO x\n", [(2, "CCO")]),
    "header only": ("a.csv", b"smiles\n", []),
}

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"

UNREADABLE = {
    "empty": ("a.csv", b"", "a.csv: the file is empty"),
    "blank": ("a.csv", b"\n\n  \n", "the file is empty"),
    "nothing but separators": ("a.csv", b",,\n,,\n", "the file is empty"),
    "empty smi": ("a.smi", b"\n", "the file is empty"),
    "empty gzip": ("a.csv.gz", gzip.compress(b""), "the file is empty"),
    "an image": ("a.csv", PNG, r"byte 0 \(0x89\) is not UTF-8"),
    "latin 1": ("a.csv", b"smiles,name\nCCO,caf\xe9\n", r"byte 19 \(0xe9\) is not UTF-8"),
    "utf-16": ("a.csv", "smiles\nCCO\n".encode("utf-16"), "byte 0 .* is not UTF-8"),
    "zero bytes": ("a.csv", b"smiles\nC\0C\n", "byte 8 is zero"),
    "no column": ("a.csv", b"id,name\n1,x\n", "no column is named smiles or input; found 'id', 'name'"),
    "two columns": ("a.csv", b"smiles,Smiles\nC,C\n", "two columns are named 'smiles'"),
    "a quote that does not end": ("a.csv", b'smiles\nCCO\n"CCN\nC\n', "row 3: .*; mend the quotes"),
    "cut gzip": ("a.csv.gz", gzip.compress(b"smiles\nCCO\n" * 99)[:-12], "damaged or cut short"),
    "no gzip": ("a.csv.gz", b"smiles\nCCO\n", "damaged or cut short"),
    "old mac line ends": ("a.csv", b"smiles\rCCO\rCCN\r", "bare carriage return"),
    "no line breaks": ("a.smi", b"C" * (1 << 20) + b"CC\n", "over 1 MiB"),
    "another suffix": ("a.xlsx", PNG, "a.xlsx: molecules are read from .csv, .csv.gz, .smi"),
}

Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(("name", "content", "rows"), READABLE.values(), ids=READABLE)
def test_rows_have_the_line_number_of_an_editor(name: str, content: bytes, rows: list, write: Write) -> None:
    assert list(read_rows(write(name, content))) == rows


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_file_is_a_one_line_error(name: str, content: bytes, message: str, write: Write) -> None:
    with pytest.raises(MoleculeFileError, match=message) as raised:
        survey(write(name, content))
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MoleculeFileError, match="there is no such file"):
        survey(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MoleculeFileError, match="cannot be read: Is a directory"):
        survey(tmp_path / "folder.csv")


def test_a_survey_counts_rows_and_blank_lines(write: Write) -> None:
    assert survey(write("a.csv", b"\nsmiles\nCCO\n\nCCN\n,\n")) == Survey(rows=2, blank_lines=3)
