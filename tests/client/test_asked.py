"""Molecules are read from the files that people have of them."""

from pathlib import Path

import pytest
from served_model import KEYS

from precalc_assets.client.asked import MoleculeFile
from precalc_assets.errors import LibraryError

FILES = {
    "commas": f'name,InChIKey\n"a, b",{KEYS[0]}\n,,\nc,\n',
    "a spreadsheet's": f"\ufeffname;InChIKey;IC50\r\na;{KEYS[0]};1,5\r\n;;\r\nc;;2,5\r\n",
    "tabs, and a blank line first": f"\n name\tinchikey\na\t {KEYS[0]}\n \t\nc\n",
    "our own answers": f"key,input\n,none\n{KEYS[0]},{KEYS[0]}\n",
}
READ = {"our own answers": ["none", KEYS[0]]}


@pytest.mark.parametrize("name", FILES)
def test_a_column_of_inchikeys_is_read_whatever_stands_between_cells_without_blank_rows(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "asked.csv"
    path.write_text(FILES[name], encoding="utf-8", newline="")
    texts = [text for batch in MoleculeFile(path, processes=1).batches(1) for text in batch.texts]
    assert texts == READ.get(name, [KEYS[0], ""])


def test_quotes_that_do_not_end_are_told(tmp_path: Path) -> None:
    path = tmp_path / "asked.csv"
    path.write_text('inchikey\n"abc\n')
    with pytest.raises(LibraryError, match=r"asked\.csv: unexpected end of data; save it as CSV"):
        list(MoleculeFile(path, processes=1).batches(9))
