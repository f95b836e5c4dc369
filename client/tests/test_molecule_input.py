"""Molecules are read from the files that people have."""

from pathlib import Path

import pytest
from fake_api import KEY

from precalc.errors import MoleculeFileError
from precalc.molecule_input import read_file

FILES = {
    "commas": f'name,InChIKey\n"a, b",{KEY}\n,,\nc,\n',
    "a spreadsheet's": f"\ufeffname;InChIKey;IC50\r\na;{KEY};1,5\r\n;;\r\nc;;2,5\r\n",
    "tabs, and a blank line first": f"\n name\tinchikey\na\t {KEY}\n \t\nc\n",
    "our own answers": f"key,input\n,none\n{KEY},{KEY}\n",
}
READ = {"our own answers": ["none", KEY]}


@pytest.mark.parametrize("name", FILES)
def test_column_of_inchikeys_is_read_with_any_delimiter(tmp_path: Path, name: str) -> None:
    path = tmp_path / "molecules.csv"
    path.write_text(FILES[name], encoding="utf-8", newline="")
    texts = [text for batch in read_file(path).batches(1) for text in batch.texts]
    assert texts == READ.get(name, [KEY, ""])


def test_unclosed_quotes_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "molecules.csv"
    path.write_text('inchikey\n"abc\n')
    with pytest.raises(MoleculeFileError, match=r"molecules\.csv: row 2: unexpected end of data; mend the quotes"):
        list(read_file(path).batches(9))
