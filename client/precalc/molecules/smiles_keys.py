"""From the text of a molecule to its InChIKey and its form, or to the reason why it has none; and a worker's loop.

A text is a SMILES, also with a CXSMILES extension, an InChI, or a mol block, as in SDF. What stands for more than one
molecule is refused by its name.

Standard library and RDKit alone: worker processes run this file as a script, so that one starts in a tenth of a second
and holds little more than RDKit. How rows are spread over the workers is in `smiles_workers`.

The functions import RDKit, not the module: it takes 31 MB, and a machine that only runs models parses no molecule.
"""

import ctypes
import json
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit import Chem

_TIME_OF_DAY = re.compile(r"^\[\d\d:\d\d:\d\d\] ")
_ECHO_OF_THE_INPUT = re.compile(r" for input: '.*", re.DOTALL)
_WHERE = "check for mistakes around position"

_INCHIKEY = re.compile(r"(?:inchikey=)?([a-z]{14}-[a-z]{10}-[a-z])", re.IGNORECASE)
_EXTENDED = re.compile(r"(\S+)\s+(\|[^|]*\|)")
_HARMLESS = r"(?:\([^()]*\)|\$[^$]*\$|(?:\^[1-7]|a|w[UD]?|c|t|ctu|C|H|lp):[\d.,:]*)"
"""An item of an extension that changes nothing, or that RDKit reads: coordinates, labels, radicals, absolute stereo."""
_EXTENSION = re.compile(rf"\|(?:{_HARMLESS},?)*\|")
_REFUSED = {
    "a reaction; give its molecules one by one": re.compile(r"^(?:[^>]|(?<=-)>)*(?<!-)>"),
    "SMARTS, a pattern and not a molecule; write it as SMILES": re.compile(
        r"\[[^\]]*(?:#\d|[;,!&$?])|~|\[(?:[DX]\d|[vhxr]\d*|[aA])\]"
    ),
    "a scaffold: * or R is an open position; write what is there": re.compile(r"\*|\[\d*R\d*\]"),
}
"""What is no single molecule, by its name, and the mark of it in a SMILES."""

_POLYMERS = ("SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "COM", "MIX", "FOR", "ANY")
"""Groups of atoms in CTfiles and extensions that are repeated, or mixed (BIOVIA, CTfile formats)."""

_IN_WORDS: dict[str, Callable[[re.Match[str]], str]] = {
    r".*Explicit valence for atom # (\d+) (\w+), (\d+), is greater than permitted.*": (
        lambda found: f"too many bonds at atom {int(found[1]) + 1} ({found[2]}, valence {found[3]})"
    ),
    r".*Can't kekulize mol.*": (
        lambda _: "an aromatic ring that cannot be drawn with double bonds; is a hydrogen missing, as in [nH]?"
    ),
    r".*unclosed ring.*": lambda _: "a ring is opened and not closed",
    r".*non-ring atom (\d+) marked aromatic.*": (
        lambda found: f"atom {int(found[1]) + 1} is written as aromatic, but is in no ring"
    ),
    r"Unrecognized bond type.*": lambda _: "coordinate bond to a metal; InChI cannot express it",
    r"Too many atoms.*": lambda _: "over 1,023 atoms, more than InChI takes",
}
"""What RDKit and InChI say, and what it means to a chemist."""

_LONGEST = 20_000
"""Characters. InChI stops at 1,024 atoms, while RDKit's time grows with the square of a chain: 13 s at 100,000."""
_LONGEST_BLOCK = 500_000
"""Characters of a mol block: some 250 for an atom with its bonds and data."""


def identify(texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return for each text its InChIKey, its form, and an empty text; or two empty texts, and the reason on one line.

    The form is RDKit's canonical SMILES without the numbers of an atom map: it tells molecules apart that have the same
    InChIKey, such as tautomers. Text that is no molecule never raises, and RDKit prints nothing meanwhile.
    """
    with _rdkit_errors() as errors:
        return [_identify(text, errors) for text in texts]


def is_smiles(text: str) -> bool:
    """Return whether a text is a SMILES of at least one atom, also if it has no InChIKey."""
    with _rdkit_errors() as errors:
        return not isinstance(_parse(text.strip(), errors), str)


def _identify(text: str, errors: list[str]) -> tuple[str, str, str]:
    from rdkit.Chem import rdinchi

    mol = _parse(text, errors)
    if isinstance(mol, str):
        return "", "", mol
    # An InChI has its own key: the molecule that RDKit makes of it may be another tautomer.
    inchikey = rdinchi.InchiToInchiKey(text) if text.startswith("InChI=1S/") else rdinchi.MolToInchiKey(mol)
    if inchikey:
        return inchikey, _form(mol, text), ""
    _inchi, _code, message, *_rest = rdinchi.MolToInchi(mol)
    return "", "", _in_words(message) or "InChI gives no reason"


def _form(mol: "Chem.Mol", text: str) -> str:
    from rdkit import Chem

    if ":" in text or "\n" in text:  # nearly no SMILES has one: also a bond, which stays
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    return Chem.MolToSmiles(mol)


def _parse(text: str, errors: list[str]) -> "Chem.Mol | str":
    """Return the molecule, or the reason for which there is none."""
    from rdkit import Chem
    from rdkit.Chem import rdinchi

    is_block = "M  END" in text
    longest = _LONGEST_BLOCK if is_block else _LONGEST
    if len(text) > longest:
        return f"longer than {longest:,} characters: InChI takes no molecule of that size"
    if key := _INCHIKEY.fullmatch(text):
        case = "" if key[1].isupper() else " in lower case"
        return f"this is an InChIKey{case}: it names a molecule, and does not draw it"
    errors.clear()
    try:
        if is_block:
            mol = Chem.MolFromMolBlock(text)
            errors.append("a mol block that RDKit cannot read")
        elif text[:6].lower() == "inchi=":
            mol = rdinchi.InchiToMol(f"InChI={text[6:]}")[0]
            errors.append("an InChI that cannot be read; is it cut short?")
        else:
            reason = _refusal(text)
            if reason:
                return reason
            mol = Chem.MolFromSmiles(text)
    except (ValueError, RuntimeError) as error:
        return _one_line(str(error))
    if mol is None:
        return _first_cause(errors)
    if not mol.GetNumAtoms():
        return "no atoms: the row holds no SMILES"
    several = _several_molecules(mol) if is_block or "|" in text else ""
    return several or mol


def _refusal(text: str) -> str:
    """Return the reason for which a text is not given to RDKit, which would read a part of it, or something else."""
    extended = _EXTENDED.fullmatch(text)
    smiles, extension = extended.groups() if extended else (text, "")
    # RDKit takes what follows a blank as a name, so it would be dropped without a word.
    if len(smiles.split()) > 1:
        return "text after the SMILES"
    # RDKit drops such characters at either end, and takes the rest for the molecule that was meant.
    if not smiles.isascii():
        odd = next(character for character in smiles if not character.isascii())
        return f"not a SMILES: it has the character {odd!r} (U+{ord(odd):04X})"
    for what, mark in _REFUSED.items():
        if mark.search(smiles):
            return f"this is {what}"
    if extension and not _EXTENSION.fullmatch(extension):
        return (
            f"the extension {extension[:60]} stands for several molecules, or unknown ones; write the one that you mean"
        )
    return ""


def _several_molecules(mol: "Chem.Mol") -> str:
    """Return what makes a structure no single molecule, or an empty text."""
    from rdkit import Chem

    if any(str(group.GetGroupType()) != "STEREO_ABSOLUTE" for group in mol.GetStereoGroups()):
        return "a mixture of stereoisomers, or an unknown one of them; draw the one that you mean"
    if any(group.HasProp("TYPE") and group.GetProp("TYPE") in _POLYMERS for group in Chem.GetMolSubstanceGroups(mol)):
        return "a polymer or a mixture; draw one molecule"
    if any(atom.HasQuery() or not atom.GetAtomicNum() for atom in mol.GetAtoms()):
        return "an atom that stands for several elements, or for a residue R; draw what is there"
    return ""


def _first_cause(errors: list[str]) -> str:
    """Pick the line that helps: where the syntax goes wrong, else what RDKit complained of first."""
    lines = [_one_line(_ECHO_OF_THE_INPUT.sub("", error)) for error in errors]
    place = next((line.rstrip(":") for line in lines if _WHERE in line), None)
    return place or (_in_words(lines[0]) if lines else "RDKit gives no reason")


def _in_words(message: str) -> str:
    """Return what RDKit or InChI says in a chemist's words, if there are such."""
    line = _one_line(message)
    found = ((re.fullmatch(pattern, line), words) for pattern, words in _IN_WORDS.items())
    return next((words(match) for match, words in found if match), line)


def _one_line(message: str) -> str:
    return " ".join(message.split())


_one_at_a_time = threading.Lock()
"""RDKit has one log per process, so two threads must not listen to it at once."""


@contextmanager
def _rdkit_errors() -> Iterator[list[str]]:
    """Collect RDKit's error messages, which it has no other way of telling than its log."""
    from rdkit import rdBase

    log = logging.getLogger("rdkit")
    errors: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            errors.append(_TIME_OF_DAY.sub("", record.getMessage()))
        return False  # nothing of that log is printed

    with _one_at_a_time:
        log.addFilter(collect)
        rdBase.LogToPythonLogger()
        try:
            yield errors
        finally:
            rdBase.LogToCppStreams()
            log.removeFilter(collect)


def _serve() -> None:
    """Answer each line of standard input, a JSON list of SMILES, with one line: `identify` of it, until it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no model reads the variables of this process
    # Ctrl-C reaches the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # When the parent is gone there is nobody to answer: end without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for line in sys.stdin:
        print(json.dumps(identify(json.loads(line))), flush=True)  # noqa: T201 - the protocol


if __name__ == "__main__":
    _serve()
