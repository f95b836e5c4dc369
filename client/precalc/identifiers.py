"""Which strings name a model, and which a molecule. Standard library only: the platform's Lambdas import it."""

import re

from precalc.errors import UsageError

INCHIKEY = re.compile(r"^[A-Z]{14}-[A-Z]{10}-[A-Z]\Z")
"""27 characters: 14 of the skeleton, 8 of the other layers with two flags, 1 of the protonation."""

_MODEL_ID = re.compile(r"eos[0-9][a-z0-9]{3}(-v[0-9]+)?")


def is_model_id(text: str) -> bool:
    """Return whether the text is a model id."""
    return _MODEL_ID.fullmatch(text) is not None


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
