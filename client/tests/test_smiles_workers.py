"""Molecules through RDKit: keys, reasons, order, and workers that die."""

import logging
import os
import signal

import psutil
import pytest
from rdkit import Chem

from precalc.errors import MoleculeFileError, UsageError
from precalc.molecules.smiles_keys import identify
from precalc.molecules.smiles_workers import BATCH, ParsedRow, inchikey, parse_rows

REASONS = {
    "": "no atoms: the row holds no SMILES",
    "C[N](C)(C)(C)C": "too many bonds at atom 2 (N, valence 5)",
    "c1cccc1": "an aromatic ring that cannot be drawn with double bonds; is a hydrogen missing, as in [nH]?",
    "cC": "atom 1 is written as aromatic, but is in no ring",
    "N->[Fe]": "coordinate bond to a metal; InChI cannot express it",
    "C(": "SMILES Parse Error: check for mistakes around position 2",
    "C1CC": "a ring is opened and not closed",
    "CCO ethanol": "text after the SMILES",
    "CCO\nCCN": "text after the SMILES",
    "CCO |foo|": "the extension |foo| stands for several molecules, or unknown ones; write the one that you mean",
    "CC[C@H](F)Cl |a:2,o1:2|": "the extension |a:2,o1:2| stands for several molecules, or unknown ones; write the one "
    "that you mean",
    "[#6]-[#8]": "this is SMARTS, a pattern and not a molecule; write it as SMILES",
    "[C,N]C": "this is SMARTS, a pattern and not a molecule; write it as SMILES",
    "CC>O>N": "this is a reaction; give its molecules one by one",
    "lfqscwfljhtthz-uhfffaoysa-n": "this is an InChIKey in lower case: it names a molecule, and does not draw it",
    "InChI=1S/C2H6O/c1-2": "an InChI that cannot be read; is it cut short?",
    "[R1]CC": "this is a scaffold: * or R is an open position; write what is there",
    "CCOé": "not a SMILES: it has the character 'é' (U+00E9)",
    "CC(=O)[O\u2212]": "not a SMILES: it has the character '\u2212' (U+2212)",
    "*CC": "this is a scaffold: * or R is an open position; write what is there",
    "C" * 20_001: "longer than 20,000 characters: InChI takes no molecule of that size",
    "C" * 1100: "over 1,023 atoms, more than InChI takes",
}
STRANGE = [
    "Ⓒ",
    "\ud800",
    "\x1b[31m",
    "(" * 9_000,
    "C(" * 2_000,
    "[" * 9,
    "[" + "C" * 29 + "é" * 40,
    "C%(100000)",
    "C>>C",
    "=1+1",
    "'; --",
    "C" * 99_999,
]


@pytest.mark.parametrize(("smiles", "reason"), REASONS.items())
def test_rejected_molecule_has_an_understandable_reason(smiles: str, reason: str) -> None:
    assert identify([smiles]) == [("", "", reason)]


@pytest.mark.parametrize("smiles", STRANGE, ids=range(len(STRANGE)))
def test_strange_text_is_rejected_with_one_line(smiles: str) -> None:
    [(key, form, reason)] = identify([smiles])
    assert not key
    assert not form
    assert reason
    assert reason.splitlines() == [reason]


def test_form_is_one_for_all_ways_to_write_a_molecule() -> None:
    [*ethanol, pyridone, hydroxypyridine] = identify(["OCC", "[CH3:1][CH2:7]O", "O=c1cccc[nH]1", "Oc1ccccn1"])
    assert {form for _, form, _ in ethanol} == {"CCO"}
    assert pyridone[0] == hydroxypyridine[0]
    assert (pyridone[1], hydroxypyridine[1]) == ("O=c1cccc[nH]1", "Oc1ccccn1")


def test_rdkit_prints_nothing_meanwhile_but_does_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    identify(list(REASONS))
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("rdkit").filters
    Chem.MolFromSmiles("C1CC")
    assert "unclosed ring" in capfd.readouterr().err


def test_a_reader_gets_the_key_of_a_molecule_or_the_reason() -> None:
    assert inchikey(" CCO\n") == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    with pytest.raises(UsageError, match="'C1CC' is not a molecule: a ring is opened and not closed"):
        inchikey("C1CC")


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_come_back_in_order_however_many_processes(processes: int) -> None:
    smiles = ["C" * (1 + i % 7) if i % 5 else "bad" for i in range(3 * BATCH + 1)]
    batches = list(parse_rows(enumerate(smiles, start=2), processes))
    parsed = [row for batch in batches for row in batch]
    assert max(len(batch) for batch in batches) == BATCH
    assert [(row.row, row.smiles) for row in parsed] == list(enumerate(smiles, start=2))
    assert [bool(row.reason) for row in parsed] == [text == "bad" for text in smiles]
    assert parsed[1] == ParsedRow(3, "CC", "OTMSDBZUPAUEDD-UHFFFAOYSA-N", "CC", "")


def test_rows_of_a_dead_worker_are_named_and_all_workers_end() -> None:
    parsed = parse_rows(((row, "C" * 60) for row in range(2, 50 * BATCH)), processes=2)
    next(parsed)
    workers = children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(MoleculeFileError, match=r"rows \d+ to \d+: a worker process died .*\(signal 9\)"):
        list(parsed)
    assert children() == []


def test_a_reader_who_stops_early_leaves_no_worker() -> None:
    parsed = parse_rows(((row, "CCO") for row in range(50 * BATCH)), processes=2)
    next(parsed)
    parsed.close()
    assert children() == []


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "smiles_keys.py" in " ".join(child.cmdline())]


BLOCK = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))


@pytest.mark.parametrize("text", ["CCO |(0,0,;1,0,;2,0,)|", "InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3", BLOCK])
def test_extended_smiles_inchi_and_mol_block_are_molecules(text: str) -> None:
    assert identify([text]) == [("LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "CCO", "")]


@pytest.mark.parametrize(
    ("smiles", "change", "reason"),
    [
        ("CCO", (" O ", " A "), "an atom that stands for several elements"),
        ("*CO", (" R ", " R#"), "an atom that stands for several elements"),
        ("CC[C@H](F)Cl |o1:2|", ("", ""), "a mixture of stereoisomers"),
        ("CCC |Sg:n:1:n:ht|", ("", ""), "a polymer"),
    ],
)
def test_block_of_several_molecules_is_refused(smiles: str, change: tuple[str, str], reason: str) -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles(smiles), forceV3000="|" in smiles).replace(*change)
    [(key, _, said)] = identify([block])
    assert not key
    assert reason in said
