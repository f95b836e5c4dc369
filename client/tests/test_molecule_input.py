"""Molecules are read from the files that people have."""

from pathlib import Path

import pytest
from fake_api import KEY

from precalc.molecules.molecule_input import read_rows
from precalc.molecules.reading import read_table

FILES = {
    "commas": f'name,InChIKey\n"a, b",{KEY}\n,,\nc,\n',
    "a spreadsheet's": f"\ufeffname;InChIKey;IC50\r\na;{KEY};1,5\r\n;;\r\nc;;2,5\r\n",
    "tabs, and a blank line first": f"\n name\tinchikey\na\t {KEY}\n  \nc\n",
    "our own answers": f"key,input\n,none\n{KEY},{KEY}\n",
}
READ = {"our own answers": ["none", KEY], "commas": [KEY, "", ""], "a spreadsheet's": [KEY, "", ""]}


@pytest.mark.parametrize("name", FILES)
def test_column_of_inchikeys_is_read_with_any_delimiter(tmp_path: Path, name: str) -> None:
    path = tmp_path / "molecules.csv"
    path.write_text(FILES[name], encoding="utf-8", newline="")
    texts = [text for batch in read_rows(read_table(path)).batches(1) for text in batch.texts]
    assert texts == READ.get(name, [KEY, ""])
