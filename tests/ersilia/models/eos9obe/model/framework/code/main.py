"""A model that its molecules control: BAD makes it exit, HANG makes it sleep, NOTHING has no value."""

import csv
import sys
import time
from pathlib import Path

with Path(sys.argv[1]).open(newline="", encoding="utf-8") as file:
    given = [row["smiles"] for row in csv.DictReader(file)]

lines = ["score,atoms"]
for smiles in given:
    if smiles.startswith("BAD"):
        sys.exit(f"cannot parse {smiles}")
    if smiles.startswith("HANG"):
        time.sleep(1000)
    lines.append("," if smiles.startswith("NOTHING") else f"{len(smiles) / 3!r},{len(smiles)}")

Path(sys.argv[2]).write_text("\n".join([*lines, ""]), encoding="utf-8")
