"""A script that draws molecules: it answers as `precalc.molecules.smiles_keys` does, with an SVG in place of the form.

Standard library and RDKit alone, as there. RDKit's package of drawings imports NumPy and Pillow, which a Lambda does
not have and SVG does not need, so its one module is imported without the package.
"""

import io
import json
import re
import sys
import types
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import rdkit
from rdkit import Chem, rdBase

WIDTH, HEIGHT = 150, 100
_MOST_ATOMS = 80
"""A molecule of the library takes 0.7 ms, one of 80 atoms up to 25, and one of 600 takes 2 s."""
_UNUSED = re.compile(r"<!--.*?-->|<\?.*?\?>| class='[^']*'|;stroke-(?:linecap|linejoin|opacity):\w+|fill-rule:evenodd;")


def load_drawer() -> Any:  # noqa: ANN401 - RDKit has no types
    """Return RDKit's module that draws."""
    package = types.ModuleType("rdkit.Chem.Draw")
    package.__path__ = [str(Path(rdkit.__file__).parent / "Chem" / "Draw")]
    sys.modules[package.__name__] = package
    with redirect_stderr(io.StringIO()):  # it prints that there is no NumPy
        from rdkit.Chem.Draw import rdMolDraw2D
    return rdMolDraw2D


def draw(drawer: Any, text: str) -> tuple[str, str, str]:  # noqa: ANN401
    """Return an empty text, the drawing of a SMILES, and an empty text; or two empty texts and the reason."""
    mol = Chem.MolFromSmiles(text)
    if mol is None or not 0 < mol.GetNumAtoms() <= _MOST_ATOMS:
        return "", "", "not drawn"
    canvas = drawer.MolDraw2DSVG(WIDTH, HEIGHT, -1, -1, True)  # letters as text, not as outlines
    canvas.drawOptions().clearBackground = False
    canvas.DrawMolecule(mol)
    canvas.FinishDrawing()
    return "", " ".join(_UNUSED.sub("", canvas.GetDrawingText()).split()), ""


def main() -> None:
    """Answer each line of standard input, a JSON list of SMILES, with one line, until it ends."""
    rdBase.DisableLog("rdApp.*")
    drawer = load_drawer()
    for line in sys.stdin:
        sys.stdout.write(json.dumps([draw(drawer, text) for text in json.loads(line)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
