"""Which strings name a model, a column or a molecule. Standard library only: the platform's Lambdas import it."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from hashlib import sha256

from precalc.errors import UsageError

INCHIKEY = re.compile(r"^[A-Z]{14}-[A-Z]{10}-[A-Z]\Z")
"""27 characters: 14 of the skeleton, 8 of the other layers with two flags, 1 of the protonation."""

_ANY_CASE = re.compile(r"(?:InChIKey=)?([A-Z]{14}-[A-Z]{10}-[A-Z])", re.IGNORECASE)

_NAME_LENGTH = 100
"""Characters of an unknown column's name that a message has, and that are compared with other names."""

_MODEL_ID = re.compile(r"eos[0-9][a-z0-9]{3}(-v[0-9]+)?")


def read_inchikey(text: str) -> str | None:
    """Return the InChIKey that a text names, in any case, with or without `InChIKey=` before it.

    >>> read_inchikey("InChIKey=lfqscwfljhtthz-uhfffaoysa-n"), read_inchikey("CCO")
    ('LFQSCWFLJHTTHZ-UHFFFAOYSA-N', None)
    """
    found = _ANY_CASE.fullmatch(text)
    return found[1].upper() if found else None


def is_inchi(text: str) -> bool:
    """Return whether a text begins as an InChI."""
    return text[:6].lower() == "inchi="


def is_model_id(text: str) -> bool:
    """Return whether the text is a model id."""
    return _MODEL_ID.fullmatch(text) is not None


def shard_number(inchikey: str, n_shards: int) -> int:
    """Return which shard has a molecule, by the first 8 bytes, big-endian, of its InChIKey's SHA-256."""
    return (int.from_bytes(sha256(inchikey.encode("ascii")).digest()[:8], "big") * n_shards) >> 64


def check_model_id(text: str) -> str:
    """Return the text if it is a model id such as `eos3b5e` or, for an explicit version, `eos3b5e-v2`.

    A model id becomes part of URLs, of file, object and table names and of a shell's arguments, so nothing else passes.
    Raises UsageError.
    """
    if not is_model_id(text):
        raise UsageError(
            f"{text!r} is not a model id: they read eos, a digit, three of a-z or 0-9, and perhaps a version: "
            "eos3b5e, eos3b5e-v2"
        )
    return text


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas between them; one that has a comma itself is in double quotes.

    >>> split_names('mol_weight,"pKa, acidic"')
    ('mol_weight', 'pKa, acidic')
    """
    try:
        return tuple(next(csv.reader([text], skipinitialspace=True), ()))
    except csv.Error:  # a line end outside of quotes: no name has one
        return (text,)


def join_names(names: Iterable[str]) -> str:
    """Return a text that `split_names` reads.

    >>> join_names(['mol_weight', 'pKa, acidic'])
    'mol_weight,"pKa, acidic"'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def find_columns(model: str, columns: Sequence[str], wanted: Iterable[str]) -> tuple[int, ...]:
    """Return the places of the wanted columns, in order. Raises UsageError that names the nearest column there is."""
    places = {name: at for at, name in enumerate(columns)}
    found = []
    for name in dict.fromkeys(wanted):
        if name not in places:
            near = get_close_matches(name[:_NAME_LENGTH], columns, n=1)
            hint = f"the nearest name is {near[0]!r}" if near else f"its first one is {columns[0]!r}"
            raise UsageError(f"{model} has no column {name[:_NAME_LENGTH]!r}; {hint}")
        found.append(places[name])
    if not found:
        raise UsageError(f"no column of {model} is named; its first one is {columns[0]!r}")
    return tuple(found)
