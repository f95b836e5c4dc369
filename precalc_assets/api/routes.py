"""The routes that read the tables, and the largest requests that they answer."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from precalc.identifiers import split_names
from precalc.statuses import NOT_IN_LIBRARY, NOT_PREDICTED_YET
from precalc_assets.api.answers import (
    CSV,
    JSON,
    MAX_MOLECULES,
    AllModelsAnswer,
    AnswerFormat,
    ColumnNames,
    DistributionsAnswer,
    Health,
    Include,
    ModelAnswer,
    ModelId,
    ModelIds,
    ModelList,
    ModelSummary,
    MoleculeAnswer,
    MoleculeKey,
    MoleculesAnswer,
    MoleculesRequest,
    all_models_json,
    check_inchikey,
    lists_about,
    media_type,
    molecule_json,
    named_models,
    provenance,
    to_csv,
    to_json,
)
from precalc_assets.api.middleware import VALIDATED
from precalc_assets.api.problems import (
    Problem,
    answer_too_large,
    bad_query,
    body_refusals,
    malformed_inchikey,
    not_acceptable,
    refusals,
    too_many,
    unavailable,
    unknown_column,
    unknown_model,
)
from precalc_assets.api.served import MANY_SECONDS, Predictions, ServedModels
from precalc_assets.catalogue import CatalogueEntry, KnownSmiles
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.sharding import shard_of

MAX_VALUES = 200_000
"""Values in one answer: at 25 characters, the longest that a float64 is written with, 5 MB of the 6 that a Lambda may
answer with (AWS Lambda Developer Guide, "Lambda quotas")."""

MAX_DISTRIBUTIONS = 200
"""Distributions in one answer: each takes some 3 KB, with 101 percentiles."""

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
                " `deterministic` and `counts`, as JSON in ASCII.",
                "schema": {"type": "string"},
            }
        }
    }
}
"""What OpenAPI says of an answer with that header."""

_PARALLEL = 8
"""Models that a request reads in parallel: half of the connections that a store of DynamoDB keeps open."""

_KEY = "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
_CSV_EXAMPLE = f"inchikey,status,smiles,mol_weight\n{_KEY},found,CC(=O)Oc1ccccc1C(=O)O,180.159\n"
_WITH_CSV: dict[int | str, dict[str, Any]] = {
    200: WITH_PROVENANCE[200] | {"content": {CSV: {"schema": {"type": "string"}, "example": _CSV_EXAMPLE}}}
}

# Examples of problems, for the document.
UNKNOWN_MODEL = unknown_model("eos9zzz")
_MALFORMED = malformed_inchikey("'aspirin'")
_UNKNOWN_COLUMN = unknown_column("eos3b5e has no column 'mol_wieght'; the nearest name is 'mol_weight'")
_TOO_MANY = too_many("too_many_columns", "2,048 columns are too many for one answer; name up to 200 by columns=")
_BAD_QUERY = bad_query("include='inchi' is not known; write include=smiles")


def add_distribution_route(app: FastAPI, served: ServedModels) -> None:
    """Add the route that tells how a model's values are distributed."""

    @app.get(
        "/models/{model}/distributions",
        summary="Distributions of a model's columns",
        description=f"How the values of up to {MAX_DISTRIBUTIONS} named columns, by default the first ones, are "
        "distributed over the library: the bars of a histogram, and 101 percentiles of numbers. A model of thousands "
        "of columns may have those of a sample.",
        tags=["models"],
        responses=VALIDATED
        | refusals(_BAD_QUERY, UNKNOWN_MODEL, _UNKNOWN_COLUMN, _TOO_MANY, unavailable(), answer_too_large()),
    )
    def list_distributions(model: ModelId, columns: ColumnNames = None) -> DistributionsAnswer:
        entry = _find(served, model)
        every = [column.name for column in entry.reader.columns]
        names = split_names(columns) if columns is not None else every[:MAX_DISTRIBUTIONS]
        if len(names) > MAX_DISTRIBUTIONS:
            message = f"{len(names):,} columns are too many for one answer; name up to {MAX_DISTRIBUTIONS} by columns="
            raise too_many("too_many_columns", message)
        try:
            found = served.distributions(entry, names)
        except UsageError as error:
            raise unknown_column(str(error)) from None
        except TableError as error:
            raise unavailable(error, model) from error
        return DistributionsAnswer(model=model, releases=entry.releases, distributions=list(found.values()))


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
            _UNKNOWN_COLUMN,
            UNKNOWN_MODEL,
            _not_in_library(_KEY),
            _not_predicted_yet(_KEY, "eos3b5e", "07"),
            unavailable(),
            answer_too_large(),
        ),
    )
    def predict_molecule(
        model: ModelId, inchikey: MoleculeKey, include: Include = None, columns: ColumnNames = None
    ) -> Response:
        """Return the predictions. A 404 tells apart an unknown model, an unknown molecule and one to be predicted."""
        check_inchikey(inchikey)
        names = None if columns is None else split_names(columns)
        predictions = _read(served, model, [inchikey], names, include)
        if predictions.statuses == [NOT_PREDICTED_YET]:
            raise _not_predicted_yet(inchikey, model, shard_of(inchikey, predictions.entry.reader.n_shards))
        if predictions.statuses == [NOT_IN_LIBRARY]:
            raise _not_in_library(inchikey)
        return Response(molecule_json(predictions, smiles=include is not None), media_type=JSON)

    @app.post(
        "/models/{model}/predictions",
        summary="Many molecules of one model",
        description=f"Up to {MAX_MOLECULES:,} molecules at a time, fewer of a model with more than"
        f" {MAX_VALUES // MAX_MOLECULES:,} columns: the answer holds up to {MAX_VALUES:,} values. It is in the order of"
        " the request, with null for a molecule that is missing; `statuses` say why. As CSV every text is exact, the"
        f" cells of a missing molecule are empty, and the header {PROVENANCE} carries the rest. With"
        " `format=spreadsheet` it is CSV in which a text that a spreadsheet may run as a formula has an apostrophe in"
        " front.",
        tags=["predictions"],
        response_model=MoleculesAnswer,
        responses=_WITH_CSV
        | body_refusals(
            _BAD_QUERY,
            _UNKNOWN_COLUMN,
            UNKNOWN_MODEL,
            not_acceptable(),
            too_many_inchikeys(1_001, "eos3b5e", 1),
            answer_too_large(),
            unavailable(),
        ),
    )
    def predict_molecules(
        request: Request,
        model: ModelId,
        body: MoleculesRequest,
        include: Include = None,
        answer_format: AnswerFormat = None,
    ) -> Response:
        kind = media_type(request, answer_format)
        columns = body.columns or None
        check_number(_find(served, model), body.inchikeys, columns)
        predictions = _read(served, model, body.inchikeys, columns, include, body.forms)
        about = lists_about(predictions, body.forms, smiles=include is not None)
        if kind == JSON:
            return Response(to_json(predictions, about), media_type=JSON, headers={"Vary": "Accept"})
        file = {"Content-Disposition": f'attachment; filename="{model}.csv"', "Vary": "Accept"}
        text = to_csv(predictions, about, spreadsheet=answer_format is not None)
        return Response(text, media_type=CSV, headers=file | provenance_header(predictions))

    @app.get(
        "/molecules/{inchikey}",
        summary="One molecule of many models",
        description="All models, or those that are named. Predictions are null of a model that does not have the"
        " molecule; if neither the library nor any of them has it, the answer is 404. The columns of these models may"
        f" be {MAX_COLUMNS:,} in all. Predictions and releases may be a minute old, what else is said of a model ten.",
        tags=["predictions"],
        response_model=AllModelsAnswer,
        responses=VALIDATED
        | refusals(
            _MALFORMED,
            _BAD_QUERY,
            UNKNOWN_MODEL,
            _not_in_library(_KEY),
            _too_many_columns(240, 312_000),
            answer_too_large(),
            unavailable(),
        ),
    )
    def predict_by_all(inchikey: MoleculeKey, models: ModelIds = None, include: Include = None) -> Response:
        check_inchikey(inchikey)
        library = served.smiles([inchikey])
        read = _read_all(pool, served, models, inchikey, library)
        smiles = {"smiles": library.get(inchikey)} if include else {}
        return Response(all_models_json(inchikey, smiles, read), media_type=JSON)


def check_number(entry: CatalogueEntry, inchikeys: Sequence[str], columns: Sequence[str] | None = None) -> None:
    """Raise Problem for more molecules than one answer holds, of these columns, by default all."""
    n_columns = len(entry.reader.columns if columns is None else set(columns))
    if len(inchikeys) > _most_molecules(n_columns):
        raise too_many_inchikeys(len(inchikeys), entry.model, n_columns)


def too_many_inchikeys(number: int, model: str, n_columns: int) -> Problem:
    """Return the problem of more molecules than one answer of this model holds."""
    message = (
        f"{number:,} InChIKeys are too many for one request; {model} answers up to {_most_molecules(n_columns):,} at a"
        f" time with {n_columns:,} columns"
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


def _read(
    served: ServedModels,
    model: str,
    keys: Sequence[str],
    columns: Sequence[str] | None,
    include: str | None,
    forms: Sequence[str | None] = (),
) -> Predictions:
    """Return predictions, with the SMILES of all molecules if they are included, else of those that have a form."""
    named = keys if include else [key for key, form in zip(keys, forms, strict=False) if form]
    try:
        predictions = served.read(model, keys, columns=columns, library=served.smiles(named))
    except UsageError as error:
        raise unknown_column(str(error)) from None
    if predictions is None:
        raise unknown_model(model)
    return predictions


def _read_all(
    pool: ThreadPoolExecutor, served: ServedModels, models: str | None, inchikey: str, library: KnownSmiles
) -> list[Predictions]:
    """Return a molecule's predictions by the models that a query names, by default by all, in their order."""

    def find(name: str) -> CatalogueEntry | None:
        try:
            return served.find(name, within=MANY_SECONDS)
        except TableError as error:
            raise unavailable(error, name) from error

    def read(entry: CatalogueEntry) -> Predictions | None:
        try:
            return served.read(entry.model, [inchikey], library=library, within=MANY_SECONDS)
        except TableError as error:
            raise unavailable(error, entry.model) from error

    names = served.names() if models is None else named_models(models)
    found = dict(zip(names, pool.map(find, names), strict=True))
    unknown = [name for name in names if found[name] is None]
    if unknown and models is not None:
        raise unknown_model(*unknown)
    entries = [entry for entry in found.values() if entry]
    n_columns = sum(len(entry.reader.columns) for entry in entries)
    if n_columns > MAX_COLUMNS:
        raise _too_many_columns(len(entries), n_columns)
    # A model that was dropped meanwhile is left out.
    predicted = [predictions for predictions in pool.map(read, entries) if predictions]
    if not library.get(inchikey) and all(predictions.statuses == [NOT_IN_LIBRARY] for predictions in predicted):
        raise _not_in_library(inchikey)
    return predicted


def _not_predicted_yet(inchikey: str, model: str, shard: str) -> Problem:
    message = f"{model} has not predicted {inchikey} yet; ask again when its shard {shard} has been loaded"
    return Problem(HTTPStatus.NOT_FOUND, NOT_PREDICTED_YET, message)


def _not_in_library(inchikey: str) -> Problem:
    message = f"{inchikey} is not in the reference library, so nothing is predicted for it"
    return Problem(HTTPStatus.NOT_FOUND, NOT_IN_LIBRARY, message)


def _too_many_columns(models: int, n_columns: int) -> Problem:
    message = (
        f"{models:,} models have {n_columns:,} columns, and one answer up to {MAX_COLUMNS:,}; name fewer of them by"
        " models="
    )
    return too_many("too_many_columns", message)
