"""The project's own list of inputs, each with what must come of it: small files of every kind that people bring.

`molecule_files.jsonl` has for each file its name and content, the distinct molecules in it and the number of rejected
rows, or words of its error; where it has neither, it may be read or refused, but not read as something else.
"""

import base64
import json
from pathlib import Path

import pytest

from precalc.errors import MoleculeFileError
from precalc.molecules.reading import read_table
from precalc.molecules.smiles_keys import identify

CASES = [json.loads(line) for line in Path(__file__).with_name("molecule_files.jsonl").read_text().splitlines()]
EITHER = {"cxsmiles in smi": 1, "utf-16 of Excel": 0}
"""Rejected rows of files that may be read or refused, as they are read here."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_file_is_read_as_it_must_be(case: dict, tmp_path: Path) -> None:
    path = tmp_path / case["file"]
    path.write_bytes(base64.b64decode(case["base64"]))
    if case["error"] and case["name"] not in EITHER:
        with pytest.raises(MoleculeFileError, match=case["error"]):
            list(read_table(path).batches())
        return
    rows = [found for batch in read_table(path).batches() for found in identify(batch.texts)]
    assert sum(bool(reason) for _, _, reason in rows) == EITHER.get(case["name"], case["rejected"])
    if case["smiles"]:
        assert list(dict.fromkeys(form for _, form, _ in rows if form)) == [f for _, f, _ in identify(case["smiles"])]
