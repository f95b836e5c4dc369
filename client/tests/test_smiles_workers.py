"""Molecules through RDKit: keys, reasons, order, and workers that die."""

import logging
import os
import signal

import psutil
import pytest
from rdkit import Chem

from precalc.errors import MoleculeFileError, UsageError
from precalc.smiles_keys import identify
from precalc.smiles_workers import BATCH, ParsedRow, inchikey, parse_rows

REASONS = {
    "": "no atoms: the row holds no SMILES",
    "C[N](C)(C)(C)C": "Explicit valence for atom # 1 N, 5, is greater than permitted",
    "c1cccc1": "Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4",
    "C(": "SMILES Parse Error: check for mistakes around position 2",
    "C1CC": "SMILES Parse Error: unclosed ring",
    "CCO ethanol": "text after the SMILES",
    "CCO\nCCN": "text after the SMILES",
    "CCO |foo|": "text after the SMILES",
    "CCOé": "not a SMILES: it has the character 'é' (U+00E9)",
    "CC(=O)[O\u2212]": "not a SMILES: it has the character '\u2212' (U+2212)",
    "*CC": "no InChI: Unsupported in this mode element '*'",
    "C" * 20_001: "longer than 20,000 characters: InChI takes no molecule of that size",
    "C" * 1100: "no InChI: Too many atoms [did you forget 'LargeMolecules' switch?]",
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
    assert identify([smiles]) == [("", reason)]


@pytest.mark.parametrize("smiles", STRANGE, ids=range(len(STRANGE)))
def test_strange_text_is_rejected_with_one_line(smiles: str) -> None:
    [(key, reason)] = identify([smiles])
    assert not key
    assert reason
    assert reason.splitlines() == [reason]


def test_rdkit_prints_nothing_meanwhile_but_does_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    identify(list(REASONS))
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("rdkit").filters
    Chem.MolFromSmiles("C1CC")
    assert "unclosed ring" in capfd.readouterr().err


def test_a_reader_gets_the_key_of_a_molecule_or_the_reason() -> None:
    assert inchikey(" CCO\n") == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    with pytest.raises(UsageError, match="'C1CC' is not a molecule: SMILES Parse Error: unclosed ring"):
        inchikey("C1CC")


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_come_back_in_order_however_many_processes(processes: int) -> None:
    smiles = ["C" * (1 + i % 7) if i % 5 else "bad" for i in range(3 * BATCH + 1)]
    batches = list(parse_rows(enumerate(smiles, start=2), processes))
    parsed = [row for batch in batches for row in batch]
    assert max(len(batch) for batch in batches) == BATCH
    assert [(row.row, row.smiles) for row in parsed] == list(enumerate(smiles, start=2))
    assert [bool(row.reason) for row in parsed] == [text == "bad" for text in smiles]
    assert parsed[1] == ParsedRow(3, "CC", "OTMSDBZUPAUEDD-UHFFFAOYSA-N", "")


def test_rows_of_a_dead_worker_are_named_and_all_workers_end() -> None:
    parsed = parse_rows(((row, "C" * 200) for row in range(2, 50 * BATCH)), processes=2)
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
