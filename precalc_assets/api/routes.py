"""What can be asked of the tables, and how much at a time. Nothing here knows whether it runs in a Lambda."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver

from precalc_assets.api.answers import (
    CSV,
    JSON,
    MAX_MOLECULES,
    Health,
    ModelAnswer,
    ModelList,
    ModelSummary,
    MoleculesQuestion,
    all_models_json,
    best_type,
    molecule_json,
    provenance,
    to_csv,
    to_json,
)
from precalc_assets.api.bodies import read_body
from precalc_assets.api.problems import Problem, shortened, unavailable, unknown_model
from precalc_assets.api.questions import check_inchikeys, includes_smiles, named_models, read_query
from precalc_assets.api.served import MANY_SECONDS, Predictions, ServedModels
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.errors import TableError
from precalc_assets.sharding import shard_of

__all__ = ["MAX_MOLECULES", "MAX_VALUES", "add_routes", "check_number", "provenance_header"]

MAX_VALUES = 200_000
"""Values in one answer: at 25 characters, the longest that a float64 is written with, 5 MB of the 6 that a Lambda may
answer with (AWS Lambda Developer Guide, "Lambda quotas")."""

MAX_COLUMNS = 60_000
"""Columns of one molecule's answer, of all models together: each is there with its name, twice, its type and a value,
which take up to 100 bytes of the same 6 MB."""

_PROVENANCE = "Precalc-Provenance"
"""Carries what JSON has beside the predictions, as JSON in ASCII."""

_PARALLEL = 8
"""Models that a request reads at the same time: half of the connections that a store of DynamoDB keeps open."""

_NAMED = 5
"""Unknown models that a message names; it counts the others."""


def add_routes(app: ApiGatewayResolver, models: ServedModels) -> None:
    """Make a resolver answer for these models."""
    pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="models")  # It starts threads when they are needed.

    @app.get(
        "/health",
        summary="Whether the API is up",
        description="It says nothing of the tables.",
        tags=["service"],
    )
    def health() -> Response[str]:
        return Response(HTTPStatus.OK, JSON, Health().model_dump_json(), headers={"Cache-Control": "no-store"})

    @app.get(
        "/models",
        summary="All models",
        description="What is precalculated, by model: title, columns, coverage. It may be ten seconds old.",
        tags=["models"],
    )
    def list_models() -> ModelList:
        return ModelList(models=[ModelSummary.of(model, card) for model, card in models.cards().items()])

    @app.get(
        "/models/<model>",
        summary="One model",
        description="What one model predicts, what of it is precalculated, and when.",
        tags=["models"],
    )
    def describe_model(model: str) -> ModelAnswer:
        return ModelAnswer.of(_find(models, model))

    @app.get(
        "/models/<model>/predictions/<inchikey>",
        summary="One molecule of one model",
        description="The code of a 404 says whether the model is unknown, the molecule, or its shard not loaded yet.",
        tags=["predictions"],
    )
    def predict_molecule(model: str, inchikey: str) -> Response[str]:
        smiles = includes_smiles(read_query(app.current_event, {"include"}))
        check_inchikeys([inchikey])
        predictions = _read(models, model, [inchikey], smiles=smiles)
        if predictions.rows == [None]:
            raise _unknown_molecule(predictions, inchikey)
        return Response(HTTPStatus.OK, JSON, molecule_json(predictions))

    @app.post(
        "/models/<model>/predictions",
        summary="Many molecules of one model",
        description=f"Up to {MAX_MOLECULES:,} molecules at a time, fewer of a model with more than"
        f" {MAX_VALUES // MAX_MOLECULES:,} columns: the answer holds up to {MAX_VALUES:,} values. It is in the order of"
        " the question, with null for a molecule that is missing. As CSV its cells are empty, a text that a"
        f" spreadsheet would run has an apostrophe before it, and the header {_PROVENANCE} carries the rest.",
        tags=["predictions"],
    )
    def predict_molecules(model: str) -> Response[str]:
        smiles = includes_smiles(read_query(app.current_event, {"include"}))
        question = read_body(app.current_event, MoleculesQuestion)
        kind = best_type(app.current_event.headers.get("accept", ""))
        if kind is None:
            raise Problem(
                HTTPStatus.NOT_ACCEPTABLE, "not_acceptable", "predictions come as application/json or text/csv"
            )
        check_number(_find(models, model), question.inchikeys)
        check_inchikeys(question.inchikeys)
        return _answer(kind, _read(models, model, question.inchikeys, smiles=smiles))

    @app.get(
        "/molecules/<inchikey>",
        summary="One molecule of many models",
        description="All models, or those that are named. Predictions are null of a model that does not have the"
        f" molecule. The columns of these models may be {MAX_COLUMNS:,} in all. Predictions and releases may be a"
        " minute old, what else is said of a model ten.",
        tags=["predictions"],
    )
    def predict_by_all(inchikey: str) -> Response[str]:
        query = read_query(app.current_event, {"include", "models"})
        smiles, named = includes_smiles(query), named_models(query)
        check_inchikeys([inchikey])
        read = _read_all(pool, models, named, inchikey)
        texts = models.smiles([inchikey]) if smiles else None
        return Response(HTTPStatus.OK, JSON, all_models_json(inchikey, texts, read))


def check_number(served: CatalogueEntry, inchikeys: Sequence[str]) -> None:
    """Raise Problem for more molecules than one answer holds; it tells how many that are."""
    n_columns = len(served.reader.columns)
    largest = max(1, min(MAX_MOLECULES, MAX_VALUES // max(1, n_columns)))
    if len(inchikeys) > largest:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_many_inchikeys",
            f"{len(inchikeys):,} InChIKeys are too many for one request; {served.model} has {n_columns:,} columns and"
            f" answers up to {largest:,} at a time",
        )


def provenance_header(predictions: Predictions) -> dict[str, str]:
    """Return the header that says of predictions what their body has no place for."""
    return {_PROVENANCE: json.dumps(provenance(predictions))}


def _find(models: ServedModels, model: str) -> CatalogueEntry:
    served = models.find(model)
    if served is None:
        raise unknown_model(model)
    return served


def _read(models: ServedModels, model: str, inchikeys: Sequence[str], *, smiles: bool) -> Predictions:
    predictions = models.read(model, inchikeys, smiles=smiles)
    if predictions is None:
        raise unknown_model(model)
    return predictions


def _read_all(
    pool: ThreadPoolExecutor, models: ServedModels, named: list[str] | None, inchikey: str
) -> list[Predictions]:
    """Return a molecule's predictions of the models that are named, otherwise of all, in their order."""

    def find(name: str) -> CatalogueEntry | None:
        try:
            return models.find(name, within=MANY_SECONDS)
        except TableError as error:
            raise unavailable(error, name) from error

    def read(served: CatalogueEntry) -> Predictions | None:
        try:
            return models.read(served.model, [inchikey], within=MANY_SECONDS)
        except TableError as error:
            raise unavailable(error, served.model) from error

    names = models.names() if named is None else named
    found = dict(zip(names, pool.map(find, names), strict=True))
    unknown = [name for name in names if found[name] is None]
    if unknown and named is not None:
        raise _unknown_models(unknown)
    served = [one for one in found.values() if one]
    n_columns = sum(len(one.reader.columns) for one in served)
    if n_columns > MAX_COLUMNS:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_many_columns",
            f"{len(served):,} models have {n_columns:,} columns, and one answer up to {MAX_COLUMNS:,}; name fewer of"
            " them by models=",
        )

    # One that has been dropped meanwhile is left out.
    return [predictions for predictions in pool.map(read, served) if predictions]


def _unknown_models(unknown: Sequence[str]) -> Problem:
    if len(unknown) == 1:
        return unknown_model(unknown[0])
    names = ", ".join(map(shortened, unknown[:_NAMED]))
    more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
    message = f"no predictions of {names}{more} are served; GET /models lists the models that are"
    return Problem(HTTPStatus.NOT_FOUND, "unknown_model", message)


def _unknown_molecule(predictions: Predictions, inchikey: str) -> Problem:
    served = predictions.entry
    if predictions.release_of(inchikey) is None:
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


def _answer(kind: str, predictions: Predictions) -> Response[str]:
    headers = {"Vary": "Accept"}
    if kind != CSV:
        return Response(HTTPStatus.OK, kind, to_json(predictions), headers=headers)
    headers |= {
        "Content-Disposition": f'attachment; filename="{predictions.entry.model}.csv"',
        **provenance_header(predictions),
    }
    return Response(HTTPStatus.OK, f"{CSV}; charset=utf-8", to_csv(predictions), headers=headers)
