"""Files of molecules as people make them: what is read from them, and what is said of those that cannot be read."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from fake_api import KEY

from precalc.errors import MoleculeFileError
from precalc.molecules.molecule_columns import ANY_MOLECULES, Wanted
from precalc.molecules.reading import read_table

READABLE = {
    "header": ("a.csv", b"smiles\nCCO\nCCN\n", [(2, "CCO"), (3, "CCN")]),
    "byte order mark": ("a.csv", b"\xef\xbb\xbfsmiles\nCCO\n", [(2, "CCO")]),
    "byte order mark, no header": ("a.csv", b"\xef\xbb\xbfCCO\n", [(1, "CCO")]),
    "windows line ends": ("a.csv", b"smiles\r\nCCO\r\n\r\nCCN\r\n", [(2, "CCO"), (4, "CCN")]),
    "blank lines": ("a.csv", b"\n\nsmiles\n\nCCO\n  \n\nCCN", [(5, "CCO"), (8, "CCN")]),
    "empty rows": ("a.csv", b"smiles,name\nCCO,\n,\n\nCCN,\n", [(2, "CCO"), (3, ""), (5, "CCN")]),
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
    "a table in Markdown": (
        "a.md",
        b"| name | smiles |\n|:---|---:|\n| a | CCO |\n| b | CCN |\n",
        [(3, "CCO"), (4, "CCN")],
    ),
    "dashes in a table of commas": ("a.csv", b"name,smiles\n---,---\na,CCO\n", [(2, "---"), (3, "CCO")]),
    "semicolons": ("a.csv", b"smiles;name\nCCO;x\n", [(2, "CCO")]),
    "a suffix in capitals": ("A.CSV", b"smiles\nCCO\n", [(2, "CCO")]),
    "gzip": ("a.csv.gz", gzip.compress(b"smiles\r\nCCO\r\n"), [(2, "CCO")]),
    "smi": ("a.smi", b"CCO\tethanol, 96 %\nCCN amine\n\nC\r\n", [(1, "CCO"), (2, "CCN"), (4, "C")]),
    "smi with a header": ("a.smi", b"smiles name\nCCO x\n", [(2, "CCO")]),
    "smi with a column in front": ("a.smi", b"zinc_id smiles\nZ1 CCO\n", [(2, "CCO")]),
    "smi with commas": ("a.smi", b"smiles,id\nCCO,1\n", [(2, "CCO")]),
    "words in txt": ("a.txt", b"CCO ethanol\nCCN amine\n", [(1, "CCO"), (2, "CCN")]),
    "a header in a comment": ("a.csv", b"#SMILES\tID\nCCO\t1\n", [(2, "CCO")]),
    "a comment above a header": ("a.csv", b"# smiles of 2026\nid,smiles\n1,CCO\n", [(3, "CCO")]),
    "vertical bars": ("a.txt", b"id|smiles|x\n1|CCO|2\n", [(2, "CCO")]),
    "stereo first": ("a.csv", b"canonical_smiles,isosmiles\nCC(F)Cl,C[C@H](F)Cl\n", [(2, "C[C@H](F)Cl")]),
    "a name with smiles in it": ("a.csv", b"Ligand SMILES,mol\nCCO,7\n", [(2, "CCO")]),
    "no header, names second, first row bad": ("a.csv", b"CN(C)(C)(C)C,x\nCCO,y\n", [(1, "CN(C)(C)(C)C"), (2, "CCO")]),
    "an InChI column": ("a.csv", b"name,InChI\nx,InChI=1S/CH4/h1H4\n", [(2, "InChI=1S/CH4/h1H4")]),
    "a key beside an empty smiles": ("a.csv", f"smiles,InChI Key\n,{KEY}\nCCO,\n".encode(), [(2, KEY), (3, "CCO")]),
    "keys under key": ("a.csv", f"key,x\n,1\n{KEY},2\n".encode(), [(2, ""), (3, KEY)]),
    "latin 1": ("a.csv", b"smiles,name\nCCO,caf\xe9\n", [(2, "CCO")]),
    "zero bytes": ("a.csv", b"smiles\nCCO\nC\0CCCCCCCCC\n", [(2, "CCO"), (3, "C\0CCCCCCCCC")]),
    "a quote that does not end": ("a.csv", b'smiles\nCCO\n"CCN\nC\n', [(2, "CCO"), (3, '"CCN'), (4, "C")]),
    "broken quotes in a cell": ("a.csv", b'smiles,x\nCCO,"a"b\nCCN,"a, b" \n', [(2, "CCO"), (3, "CCN")]),
    "a long cell": ("a.csv", b'smiles,x\nCCO,"%b"\nCCN,\n' % (b"x, " * 70_000), [(2, "CCO"), (3, "CCN")]),
    "a cell of two lines in tabs": ("a.tsv", b'smiles\tx\nCCO\t"a\nb"\nCCN\t6"\n', [(2, "CCO"), (4, "CCN")]),
    "old mac line ends": ("a.csv", b"smiles\rCCO\rCCN\r", [(2, "CCO"), (3, "CCN")]),
    "InChIs": ("a.txt", b"InChI=1S/CHO/c1-2,3\nInChI=1S/2H2O x\n", [(1, "InChI=1S/CHO/c1-2,3"), (2, "InChI=1S/2H2O")]),
    "salts by InChI": ("a.csv", b"InChI=1S/C2;Na/q;+1\n", [(1, "InChI=1S/C2;Na/q;+1")]),
    "unquoted InChIs": ("a.csv", b"id,inchi\n1,InChI=1S/c1-2,3\n", [(2, "InChI=1S/c1-2,3")]),
    "utf-16": ("a.csv", "smiles\nCCO\n".encode("utf-16"), [(2, "CCO")]),
    "text named as gzip": ("a.csv.gz", b"smiles\nCCO\n", [(2, "CCO")]),
    "gzip named csv": ("a.csv", gzip.compress(b"smiles\nCCO\n"), [(2, "CCO")]),
    "bzip2": ("a.smi.bz2", bz2.compress(b"CCO a\n"), [(1, "CCO")]),
    "xz": ("a.tsv.xz", lzma.compress(b"id\tsmiles\n1\tCCO\n"), [(2, "CCO")]),
    "zstandard": ("a.csv.zst", pa.compress(b"smiles\nCCO\n", "zstd", asbytes=True), [(2, "CCO")]),
}

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"

CSV = b"smiles\n" + b"CCO\n" * 999

UNREADABLE = {
    "empty": ("a.csv", b"", "a.csv: the file is empty"),
    "blank": ("a.csv", b"\n\n  \n", "the file is empty"),
    "comments alone": ("a.csv", b"# smiles\n", "only comments"),
    "empty gzip": ("a.csv.gz", gzip.compress(b""), "the file is empty"),
    "half a character of UTF-16": ("a.csv", b"\xfe\xff\xab", "the file has no rows"),
    "header and rule only": ("a.md", b"| smiles |\n|---|\n", "there is a header, and no row below it"),
    "header only": ("a.csv", b"smiles\n", "there is a header, and no row below it"),
    "an image": ("a.csv", PNG, "this is no text"),
    "a PDF": ("a.csv", b"%PDF-1.7\n", "this is a PDF"),
    "a page": ("a.sdf", b"\n<!DOCTYPE html>\n<html>", "this is an HTML page"),
    "a pointer": ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
    "JSON": ("a.txt", b'[\n  {"smiles": "CCO"}\n]\n', "this is JSON; save the SMILES as CSV"),
    "a Mol2 file": ("a.mol2", b"# made by x\n@<TRIPOS>MOLECULE\n", "this is a Mol2 file; save it as SDF"),
    "a PDB file": ("a.pdb", b"HETATM    1  C1  LIG A   1  \n", "this is a PDB file"),
    "a CIF file": ("a.cif", b"data_4HHB\n#\n_entry.id 4HHB\n", "this is a CIF file"),
    "reactions": ("a.rdf", b"$RDFILE 1\n", "this is a file of reactions"),
    "a ChemDraw file": ("a.cdx", b"VjCD0100\x04\x03\x02\x01", "this is a ChemDraw file; save it as SDF"),
    "a ZIP": ("a.csv", b"PK\x03\x04....molecules.csv", "this is a ZIP archive; unpack it"),
    "a Word document": ("a.xlsx", b"PK\x03\x04....[Content_Types].xml", "no workbook that can be read"),
    "gzip in gzip": ("a.csv.gz", gzip.compress(gzip.compress(CSV)), "compressed twice"),
    "no column": ("a.csv", b"id,name\n1,x\n", "no column is named smiles or inchikey; found 'id', 'name'"),
    "a second column": ("a.csv", b"id,Struktur\n1,CCO\n2,CCN\n", "the second column looks like SMILES"),
    "two columns": ("a.csv", b"smiles,Smiles\nC,C\n", "two columns may hold the molecules: 'smiles', 'Smiles'"),
    "two similar columns": ("a.csv", b"x_smiles,y_smiles\nC,C\n", "several columns.*'x_smiles', 'y_smiles'"),
    "a title": ("a.csv", b"Table S1, page 2\nID,SMILES\n1,C\n", r"line 1 'Table S1', 'page 2' is above .* in line 2"),
    "cut gzip": ("a.csv.gz", gzip.compress(CSV)[:-12], "damaged or cut short"),
    "cut bzip2": ("a.csv.bz2", bz2.compress(CSV)[:-12], "damaged or cut short"),
    "cut zstandard": ("a.csv.zst", pa.compress(CSV, "zstd", asbytes=True)[:-5], "damaged or cut short"),
    "damaged Parquet": ("a.parquet", b"PAR1....PAR1", "damaged or cut short"),
    "no line breaks": ("a.smi", b"C" * (1 << 20) + b"CC\n", "the row in line 1 is over 1 MiB"),
}

Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def read(path: Path, wanted: Wanted = ANY_MOLECULES) -> list[tuple[int, str]]:
    return [row for batch in read_table(path, wanted).batches() for row in zip(batch.rows, batch.texts, strict=True)]


@pytest.mark.parametrize(("name", "content", "rows"), READABLE.values(), ids=READABLE)
def test_rows_have_the_line_number_of_an_editor(name: str, content: bytes, rows: list, write: Write) -> None:
    assert read(write(name, content)) == rows


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_file_is_a_one_line_error(name: str, content: bytes, message: str, write: Write) -> None:
    with pytest.raises(MoleculeFileError, match=message) as raised:
        read(write(name, content))
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MoleculeFileError, match="there is no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MoleculeFileError, match="cannot be read: Is a directory"):
        read_table(tmp_path / "folder.csv")


def test_a_column_is_chosen_by_name_or_number(write: Write) -> None:
    named = write("a.csv", b"id,Drug Structure,smiles\n1,CCO,C\n")
    assert [read(named, Wanted(column)) for column in ("drug structure", "2")] == [[(2, "CCO")]] * 2
    assert read(write("a.smi", b"m1 CCO\nm2 CCN\n"), Wanted("2")) == [(1, "CCO"), (2, "CCN")]
    with pytest.raises(
        MoleculeFileError, match="no single column is named 'x'; found 'id', 'Drug Structure', 'smiles'"
    ):
        read(named, Wanted("x"))


def test_keys_are_no_library(write: Write) -> None:
    path = write("a.csv", f"inchikey\n{KEY}\n".encode())
    with pytest.raises(MoleculeFileError, match="column 'inchikey' holds InChIKeys"):
        read(path, Wanted(keys=False))
