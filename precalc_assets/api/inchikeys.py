"""`POST /inchikeys`: turns SMILES into InChIKeys, by which predictions are requested."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from precalc.rdkit_process import Identified
from precalc_assets.api.problems import Problem, body_refusals, too_many
from precalc_assets.api.rdkit_processes import BusyError, RDKitProcesses

MAX_SMILES = 1_000
"""SMILES in one request. RDKit takes 0.3 ms for a drug, 16 ms for a chain of 1,000 atoms, the largest with a key."""

MAX_CHARACTERS = 2_000
"""Characters of one SMILES: InChI takes up to 1,024 atoms."""

MOLECULE_SECONDS, REQUEST_SECONDS = 2.0, 20.0
"""Time limits for one molecule and for a whole request; API Gateway waits 29 s for an answer."""

_PROCESSES = 2
_REPEATED = 200
"""Characters of a SMILES that its error repeats."""


class SmilesRequest(BaseModel):
    """The SMILES to turn into InChIKeys; one that is named twice is answered twice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    smiles: Annotated[list[str], Field(json_schema_extra={"maxItems": MAX_SMILES})]


class SmilesError(BaseModel):
    """Why a SMILES has no InChIKey. `index` is its position in the request, from 0; a long `smiles` is cut short."""

    index: int
    smiles: str
    reason: str


class InChIKeysAnswer(BaseModel):
    """The InChIKeys in the order of the request, null where there is none; `errors` has the reason of each null."""

    inchikeys: list[str | None]
    errors: list[SmilesError]


def add_inchikey_routes(app: FastAPI | APIRouter, processes: RDKitProcesses | None = None) -> None:
    """Add the route that makes InChIKeys, in these processes, by default in new ones."""
    rdkit = processes or RDKitProcesses(_PROCESSES, molecule_seconds=MOLECULE_SECONDS, seconds=REQUEST_SECONDS)

    @app.post(
        "/inchikeys",
        summary="InChIKeys of SMILES",
        description=f"The InChIKeys of up to {MAX_SMILES:,} molecules, as the reference library has them, by RDKit. "
        f"A SMILES may have {MAX_CHARACTERS:,} characters; if it has no InChIKey, `errors` says why.",
        tags=["molecules"],
        responses=body_refusals(_too_many_smiles(1_001)),
    )
    def find_inchikeys(body: SmilesRequest) -> InChIKeysAnswer:
        if len(body.smiles) > MAX_SMILES:
            raise _too_many_smiles(len(body.smiles))
        return _answer(body.smiles, rdkit)


def _too_many_smiles(number: int) -> Problem:
    message = f"{number:,} SMILES are too many for one request; up to {MAX_SMILES:,} are answered at a time"
    return too_many("too_many_smiles", message)


def _answer(smiles: list[str], rdkit: RDKitProcesses) -> InChIKeysAnswer:
    fitting = [text for text in smiles if len(text) <= MAX_CHARACTERS]
    try:
        found = iter(rdkit.identify(fitting))
    except BusyError:
        message = "all processes are busy with other requests; try again in a few seconds"
        raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", message) from None
    identified = [next(found) if len(text) <= MAX_CHARACTERS else _too_long(text) for text in smiles]
    return InChIKeysAnswer(
        inchikeys=[one.inchikey or None for one in identified],
        errors=[
            SmilesError(index=at, smiles=_shortened(text), reason=one.reason)
            for at, (text, one) in enumerate(zip(smiles, identified, strict=True))
            if one.reason
        ],
    )


def _too_long(smiles: str) -> Identified:
    return Identified("", f"{len(smiles):,} characters; a SMILES may have up to {MAX_CHARACTERS:,}")


def _shortened(smiles: str) -> str:
    return smiles if len(smiles) <= _REPEATED else f"{smiles[:_REPEATED]}…"
