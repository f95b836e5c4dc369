"""`POST /inchikeys`: SMILES become the InChIKeys that predictions are asked for by."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from precalc_assets.api.problems import Problem, body_refusals, too_many
from precalc_assets.api.rdkit_processes import BusyError, Identified, RDKitProcesses

MAX_SMILES = 1_000
"""Of one request: drugs take RDKit 0.3 ms each, chains of 1,000 atoms, the largest that have a key, 16 ms."""

MAX_CHARACTERS = 2_000
"""Of one SMILES: InChI takes up to 1,024 atoms."""

MOLECULE_SECONDS, REQUEST_SECONDS = 2.0, 20.0
"""What RDKit may take for one molecule, and for all; API Gateway waits 29 s for an answer."""

_PROCESSES = 2
_REPEATED = 200
"""Characters of a SMILES that are repeated beside the reason why it has no InChIKey."""


class SmilesQuestion(BaseModel):
    """The molecules whose InChIKeys are wanted; one that is named twice is answered twice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    smiles: Annotated[list[str], Field(json_schema_extra={"maxItems": MAX_SMILES})]


class SmilesError(BaseModel):
    """Why a SMILES has no InChIKey. `index` is its place in the question, from 0; a long `smiles` is cut short."""

    index: int
    smiles: str
    reason: str


class InChIKeysAnswer(BaseModel):
    """The InChIKeys in the order of the question, null where there is none; `errors` says why, for each of these."""

    inchikeys: list[str | None]
    errors: list[SmilesError]


def add_inchikey_routes(app: FastAPI | APIRouter, processes: RDKitProcesses | None = None) -> None:
    """Make an application answer for molecules, by these processes, otherwise by some of its own."""
    rdkit = processes or RDKitProcesses(_PROCESSES, molecule_seconds=MOLECULE_SECONDS, seconds=REQUEST_SECONDS)

    @app.post(
        "/inchikeys",
        summary="InChIKeys of SMILES",
        description=f"The InChIKeys of up to {MAX_SMILES:,} molecules, as the reference library has them, by RDKit. "
        f"A SMILES may have {MAX_CHARACTERS:,} characters; of one that has no InChIKey, `errors` says why.",
        tags=["molecules"],
        responses=body_refusals(_too_many_smiles(1_001)),
    )
    def find_inchikeys(question: SmilesQuestion) -> InChIKeysAnswer:
        if len(question.smiles) > MAX_SMILES:
            raise _too_many_smiles(len(question.smiles))
        return _answer(question.smiles, rdkit)


def _too_many_smiles(number: int) -> Problem:
    message = f"{number:,} SMILES are too many for one request; up to {MAX_SMILES:,} are answered at a time"
    return too_many("too_many_smiles", message)


def _answer(smiles: list[str], rdkit: RDKitProcesses) -> InChIKeysAnswer:
    fitting = [text for text in smiles if len(text) <= MAX_CHARACTERS]
    try:
        found = iter(rdkit.identify(fitting))
    except BusyError:
        message = "others have asked for many molecules; wait a few seconds, try again"
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
    return Identified("", f"{len(smiles):,} characters; a SMILES of up to {MAX_CHARACTERS:,} is answered here")


def _shortened(smiles: str) -> str:
    return smiles if len(smiles) <= _REPEATED else f"{smiles[:_REPEATED]}…"
