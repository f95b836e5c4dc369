"""`GET` and `POST /predictions`: the contract of the earlier API, for programs that still speak it.

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
from precalc_assets.sharding import INCHIKEY
from precalc_assets.tables import Value

_DESCRIPTION = (
    "For programs that were written for it. What is not there is left out: a molecule, a malformed key, or all of them"
    " if the model is unknown."
)


class LegacyQuestion(BaseModel):
    """A model, and the InChIKeys of the molecules whose predictions are wanted."""

    model_config = ConfigDict(strict=True)

    model_id: str = Field(alias="modelId")
    inchikeys: list[str] = Field(alias="inputKeyArray", json_schema_extra={"maxItems": 1_000})


class LegacyOutput(BaseModel):
    """One molecule that was found: its SMILES, and the model's values in the order of its columns."""

    smiles: str | None
    value: list[Value]


class LegacyAnswer(BaseModel):
    """The molecules that were found, in the order asked; the others are not there."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    output: list[LegacyOutput]


def add_legacy_routes(app: FastAPI, models: ServedModels) -> None:
    """Make an application answer for these models as the earlier API did."""
    problems = (too_many_inchikeys(1_001, "eos3b5e", 1), answer_too_large(), unavailable())
    # Not `LegacyQuestion | None`, by which a body of `null` would be one, too.
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
    def predict_as_before(question: LegacyQuestion) -> Response:
        return _answer(models, question)

    @app.get(
        "/predictions",
        summary="The same, asked by GET",
        description=f"{_DESCRIPTION} Without a body, the answer is 204. Browsers send no body by GET, and proxies may"
        " drop it: ask by POST where you can.",
        tags=["predictions"],
        deprecated=True,
        response_model=LegacyAnswer,
        responses=responses | {204: {"description": "Nothing was asked for: the request has no body."}},
    )
    def predict_as_before_by_get(question: LegacyQuestion = left_out) -> Response:
        response = _answer(models, question) if question else Response(status_code=HTTPStatus.NO_CONTENT)
        # Caches keep an answer to GET by its URL, which does not say what the body asked for.
        response.headers["Cache-Control"] = "no-store"
        return response


def _answer(models: ServedModels, question: LegacyQuestion) -> Response:
    output: list[dict[str, object]] = []
    headers = {}
    entry = models.find(question.model_id)
    if entry:
        check_number(entry, question.inchikeys)
        keys = [inchikey for inchikey in question.inchikeys if INCHIKEY.match(inchikey)]
        predictions = models.read(question.model_id, keys, smiles=True)
        if predictions:
            found = zip(predictions.smiles or (), predictions.rows, strict=True)
            output = [{"smiles": smiles, "value": row} for smiles, row in found if row is not None]
            headers = provenance_header(predictions)
    return Response(dump({"model_id": question.model_id, "output": output}), media_type=JSON, headers=headers)
