"""The description of the API: `GET /openapi.json` for programs, `GET /docs` for people, who can try it out there.

FastAPI derives the OpenAPI document from the routes. The page is Swagger UI, which fastapi-offline carries. Everything
is inside the page, so that it works without a network, under a stage of API Gateway, and where each further request
would need a key.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response

from precalc_assets.api.html_pages import content_policy, templates
from precalc_assets.api.inchikeys import add_inchikey_routes
from precalc_assets.api.problems import EVERYWHERE
from precalc_assets.api.screens import add_screen_routes
from precalc_assets.screening.query import Query

_VERSION = "1.0.0"
"""The version of the API. Its first number changes when programs have to change."""

_KEPT = "private, max-age=3600"

_TAGS = {
    "predictions": "Predictions by InChIKey",
    "screens": "Predictions by value",
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
sentence for people. 429 and 503 say in `Retry-After` how many seconds to wait."""

_KEY = {
    "type": "apiKey",
    "in": "header",
    "name": "x-api-key",
    "description": "Deployed on AWS the API needs a key; `precalc api` on your own machine needs none.",
}

_START = """SwaggerUIBundle({{spec: {document}, dom_id: "#docs", deepLinking: true, docExpansion: "list",
defaultModelsExpandDepth: 0, tryItOutEnabled: true, validatorUrl: null}});"""


def _not_here(_query: Query) -> NoReturn:
    raise NotImplementedError


_elsewhere = APIRouter(responses=EVERYWHERE)
"""The routes of other Lambdas. They are made once: FastAPI hides pydantic's warnings in a way that threads disturb."""
add_inchikey_routes(_elsewhere)
add_screen_routes(_elsewhere, _not_here)


def add_documents(app: FastAPI) -> None:
    """Add the routes that describe the application."""

    @app.get("/openapi.json", include_in_schema=False)
    def describe_api(request: Request) -> Response:
        return Response(_json(app, request), media_type="application/json", headers={"Cache-Control": _KEPT})

    @app.get("/docs", include_in_schema=False)
    def show_api(request: Request) -> Response:
        static = files("fastapi_offline") / "static"
        bundle, style = ((static / f"swagger-ui{end}").read_text(encoding="utf-8") for end in ("-bundle.js", ".css"))
        # No text in the document may end the script.
        start = _START.format(document=_json(app, request).replace("</", "<\\/"))
        page = templates().get_template("docs.html").render(style=style, bundle=bundle, start=start)
        headers = {"Cache-Control": _KEPT, "Content-Security-Policy": content_policy(bundle, start)}
        return Response(page, media_type="text/html", headers=headers)


def make_document(app: FastAPI, server: str = "/") -> dict[str, Any]:
    """Return the OpenAPI document of an application at a server's URL.

    It includes the routes that other Lambdas answer. It leaves out the pages.
    """
    routes = list(app.routes)
    known = {getattr(route, "path", "") for route in routes}
    routes += [route for route in _elsewhere.routes if getattr(route, "path", "") not in known]
    document = get_openapi(
        title="precalc",
        version=_VERSION,
        summary="Predictions of the Ersilia Model Hub, precalculated",
        description=_DESCRIPTION,
        routes=routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        servers=[{"url": server}],
        license_info={"name": "MIT", "identifier": "MIT"},
        separate_input_output_schemas=False,
    )
    # FastAPI's own form of an error, which no route of ours has.
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    # An example of each body, by the name of its class.
    for name, example in json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8")).items():
        schemas[name]["example"] = example
    document["components"]["securitySchemes"] = {"key": _KEY}
    return document | {"security": [{"key": []}, {}]}


def _json(app: FastAPI, request: Request) -> str:
    return json.dumps(make_document(app, request.scope["root_path"] or "/"), ensure_ascii=False)
