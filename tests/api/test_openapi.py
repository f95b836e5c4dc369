"""The OpenAPI document describes every route, and its descriptions are true."""

import json

import pytest
from gateway_events import event
from jsonschema import Draft202012Validator
from made_up import MODEL, serve
from serving import KEYS, UNKNOWN, Api, predictions

from precalc_assets.api.documents import make_document

PAGES = {("GET", "/"), ("GET", "/browse/{model}"), ("GET", "/docs"), ("GET", "/openapi.json")}
PAGES |= {
    ("GET", "/screen"),
    ("POST", "/hits"),
    ("POST", "/models/{model}/rows"),
    ("POST", "/models/{model}/rows/shown"),
}
"""For people, what their pages ask for, and the document itself."""


@pytest.fixture
def document(api):
    return api.get("/openapi.json").json


def operations(document):
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def check(document, schema, value):
    # The document is where the schema's references lead.
    Draft202012Validator({**document, **schema}).validate(value)


def test_document_describes_exactly_the_routes(api, document):
    routes = {(method, route.path_format) for route in api.app.routes for method in route.methods}
    elsewhere = {("POST", "/inchikeys"), ("POST", "/screens"), ("GET", "/screens")}  # other Lambdas answer these
    assert operations(document).keys() == (routes - PAGES) | elsewhere
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] and operation["description"] for operation in operations(document).values())


def test_examples_match_their_schemas(document):
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        if "example" in schema:
            check(document, {"$ref": f"#/components/schemas/{name}"}, schema["example"])
    for operation in operations(document).values():
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    check(document, content["schema"], example["value"])
                    assert status[0] in "45"
        bodies = [operation.get("requestBody", {}).get("content", {}), operation["responses"]["200"]["content"]]
        schemas = [body["application/json"]["schema"]["$ref"].split("/")[-1] for body in bodies if body]
        assert all("example" in document["components"]["schemas"][name] or name == "Health" for name in schemas)


@pytest.mark.parametrize(
    ("method", "path", "url", "body"),
    [
        ("GET", "/health", "/health", None),
        ("GET", "/models", "/models", None),
        ("GET", "/models/{model}", f"/models/{MODEL}", None),
        ("GET", "/models/{model}", "/models/eos9zzz", None),
        ("GET", "/models/{model}/files", f"/models/{MODEL}/files", None),
        ("GET", "/models/{model}/quarantine", f"/models/{MODEL}/quarantine", None),
        ("GET", "/models/{model}/predictions/{inchikey}", f"/models/{MODEL}/predictions/{KEYS[0]}", None),
        ("GET", "/models/{model}/predictions/{inchikey}", f"/models/{MODEL}/predictions/{UNKNOWN}", None),
        ("GET", "/molecules/{inchikey}", f"/molecules/{UNKNOWN}?include=smiles&models={MODEL}", None),
        ("GET", "/molecules/{inchikey}", "/molecules/aspirin", None),
        ("POST", "/models/{model}/predictions", f"/models/{MODEL}/predictions", {"inchikeys": [KEYS[0], UNKNOWN]}),
        ("POST", "/models/{model}/predictions", f"/models/{MODEL}/predictions?include=smiles", {"inchikeys": KEYS}),
        ("POST", "/models/{model}/predictions", f"/models/{MODEL}/predictions", {"inchikeys": [UNKNOWN] * 1_001}),
        ("POST", "/predictions", "/predictions", {"modelId": MODEL, "inputKeyArray": [*KEYS, UNKNOWN]}),
        ("POST", "/predictions", "/predictions", {}),
        ("GET", "/predictions", "/predictions", {"modelId": MODEL, "inputKeyArray": [*KEYS, UNKNOWN]}),
        ("GET", "/predictions", "/predictions", {}),
    ],
)
def test_answers_match_the_document(api, document, method, path, url, body):
    answer = api.send(event(method, url, None if body is None else json.dumps(body), {}))
    response = operations(document)[method, path]["responses"][str(answer.status)]
    check(document, response["content"]["application/json"]["schema"], answer.json)
    if answer.status >= 400:
        assert answer.json["error"]["code"] in response["content"]["application/json"]["examples"]
    assert {name.lower() for name in response.get("headers", {})} - {"precalc-provenance"} <= answer.headers.keys()


def test_optional_body_is_described_as_optional(api, document):
    described = operations(document)["GET", "/predictions"]
    assert described["requestBody"].get("required", False) is False
    assert api.get("/predictions").status == 204
    assert "content" not in described["responses"]["204"]


def test_document_names_the_stage_as_server(api):
    plain = event("GET", "/openapi.json", None, {})
    staged = api.send(plain)
    alone = api.send({**plain, "requestContext": {**plain["requestContext"], "path": "/openapi.json"}})
    assert staged.json["servers"] == [{"url": "/v1"}]
    assert alone.json["servers"] == [{"url": "/"}]


def test_docs_page_is_self_contained_and_runs_nothing_else(tables):
    serve(tables, predictions(KEYS))
    api = Api(tables)
    page = api.get("/docs", accept_encoding="gzip")
    assert page.compressed
    policy = page.headers["Content-Security-Policy"]
    assert policy.count("'sha256-") == page.text.count("\n<script>") == 2
    assert "default-src 'none'" in policy
    assert "<script src" not in page.text
    assert '<link rel="stylesheet' not in page.text
    document = json.dumps(make_document(api.app, "/v1"), ensure_ascii=False)
    assert document.replace("</", "<\\/") in page.text
