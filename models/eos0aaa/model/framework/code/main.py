"""Eleven physicochemical properties of each molecule: `python main.py <input.csv> <output.csv>`."""

import csv
import sys
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import QED, rdMolDescriptors

COLUMNS = (
    "molecular_weight",
    "logp",
    "tpsa",
    "qed",
    "fraction_csp3",
    "heavy_atoms",
    "hbd",
    "hba",
    "rotatable_bonds",
    "rings",
    "formal_charge",
)


def describe(smiles):
    """Return the molecule's values in the order of COLUMNS; empty texts if it has no atoms or cannot be parsed."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return [""] * len(COLUMNS)
    # QED is made of half of the columns, so it is asked for its ingredients instead of computing them twice.
    parts = QED.properties(mol)
    return [
        parts.MW,
        parts.ALOGP,
        parts.PSA,
        QED.qed(mol, qedProperties=parts),
        rdMolDescriptors.CalcFractionCSP3(mol),
        mol.GetNumHeavyAtoms(),
        parts.HBD,
        rdMolDescriptors.CalcNumHBA(mol),
        parts.ROTB,
        rdMolDescriptors.CalcNumRings(mol),
        Chem.GetFormalCharge(mol),
    ]


def main(input_file, output_file):
    """Answer each row of the input file with one row of the output file."""
    RDLogger.DisableLog("rdApp.*")
    with (
        Path(input_file).open(newline="", encoding="utf-8-sig") as source,
        Path(output_file).open("w", newline="", encoding="utf-8") as target,
    ):
        rows = csv.reader(source)
        next(rows, None)
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(describe(row[0] if row else "") for row in rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
