"""`GET` and `POST /predictions`: the contract of the earlier API, for programs that still use it.

It answered what its table held: an entry for each molecule that it found, nothing for the others, so neither an
unknown model nor a malformed key is an error. It took a body with any method, and answered 204 without one. Ours
differs where the old one failed or was not defined: the output is in the order of the request; a molecule that is named
twice is answered twice, and 1,000 at a time instead of 100; errors have the form of all our answers, also for a POST
without a body. A SMILES is that of the library's table, null where it has none. Release and library are in a header.
"""

from http import HTTPStatus
from typing import Any

from fastapi import Body, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from precalc_assets.api.answers import JSON, dump
from precalc_assets.api.problems import answer_too_large, body_refusals, unavailable
from precalc_assets.api.routes import WITH_PROVENANCE, check_number, provenance_header, too_many_inchikeys
from precalc_assets.api.served import ServedModels
from precalc_assets.tables import Value

_DESCRIPTION = (
    "For programs that were written for it. Missing molecules and malformed keys are left out, all of them if the model"
    " is unknown."
)


class LegacyRequest(BaseModel):
    """A model, and the InChIKeys of the requested molecules."""

    model_config = ConfigDict(strict=True)

    model_id: str = Field(alias="modelId")
    inchikeys: list[str] = Field(alias="inputKeyArray", json_schema_extra={"maxItems": 1_000})


class LegacyOutput(BaseModel):
    """One molecule that was found: its SMILES, and the model's values in the order of its columns."""

    smiles: str | None
    value: list[Value]


class LegacyAnswer(BaseModel):
    """The molecules that were found, in the order of the request; the others are left out."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    output: list[LegacyOutput]


def add_legacy_routes(app: FastAPI, models: ServedModels) -> None:
    """Add the routes of the earlier API for these models."""
    problems = (too_many_inchikeys(1_001, "eos3b5e", 1), answer_too_large(), unavailable())
    # With `LegacyRequest | None` a body of `null` would be taken, too.
    left_out: Any = Body(None)
    responses = WITH_PROVENANCE | body_refusals(*problems)

    @app.post(
        "/predictions",
        summary="Many molecules, as the earlier API answered",
        description=f"{_DESCRIPTION} Write new programs for `POST /models/{{model}}/predictions`.",
        tags=["predictions"],
        deprecated=True,
        response_model=LegacyAnswer,
        responses=responses,
    )
    def predict_as_before(body: LegacyRequest) -> Response:
        return _answer(models, body)

    @app.get(
        "/predictions",
        summary="The same by GET",
        description=f"{_DESCRIPTION} Without a body, the answer is 204. Browsers send no body by GET, and proxies may"
        " drop it: ask by POST where you can.",
        tags=["predictions"],
        deprecated=True,
        response_model=LegacyAnswer,
        responses=responses | {204: {"description": "The request has no body."}},
    )
    def predict_as_before_by_get(body: LegacyRequest = left_out) -> Response:
        response = _answer(models, body) if body else Response(status_code=HTTPStatus.NO_CONTENT)
        # Caches keep an answer to GET by its URL, which leaves out the body.
        response.headers["Cache-Control"] = "no-store"
        return response


def _answer(models: ServedModels, body: LegacyRequest) -> Response:
    output: list[dict[str, object]] = []
    headers = {}
    entry = models.find(body.model_id)
    if entry:
        check_number(entry, body.inchikeys)
        predictions = models.read(body.model_id, body.inchikeys, library=models.smiles(body.inchikeys))
        if predictions:
            found = zip(predictions.smiles, predictions.rows, strict=True)
            output = [{"smiles": smiles, "value": list(row)} for smiles, row in found if row is not None]
            headers = provenance_header(predictions)
    return Response(dump({"model_id": body.model_id, "output": output}), media_type=JSON, headers=headers)
