"""The routes that read the tables, and the largest requests that they answer."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from precalc_assets.api.answers import (
    CSV,
    JSON,
    MAX_MOLECULES,
    AllModelsAnswer,
    Health,
    ModelAnswer,
    ModelList,
    ModelSummary,
    MoleculeAnswer,
    MoleculesAnswer,
    MoleculesRequest,
    all_models_json,
    best_type,
    molecule_json,
    provenance,
    to_csv,
    to_json,
)
from precalc_assets.api.middleware import VALIDATED
from precalc_assets.api.parameters import Include, ModelId, ModelIds, MoleculeKey, check_inchikeys, named_models
from precalc_assets.api.problems import (
    Problem,
    answer_too_large,
    bad_query,
    body_refusals,
    malformed_inchikey,
    refusals,
    shortened,
    too_many,
    unavailable,
    unknown_model,
)
from precalc_assets.api.served import MANY_SECONDS, Predictions, ServedModels
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_of

MAX_VALUES = 200_000
"""Values in one answer: at 25 characters, the longest that a float64 is written with, 5 MB of the 6 that a Lambda may
answer with (AWS Lambda Developer Guide, "Lambda quotas")."""

MAX_COLUMNS = 60_000
"""Columns of one molecule's answer, of all models together: each is there with its name, twice, its type and a value,
which take up to 100 bytes of the same 6 MB."""

PROVENANCE = "Precalc-Provenance"
"""The header that carries, as JSON in ASCII, what a JSON body has beside the predictions."""

WITH_PROVENANCE: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            PROVENANCE: {
                "description": "Provenance, for bodies without a place for it: `model`, `releases`, `library_digest`,"
                " `deterministic`, `found` and `missing`, as JSON in ASCII.",
                "schema": {"type": "string"},
            }
        }
    }
}
"""What OpenAPI says of an answer with that header."""

_PARALLEL = 8
"""Models that a request reads in parallel: half of the connections that a store of DynamoDB keeps open."""

_NAMED = 5
"""Unknown models that a message names; the others are counted."""

_KEY = "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
_CSV_EXAMPLE = f"inchikey,smiles,mol_weight\n{_KEY},CC(=O)Oc1ccccc1C(=O)O,180.159\n"
_WITH_CSV: dict[int | str, dict[str, Any]] = {
    200: WITH_PROVENANCE[200] | {"content": {CSV: {"schema": {"type": "string"}, "example": _CSV_EXAMPLE}}}
}

_not_acceptable = partial(
    Problem, HTTPStatus.NOT_ACCEPTABLE, "not_acceptable", "predictions come as application/json or text/csv"
)

# Examples of problems, for the document.
UNKNOWN_MODEL = unknown_model("eos9zzz")
_MALFORMED = malformed_inchikey("'aspirin'")
_BAD_QUERY = bad_query("include='inchi' is not known; write include=smiles")


def add_routes(app: FastAPI, served: ServedModels) -> None:
    """Add the routes for these models."""
    pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="models")  # Threads start on first use.

    @app.get("/health", summary="Whether the API is up", tags=["service"], response_model=Health)
    async def health() -> Response:
        """Say that the API is up. This tells nothing of the tables."""
        return Response(Health().model_dump_json(), media_type=JSON, headers={"Cache-Control": "no-store"})

    @app.get(
        "/models",
        summary="All models",
        tags=["models"],
        responses=VALIDATED | refusals(unavailable(), answer_too_large()),
    )
    def list_models() -> ModelList:
        """List what is precalculated, by model: title, columns, coverage. The list may be ten seconds old."""
        return ModelList(models=[ModelSummary.of(model, card) for model, card in served.cards().items()])

    @app.get(
        "/models/{model}",
        summary="One model",
        tags=["models"],
        responses=VALIDATED | refusals(UNKNOWN_MODEL, unavailable(), answer_too_large()),
    )
    def describe_model(model: ModelId) -> ModelAnswer:
        """Describe what one model predicts, what of it is precalculated, and when it was loaded."""
        return ModelAnswer.of(_find(served, model))

    @app.get(
        "/models/{model}/predictions/{inchikey}",
        summary="One molecule of one model",
        tags=["predictions"],
        response_model=MoleculeAnswer,
        responses=VALIDATED
        | refusals(
            _MALFORMED,
            _BAD_QUERY,
            UNKNOWN_MODEL,
            _unknown_molecule(_KEY, "eos3b5e", 4_980),
            _not_precalculated(_KEY, "eos3b5e", "07"),
            unavailable(),
            answer_too_large(),
        ),
    )
    def predict_molecule(model: ModelId, inchikey: MoleculeKey, include: Include = None) -> Response:
        """Return the predictions. A 404 tells apart an unknown model, an unknown molecule and a missing shard."""
        check_inchikeys([inchikey])
        predictions = _read(served, model, [inchikey], smiles=include is not None)
        if predictions.rows == [None]:
            raise _missing(predictions, inchikey)
        return Response(molecule_json(predictions), media_type=JSON)

    @app.post(
        "/models/{model}/predictions",
        summary="Many molecules of one model",
        description=f"Up to {MAX_MOLECULES:,} molecules at a time, fewer of a model with more than"
        f" {MAX_VALUES // MAX_MOLECULES:,} columns: the answer holds up to {MAX_VALUES:,} values. It is in the order of"
        " the request, with null for a molecule that is missing. As CSV the cells of a missing one are empty, a text"
        " that a spreadsheet may run as a formula, or that looks like one with apostrophes in front, has an apostrophe"
        f" more, and the header {PROVENANCE} carries the rest.",
        tags=["predictions"],
        response_model=MoleculesAnswer,
        responses=_WITH_CSV
        | body_refusals(
            _MALFORMED,
            _BAD_QUERY,
            UNKNOWN_MODEL,
            _not_acceptable(),
            too_many_inchikeys(1_001, "eos3b5e", 1),
            answer_too_large(),
            unavailable(),
        ),
    )
    def predict_molecules(
        request: Request, model: ModelId, body: MoleculesRequest, include: Include = None
    ) -> Response:
        kind = best_type(request.headers.get("accept", ""))
        if kind is None:
            raise _not_acceptable()
        check_number(_find(served, model), body.inchikeys)
        check_inchikeys(body.inchikeys)
        return _answer(kind, _read(served, model, body.inchikeys, smiles=include is not None))

    @app.get(
        "/molecules/{inchikey}",
        summary="One molecule of many models",
        description="All models, or those that are named. Predictions are null of a model that does not have the"
        f" molecule. The columns of these models may be {MAX_COLUMNS:,} in all. Predictions and releases may be a"
        " minute old, what else is said of a model ten.",
        tags=["predictions"],
        response_model=AllModelsAnswer,
        responses=VALIDATED
        | refusals(
            _MALFORMED, _BAD_QUERY, UNKNOWN_MODEL, _too_many_columns(240, 312_000), answer_too_large(), unavailable()
        ),
    )
    def predict_by_all(inchikey: MoleculeKey, models: ModelIds = None, include: Include = None) -> Response:
        named = named_models(models)
        check_inchikeys([inchikey])
        read = _read_all(pool, served, named, inchikey)
        smiles = served.smiles([inchikey]) if include else None
        return Response(all_models_json(inchikey, smiles, read), media_type=JSON)


def check_number(entry: CatalogueEntry, inchikeys: Sequence[str]) -> None:
    """Raise Problem for more molecules than one answer holds."""
    n_columns = len(entry.reader.columns)
    if len(inchikeys) > _most_molecules(n_columns):
        raise too_many_inchikeys(len(inchikeys), entry.model, n_columns)


def too_many_inchikeys(number: int, model: str, n_columns: int) -> Problem:
    """Return the problem of more molecules than one answer of this model holds."""
    message = (
        f"{number:,} InChIKeys are too many for one request; {model} has {n_columns:,} columns and answers up to"
        f" {_most_molecules(n_columns):,} at a time"
    )
    return too_many("too_many_inchikeys", message)


def provenance_header(predictions: Predictions) -> dict[str, str]:
    """Return the header with the provenance of predictions, for bodies that have no place for it."""
    return {PROVENANCE: json.dumps(provenance(predictions))}


def _most_molecules(n_columns: int) -> int:
    return max(1, min(MAX_MOLECULES, MAX_VALUES // max(1, n_columns)))


def _find(served: ServedModels, model: str) -> CatalogueEntry:
    entry = served.find(model)
    if entry is None:
        raise unknown_model(model)
    return entry


def _read(served: ServedModels, model: str, inchikeys: Sequence[str], *, smiles: bool) -> Predictions:
    predictions = served.read(model, inchikeys, smiles=smiles)
    if predictions is None:
        raise unknown_model(model)
    return predictions


def _read_all(
    pool: ThreadPoolExecutor, served: ServedModels, named: list[str] | None, inchikey: str
) -> list[Predictions]:
    """Return a molecule's predictions by the named models, by default by all, in their order."""

    def find(name: str) -> CatalogueEntry | None:
        try:
            return served.find(name, within=MANY_SECONDS)
        except TableError as error:
            raise unavailable(error, name) from error

    def read(entry: CatalogueEntry) -> Predictions | None:
        try:
            return served.read(entry.model, [inchikey], within=MANY_SECONDS)
        except TableError as error:
            raise unavailable(error, entry.model) from error

    names = served.names() if named is None else named
    found = dict(zip(names, pool.map(find, names), strict=True))
    unknown = [name for name in names if found[name] is None]
    if unknown and named is not None:
        raise _unknown_models(unknown)
    entries = [entry for entry in found.values() if entry]
    n_columns = sum(len(entry.reader.columns) for entry in entries)
    if n_columns > MAX_COLUMNS:
        raise _too_many_columns(len(entries), n_columns)
    # A model that was dropped meanwhile is left out.
    return [predictions for predictions in pool.map(read, entries) if predictions]


def _answer(kind: str, predictions: Predictions) -> Response:
    headers = {"Vary": "Accept"}
    if kind != CSV:
        return Response(to_json(predictions), media_type=kind, headers=headers)
    headers |= {
        "Content-Disposition": f'attachment; filename="{predictions.entry.model}.csv"',
        **provenance_header(predictions),
    }
    return Response(to_csv(predictions), media_type=CSV, headers=headers)


def _unknown_models(unknown: Sequence[str]) -> Problem:
    if len(unknown) == 1:
        return unknown_model(unknown[0])
    names = ", ".join(map(shortened, unknown[:_NAMED]))
    more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
    message = f"no predictions of {names}{more} are served; GET /models lists the models that are"
    return Problem(HTTPStatus.NOT_FOUND, "unknown_model", message)


def _missing(predictions: Predictions, inchikey: str) -> Problem:
    entry = predictions.entry
    if predictions.release_of(inchikey) is None:
        return _not_precalculated(inchikey, entry.model, shard_of(inchikey, entry.reader.n_shards))
    return _unknown_molecule(inchikey, entry.model, entry.molecules)


def _not_precalculated(inchikey: str, model: str, shard: str) -> Problem:
    message = f"{inchikey} belongs to shard {shard}, which is not precalculated for {model} yet"
    return Problem(HTTPStatus.NOT_FOUND, "not_precalculated_yet", message)


def _unknown_molecule(inchikey: str, model: str, molecules: int) -> Problem:
    message = f"{inchikey} is not among the {molecules:,} molecules precalculated for {model}"
    return Problem(HTTPStatus.NOT_FOUND, "unknown_molecule", message)


def _too_many_columns(models: int, n_columns: int) -> Problem:
    message = (
        f"{models:,} models have {n_columns:,} columns, and one answer up to {MAX_COLUMNS:,}; name fewer of them by"
        " models="
    )
    return too_many("too_many_columns", message)
