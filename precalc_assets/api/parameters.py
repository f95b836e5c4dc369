"""The parameters that routes share: their descriptions and checks."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic.json_schema import SkipJsonSchema

from precalc.identifiers import INCHIKEY
from precalc_assets.api.problems import bad_query, malformed_inchikey, shortened

MAX_MODELS = 500
"""Models that one request may name; the hub has 240."""

_MODEL = "eos[0-9][a-z0-9]{3}(-v[0-9]+)?"

# The patterns are for the document. The routes answer an id or a key that does not match with a problem of its own.
ModelId = Annotated[
    str,
    Path(
        description="A model id, with a version if it is not the only one.",
        json_schema_extra={"pattern": f"^{_MODEL}$"},
        examples=["eos3b5e"],
    ),
]
# In JSON Schema, `$` is the end of the text.
INCHIKEY_SCHEMA: dict[str, str | int] = {
    "pattern": INCHIKEY.pattern.replace(r"\Z", "$"),
    "minLength": 27,
    "maxLength": 27,
}
MoleculeKey = Annotated[
    str,
    Path(
        description="A molecule, by its InChIKey.",
        json_schema_extra={**INCHIKEY_SCHEMA},
        examples=["BSYNRYMUTXBXSQ-UHFFFAOYSA-N"],
    ),
]
Include = Annotated[Literal["smiles"] | SkipJsonSchema[None], Query(description="`smiles`: the molecules' SMILES too.")]
ModelIds = Annotated[
    str | SkipJsonSchema[None],
    Query(
        description=f"The requested models, up to {MAX_MODELS}, with commas between them; all by default.",
        json_schema_extra={"pattern": f"^{_MODEL}(,{_MODEL})*$"},
        examples=["eos3b5e,eos4e40"],
    ),
]


def named_models(models: str | None) -> list[str] | None:
    """Return the models that a query names, each once, in its order; None for all. Raises Problem."""
    if models is None:
        return None
    names = list(dict.fromkeys(models.split(",")))
    if "" in names:
        raise bad_query("models= names models with commas between them: models=eos3b5e,eos4e40")
    if len(names) > MAX_MODELS:
        raise bad_query(f"models= names {len(names):,} models; name up to {MAX_MODELS:,} at a time")
    return names


def check_inchikeys(inchikeys: Sequence[str]) -> None:
    """Raise Problem for the first text that is no InChIKey, with its place."""
    for at, inchikey in enumerate(inchikeys, start=1):
        if not INCHIKEY.match(inchikey):
            which = f"number {at:,}, {shortened(inchikey)}," if len(inchikeys) > 1 else shortened(inchikey)
            raise malformed_inchikey(which)
