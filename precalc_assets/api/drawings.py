"""`POST /drawings`: molecules as SVG, for the rows that the page shows."""

from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from precalc_assets.api.inchikeys import RDKitProcesses
from precalc_assets.api.problems import Problem

MAX_DRAWINGS = 100
"""Drawings in one answer: some 500 KB, a tenth of that compressed."""

_SCRIPT = Path(__file__).with_name("drawing_process.py")


class DrawingsRequest(BaseModel):
    """The SMILES to draw."""

    model_config = ConfigDict(extra="forbid", strict=True)

    smiles: list[str]


class DrawingsAnswer(BaseModel):
    """An SVG for each SMILES, null for one that is too large or that RDKit does not take."""

    drawings: list[str | None]


def add_drawing_route(app: FastAPI) -> None:
    """Add the route that draws molecules, in a process of its own."""
    rdkit = RDKitProcesses(1, script=_SCRIPT)

    @app.post("/drawings", include_in_schema=False)
    def draw_molecules(body: DrawingsRequest) -> DrawingsAnswer:
        if len(body.smiles) > MAX_DRAWINGS:
            message = f"{len(body.smiles):,} SMILES are too many; up to {MAX_DRAWINGS} are drawn at a time"
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_smiles", message)
        return DrawingsAnswer(drawings=[one.form or None for one in rdkit.identify(body.smiles)])
