"""What came of a molecule, and whether its prediction is for the form that was asked for: the words of every answer.

Standard library only: the platform's Lambda imports it.
"""

from collections.abc import Sequence
from typing import Literal

Status = Literal["found", "not_in_library", "not_predicted_yet", "model_failed", "unreadable"]
Match = Literal["same", "other_form", "key"]

FOUND: Status = "found"
NOT_IN_LIBRARY: Status = "not_in_library"
NOT_PREDICTED_YET: Status = "not_predicted_yet"
"""The library has the molecule, and the model's table does not have it yet."""
MODEL_FAILED: Status = "model_failed"
"""The model ran on it and gave no value."""
UNREADABLE: Status = "unreadable"
"""The text is no molecule, or no InChIKey where only these are taken."""

COMPUTED = "computed"
"""A status in files alone: the reader ran the model on it."""

STATUSES = (FOUND, COMPUTED, MODEL_FAILED, NOT_PREDICTED_YET, NOT_IN_LIBRARY, UNREADABLE)
"""All of them, in the order in which they are counted for a person."""

SAME: Match = "same"
OTHER_FORM: Match = "other_form"
KEY: Match = "key"


def asked_forms(texts: Sequence[str], forms: Sequence[str | None]) -> list[str | None]:
    """Return the forms that texts ask for. An InChI asks for none: RDKit's form of it is one of several tautomers."""
    return [None if text.startswith("InChI=") else form for text, form in zip(texts, forms, strict=True)]


def compare_forms(
    forms: Sequence[str | None], predicted: Sequence[str | None], rows: Sequence[object | None]
) -> list[Match | None]:
    """Return the match of each row with a prediction, None without one; `predicted` are the library's SMILES."""
    return [
        None if row is None else KEY if form is None or smiles is None else SAME if form == smiles else OTHER_FORM
        for form, smiles, row in zip(forms, predicted, rows, strict=True)
    ]
