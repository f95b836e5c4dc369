"""From one SMILES to its InChIKey or the reason why it has none, and the loop of a worker process that does only that.

Standard library and RDKit alone: worker processes run this file as a script, so that one starts in a tenth of a second
and holds little more than RDKit. How rows are spread over the workers is in `smiles_workers`.

The functions import RDKit, not the module: it takes 31 MB, and a machine that only runs models parses no molecule.
"""

import json
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit import Chem

_TIME_OF_DAY = re.compile(r"^\[\d\d:\d\d:\d\d\] ")
_ECHO_OF_THE_INPUT = re.compile(r" for input: '.*", re.DOTALL)
_WHERE = "check for mistakes around position"

_LONGEST = 20_000
"""Characters. InChI stops at 1,024 atoms, while RDKit's time grows with the square of a chain: 13 s at 100,000."""


def identify(smiles: Sequence[str]) -> list[tuple[str, str]]:
    """Return for each SMILES its InChIKey and an empty text, or an empty text and the reason on one line.

    Text that is no molecule never raises, and RDKit prints nothing meanwhile.
    """
    with _rdkit_errors() as errors:
        return [_identify(text, errors) for text in smiles]


def is_smiles(text: str) -> bool:
    """Return whether a text is a SMILES of at least one atom, also if it has no InChIKey."""
    with _rdkit_errors() as errors:
        return not isinstance(_parse(text.strip(), errors), str)


def _identify(smiles: str, errors: list[str]) -> tuple[str, str]:
    from rdkit.Chem import rdinchi

    mol = _parse(smiles, errors)
    if isinstance(mol, str):
        return "", mol
    inchikey = rdinchi.MolToInchiKey(mol)
    if inchikey:
        return inchikey, ""
    _inchi, _code, message, *_rest = rdinchi.MolToInchi(mol)
    return "", f"no InChI: {_one_line(message) or 'no reason given'}"


def _parse(smiles: str, errors: list[str]) -> "Chem.Mol | str":
    """Return the molecule, or the reason for which there is none."""
    from rdkit import Chem

    # RDKit takes what follows a blank as a name or as an extension, so it would be dropped without a word.
    if len(smiles.split()) > 1:
        return "text after the SMILES"
    if len(smiles) > _LONGEST:
        return f"longer than {_LONGEST:,} characters: InChI takes no molecule of that size"
    # RDKit drops such characters at either end, and takes the rest for the molecule that was meant.
    if not smiles.isascii():
        odd = next(character for character in smiles if not character.isascii())
        return f"not a SMILES: it has the character {odd!r} (U+{ord(odd):04X})"
    errors.clear()
    try:
        mol = Chem.MolFromSmiles(smiles)
    except (ValueError, RuntimeError) as error:
        return _one_line(str(error))
    if mol is None:
        return _first_cause(errors)
    return mol if mol.GetNumAtoms() else "no atoms: the row holds no SMILES"


def _first_cause(errors: list[str]) -> str:
    """Pick the line that helps: where the syntax goes wrong, else what RDKit complained of first."""
    lines = [_one_line(_ECHO_OF_THE_INPUT.sub("", error)) for error in errors]
    place = next((line.rstrip(":") for line in lines if _WHERE in line), None)
    return place or (lines[0] if lines else "RDKit gives no reason")


def _one_line(message: str) -> str:
    return " ".join(message.split())


class _Collector(logging.Filter):
    """Takes the errors out of a log; nothing of that log is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            self.errors.append(_TIME_OF_DAY.sub("", record.getMessage()))
        return False


_one_at_a_time = threading.Lock()
"""RDKit has one log per process, so two threads must not listen to it at once."""


@contextmanager
def _rdkit_errors() -> Iterator[list[str]]:
    """Collect RDKit's error messages, which it has no other way of telling than its log."""
    from rdkit import rdBase

    log = logging.getLogger("rdkit")
    collector = _Collector()
    with _one_at_a_time:
        log.addFilter(collector)
        rdBase.LogToPythonLogger()
        try:
            yield collector.errors
        finally:
            rdBase.LogToCppStreams()
            log.removeFilter(collector)


def _serve() -> None:
    """Answer each line of standard input, a JSON list of SMILES, with one line: `identify` of it, until it ends."""
    # Ctrl-C reaches the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # When the parent is gone there is nobody to answer: end without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for line in sys.stdin:
        print(json.dumps(identify(json.loads(line))), flush=True)  # noqa: T201 - the protocol


if __name__ == "__main__":
    _serve()
