"""What can be asked, and how much at a time. Nothing here knows whether it runs in a Lambda."""

import json
from collections.abc import Sequence
from http import HTTPStatus

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver
from aws_lambda_powertools.utilities.data_classes.common import BaseProxyEvent
from pydantic import ValidationError

from precalc_assets.api.answers import (
    CSV,
    JSON,
    Health,
    ModelAnswer,
    ModelList,
    ModelSummary,
    MoleculeAnswer,
    MoleculesQuestion,
    best_type,
    provenance,
    to_csv,
    to_json,
)
from precalc_assets.api.problems import Problem, add_problems, shortened, unknown_model
from precalc_assets.api.served import ServedModel, ServedModels
from precalc_assets.sharding import INCHIKEY, shard_of
from precalc_assets.tables.reader import Row

MAX_MOLECULES = 1_000
"""Molecules in one request, of a model with few columns."""

MAX_VALUES = 200_000
"""Values in one answer: at 25 characters, the longest that a float64 is written with, 5 MB of the 6 that a Lambda may
answer with (AWS Lambda Developer Guide, "Lambda quotas")."""

PROVENANCE_HEADER = "Precalc-Provenance"
"""Carries beside CSV what JSON has beside the predictions, as JSON."""


def add_routes(app: ApiGatewayResolver, models: ServedModels) -> None:
    """Make a resolver answer for these models."""

    @app.get("/health")
    def health() -> Health:
        return Health()

    @app.get("/models")
    def list_models() -> ModelList:
        return ModelList(models=[ModelSummary.of(model, card) for model, card in models.cards().items()])

    @app.get("/models/<model>")
    def describe_model(model: str) -> ModelAnswer:
        return ModelAnswer.of(_find(models, model))

    @app.get("/models/<model>/predictions/<inchikey>")
    def predict_molecule(model: str, inchikey: str) -> MoleculeAnswer:
        _check_inchikeys([inchikey])
        served, (row,) = _read(models, model, [inchikey])
        if row is None:
            raise _unknown_molecule(served, inchikey)
        return MoleculeAnswer.of(served, inchikey, row)

    @app.post("/models/<model>/predictions")
    def predict_molecules(model: str) -> Response[str]:
        question = _read_question(app.current_event)
        kind = best_type(app.current_event.headers.get("accept", ""))
        if kind is None:
            raise Problem(
                HTTPStatus.NOT_ACCEPTABLE, "not_acceptable", "predictions come as application/json or text/csv"
            )
        _check_number(_find(models, model), question.inchikeys)
        _check_inchikeys(question.inchikeys)
        served, rows = _read(models, model, question.inchikeys)
        return _answer(kind, served, question.inchikeys, rows)

    add_problems(app)


def _read_question(event: BaseProxyEvent) -> MoleculesQuestion:
    """Return what a body asks for.

    Powertools would do so if the route had it as a parameter. It also reads forms, and fails on some bodies that are
    none of those it knows.
    """
    if not (event.headers.get("content-type") or JSON).strip().lower().startswith(JSON):
        message = "the body has to be JSON, and the header content-type: application/json"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    try:
        return MoleculesQuestion.model_validate_json(event.decoded_body or "")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] != "json_invalid":
            place = ".".join(["body", *map(str, first["loc"])])
            raise Problem(HTTPStatus.BAD_REQUEST, "bad_request", f"{place}: {first['msg']}") from None
    except ValueError:
        pass  # It is not in base64, or not in UTF-8.
    raise Problem(HTTPStatus.BAD_REQUEST, "invalid_json", "the body is not JSON in UTF-8")


def _find(models: ServedModels, model: str) -> ServedModel:
    served = models.find(model)
    if served is None:
        raise unknown_model(model)
    return served


def _read(models: ServedModels, model: str, inchikeys: Sequence[str]) -> tuple[ServedModel, list[Row | None]]:
    answer = models.read(model, inchikeys)
    if answer is None:
        raise unknown_model(model)
    return answer


def _check_number(served: ServedModel, inchikeys: Sequence[str]) -> None:
    n_columns = len(served.reader.columns)
    largest = max(1, min(MAX_MOLECULES, MAX_VALUES // max(1, n_columns)))
    if len(inchikeys) > largest:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_many_inchikeys",
            f"{len(inchikeys):,} InChIKeys are too many for one request; {served.model} has {n_columns:,} columns and"
            f" answers up to {largest:,} at a time",
        )


def _check_inchikeys(inchikeys: Sequence[str]) -> None:
    for at, inchikey in enumerate(inchikeys, start=1):
        if not INCHIKEY.match(inchikey):
            which = f"number {at:,}, {shortened(inchikey)}," if len(inchikeys) > 1 else shortened(inchikey)
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                "malformed_inchikey",
                f"{which} is not an InChIKey; it has 27 characters, like BSYNRYMUTXBXSQ-UHFFFAOYSA-N",
            )


def _unknown_molecule(served: ServedModel, inchikey: str) -> Problem:
    if served.release_of(inchikey) is None:
        shard = shard_of(inchikey, served.reader.n_shards)
        return Problem(
            HTTPStatus.NOT_FOUND,
            "not_precalculated_yet",
            f"{inchikey} belongs to shard {shard}, which is not precalculated for {served.model} yet",
        )
    return Problem(
        HTTPStatus.NOT_FOUND,
        "unknown_molecule",
        f"{inchikey} is not among the {served.molecules:,} molecules precalculated for {served.model}",
    )


def _answer(kind: str, served: ServedModel, inchikeys: Sequence[str], rows: Sequence[Row | None]) -> Response[str]:
    headers = {"Vary": "Accept, Accept-Encoding"}
    if kind != CSV:
        return Response(HTTPStatus.OK, kind, to_json(served, inchikeys, rows), headers=headers)
    headers |= {
        "Content-Disposition": f'attachment; filename="{served.model}.csv"',
        PROVENANCE_HEADER: json.dumps(provenance(served, inchikeys, rows)),
    }
    return Response(HTTPStatus.OK, f"{CSV}; charset=utf-8", to_csv(served, inchikeys, rows), headers=headers)
