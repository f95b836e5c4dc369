"""The OpenAPI document: what each route takes, and everything that it may answer.

Summaries and descriptions are with the routes; this says what they cannot: parameters, bodies, errors, examples. It
is written by hand, since Powertools' own document knows neither bodies that a route reads itself, nor CSV, nor which
errors there are. The schemas are those of the answers' classes. The document is made when it is asked for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from precalc_assets.api.answers import (
    CSV,
    JSON,
    AllModelsAnswer,
    Health,
    ModelAnswer,
    ModelList,
    MoleculeAnswer,
    MoleculesAnswer,
    MoleculesQuestion,
)
from precalc_assets.api.files import FilesAnswer
from precalc_assets.api.inchikeys import InChIKeysAnswer, SmilesQuestion, add_inchikey_routes
from precalc_assets.api.legacy import LegacyAnswer, LegacyQuestion
from precalc_assets.api.problems import Problem
from precalc_assets.api.resolver import Resolver

_VERSION = "1.0.0"
"""Of what is described here: what a program may rely on changes with its first number."""

_SCHEMAS = "#/components/schemas/"
_KEY = "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"

_TAGS = {
    "predictions": "Predictions by InChIKey",
    "models": "What is precalculated",
    "molecules": "From SMILES to InChIKeys",
    "files": "Everything of a model, as Parquet",
    "service": "The API itself",
}

_DESCRIPTION = """\
Predictions of the models of the [Ersilia Model Hub](https://ersilia.io/model-hub) for a reference library of molecules,
calculated beforehand. A molecule is asked for by its InChIKey; `POST /inchikeys` makes these of SMILES.

Values are those that the model printed. Every answer names the release of the model and the digest of the library
that it is of, and tells by `deterministic` whether the model would predict the same again; null is for not known.

Answers to `GET` have an `ETag`; send it as `If-None-Match` to be told that nothing has changed. Whatever is larger than
a KB is compressed for those who accept gzip. Every error is `{"error": {"code", "message"}}`: a code for programs, a
sentence for people."""


class ErrorDetail(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """Every error, whatever its status."""

    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class _Operation:
    """What a route takes and answers, but for the errors that all of them have.

    `errors` has an example for each code that an error may have. `provenance` is for bodies that may not say
    what they are of, `validated` for answers that have an ETag.
    """

    answer: type[BaseModel]
    errors: tuple[Problem, ...] = ()
    parameters: tuple[str, ...] = ()
    question: type[BaseModel] | None = None
    csv: bool = False
    provenance: bool = False
    validated: bool = True


def _problem(status: HTTPStatus, code: str, message: str) -> Problem:
    return Problem(status, code, message)


_BAD = HTTPStatus.BAD_REQUEST
_NOT_FOUND = HTTPStatus.NOT_FOUND
_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

_UNKNOWN_MODEL = _problem(
    _NOT_FOUND, "unknown_model", "no predictions of 'eos9zzz' are served; GET /models lists the models that are"
)
_MALFORMED = _problem(_BAD, "malformed_inchikey", f"'aspirin' is not an InChIKey; it has 27 characters, like {_KEY}")
_BAD_QUERY = _problem(_BAD, "bad_query", "include='inchi' is not known; write include=smiles")
_BODIES = (
    _problem(_BAD, "invalid_json", "the body is not JSON in UTF-8"),
    _problem(_BAD, "bad_request", "body.inchikeys: Field required"),
    _problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "the body has to be JSON, and the header content-type: application/json",
    ),
    _problem(_TOO_LARGE, "body_too_large", "the body is larger than 10 MB; ask for less at a time"),
)
_TOO_MANY = _problem(
    _TOO_LARGE,
    "too_many_inchikeys",
    "1,001 InChIKeys are too many for one request; eos3b5e has 1 columns and answers up to 1,000 at a time",
)
_TOO_MANY_SMILES = _problem(
    _TOO_LARGE, "too_many_smiles", "1,001 SMILES are too many for one request; up to 1,000 are answered at a time"
)
_ANSWER_TOO_LARGE = _problem(
    _TOO_LARGE, "answer_too_large", "the answer is too large; ask for fewer at a time, or accept gzip"
)
_EVERYWHERE = (
    _problem(HTTPStatus.FORBIDDEN, "invalid_api_key", "send a key that is valid in the header x-api-key"),
    _problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", "too many requests at a time; try again in a second"),
    _problem(HTTPStatus.TOO_MANY_REQUESTS, "quota_exceeded", "the key has used up its requests of this month"),
    _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "something went wrong here; it is in our log"),
)
_UNAVAILABLE = _problem(
    HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the predictions cannot be read at the moment; try again later"
)

_LEGACY = _Operation(
    LegacyAnswer,
    (*_BODIES, _TOO_MANY, _ANSWER_TOO_LARGE, _UNAVAILABLE),
    question=LegacyQuestion,
    provenance=True,
    validated=False,
)

_OPERATIONS = {
    ("GET", "/health"): _Operation(Health, validated=False),
    ("GET", "/models"): _Operation(ModelList, (_UNAVAILABLE, _ANSWER_TOO_LARGE)),
    ("GET", "/models/{model}"): _Operation(ModelAnswer, (_UNKNOWN_MODEL, _UNAVAILABLE, _ANSWER_TOO_LARGE), ("model",)),
    ("GET", "/models/{model}/predictions/{inchikey}"): _Operation(
        MoleculeAnswer,
        (
            _MALFORMED,
            _BAD_QUERY,
            _UNKNOWN_MODEL,
            _problem(
                _NOT_FOUND, "unknown_molecule", f"{_KEY} is not among the 4,980 molecules precalculated for eos3b5e"
            ),
            _problem(
                _NOT_FOUND,
                "not_precalculated_yet",
                f"{_KEY} belongs to shard 07, which is not precalculated for eos3b5e yet",
            ),
            _UNAVAILABLE,
            _ANSWER_TOO_LARGE,
        ),
        ("model", "inchikey", "include"),
    ),
    ("POST", "/models/{model}/predictions"): _Operation(
        MoleculesAnswer,
        (
            _MALFORMED,
            _BAD_QUERY,
            *_BODIES,
            _UNKNOWN_MODEL,
            _problem(HTTPStatus.NOT_ACCEPTABLE, "not_acceptable", "predictions come as application/json or text/csv"),
            _TOO_MANY,
            _ANSWER_TOO_LARGE,
            _UNAVAILABLE,
        ),
        ("model", "include"),
        MoleculesQuestion,
        csv=True,
        provenance=True,
    ),
    ("GET", "/molecules/{inchikey}"): _Operation(
        AllModelsAnswer,
        (
            _MALFORMED,
            _BAD_QUERY,
            _UNKNOWN_MODEL,
            _problem(
                _TOO_LARGE,
                "too_many_columns",
                "240 models have 312,000 columns, and one answer up to 60,000; name fewer of them by models=",
            ),
            _ANSWER_TOO_LARGE,
            _UNAVAILABLE,
        ),
        ("inchikey", "models", "include"),
    ),
    ("POST", "/predictions"): _LEGACY,
    ("GET", "/predictions"): _LEGACY,
    ("GET", "/models/{model}/files"): _Operation(
        FilesAnswer,
        (
            _UNKNOWN_MODEL,
            _problem(_NOT_FOUND, "no_files", "files are not served here, predictions alone are"),
            _UNAVAILABLE,
        ),
        ("model",),
        validated=False,
    ),
    ("POST", "/inchikeys"): _Operation(InChIKeysAnswer, (*_BODIES, _TOO_MANY_SMILES), question=SmilesQuestion),
}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "A model id, with a version if it is not the only one.",
        "schema": {"type": "string", "pattern": "^eos[0-9][a-z0-9]{3}(-v[0-9]+)?$"},
        "example": "eos3b5e",
    },
    "inchikey": {
        "name": "inchikey",
        "in": "path",
        "required": True,
        "description": "A molecule, by its InChIKey.",
        "schema": {"type": "string", "pattern": "^[A-Z]{14}-[A-Z]{10}-[A-Z]$", "minLength": 27, "maxLength": 27},
        "example": _KEY,
    },
    "include": {
        "name": "include",
        "in": "query",
        "description": "`smiles`: the molecules' SMILES too.",
        "schema": {"type": "string", "enum": ["smiles"]},
    },
    "models": {
        "name": "models",
        "in": "query",
        "description": "The models that are asked, with commas between them; all by default.",
        "style": "form",
        "explode": False,
        "schema": {
            "type": "array",
            "minItems": 1,
            "maxItems": 500,
            "items": {"type": "string", "pattern": "^eos[0-9][a-z0-9]{3}(-v[0-9]+)?$"},
        },
        "example": ["eos3b5e", "eos4e40"],
    },
}
_CSV_EXAMPLE = f"inchikey,smiles,mol_weight\n{_KEY},CC(=O)Oc1ccccc1C(=O)O,180.159\n"


def make_document(app: Resolver, server: str = "/") -> dict[str, Any]:
    """Return the OpenAPI document of the API whose routes these are, at a server's URL.

    `POST /inchikeys` is part of every API, also where another Lambda answers it. A route that is not described here
    is none of the document's: pages are for people.
    """
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    texts = {(route.method, route.openapi_path): route for route in _described(app).routes}
    for (method, path), operation in _OPERATIONS.items():
        route = texts[method, path]
        described: dict[str, Any] = {
            "operationId": route.func.__name__,
            "summary": route.summary,
            "description": route.description,
            "tags": route.tags,
        }
        if route.deprecated:
            described["deprecated"] = True
        if operation.parameters:
            described["parameters"] = [_PARAMETERS[name] for name in operation.parameters]
        if operation.question:
            described["requestBody"] = {"required": method != "GET", "content": {JSON: _of(operation.question)}}
        described["responses"] = _responses(method, operation)
        paths.setdefault(path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "precalc",
            "summary": "Predictions of the Ersilia Model Hub, precalculated",
            "description": _DESCRIPTION,
            "version": _VERSION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": server}],
        "security": [{"key": []}, {}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "Deployed on AWS the API needs a key; `precalc api` on your own machine needs none.",
                }
            },
        },
    }


def _described(app: Resolver) -> Resolver:
    """Return a resolver with the routes of an app, and those that it leaves to another Lambda."""
    if any(route.path == "/inchikeys" for route in app.routes):
        return app
    described = Resolver()
    add_inchikey_routes(described)
    described._static_routes += app._static_routes
    described._dynamic_routes += app._dynamic_routes
    return described


def _schemas() -> dict[str, Any]:
    classes = [c for operation in _OPERATIONS.values() for c in (operation.answer, operation.question) if c]
    inputs = [(c, "validation") for c in dict.fromkeys([*classes, ErrorAnswer])]
    # "validation": what a class has a default for is not always there.
    _, definitions = models_json_schema(inputs, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type]
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _SCHEMAS + model.__name__}}


def _responses(method: str, operation: _Operation) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: _of(operation.answer)}
    headers: dict[str, Any] = {}
    if operation.csv:
        content[CSV] = {"schema": {"type": "string"}, "example": _CSV_EXAMPLE}
    if operation.provenance:
        headers["Precalc-Provenance"] = {
            "description": "Where the body has no place for it: `model`, `releases`, `library_digest`,"
            " `deterministic`, `found` and `missing`, as JSON in ASCII.",
            "schema": {"type": "string"},
        }
    validated = method == "GET" and operation.validated
    if validated:
        headers["ETag"] = {"description": "Another one for every other answer.", "schema": {"type": "string"}}
    if method == "GET":
        headers["Cache-Control"] = {"description": "How long it may be kept.", "schema": {"type": "string"}}
    success: dict[str, Any] = {"description": _sentence(operation.answer), "content": content}
    if headers:
        success["headers"] = headers
    responses: dict[str, Any] = {"200": success}
    if method == "GET" and operation.question:
        responses["204"] = {"description": "Nothing was asked for: the request has no body."}
    if validated:
        responses["304"] = {"description": "It is what the reader has: the one that `If-None-Match` names."}
    return responses | _errors((*operation.errors, *_EVERYWHERE))


def _errors(problems: Sequence[Problem]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in sorted({problem.status for problem in problems}):
        examples = {
            problem.code: {"value": {"error": {"code": problem.code, "message": problem.message}}}
            for problem in problems
            if problem.status == status
        }
        responses[str(status.value)] = {
            "description": f"{status.phrase}: {', '.join(f'`{code}`' for code in examples)}",
            "content": {JSON: {**_of(ErrorAnswer), "examples": examples}},
        }
    return responses


def _sentence(model: type[BaseModel]) -> str:
    text = re.sub(r"\s+", " ", model.__doc__ or "").strip()
    return text.split(". ")[0].rstrip(".") + "."
