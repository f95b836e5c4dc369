"""What describes the API to programs and to people: `GET /openapi.json`, and `GET /docs`, where one can try it out.

The page is Swagger UI, which Powertools carries. All that it needs is in the page itself, so that it works without a
network, under the stage of API Gateway, and where every request of its own would need a key.
"""

import json
from base64 import b64encode
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files

from aws_lambda_powertools.event_handler import Response

from precalc_assets.api.openapi import make_document
from precalc_assets.api.resolver import Resolver

_HTML = "text/html; charset=utf-8"
_KEPT = "private, max-age=3600"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>precalc: API</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<div id="docs"><noscript>The description of this API is shown by a script; as JSON it is
<a href="openapi.json">openapi.json</a>.</noscript></div>
<script>{bundle}</script>
<script>{start}</script>
</body>
</html>
"""
_START = """SwaggerUIBundle({{spec: {document}, dom_id: "#docs", deepLinking: true, docExpansion: "list",
defaultModelsExpandDepth: 0, tryItOutEnabled: true, validatorUrl: null}});"""


def add_documents(app: Resolver) -> None:
    """Make a resolver describe its routes."""

    @app.get("/openapi.json", include_in_schema=False)
    def describe_api() -> Response[str]:
        return Response(HTTPStatus.OK, "application/json", _document(app), headers={"Cache-Control": _KEPT})

    @app.get("/docs", include_in_schema=False)
    def show_api() -> Response[str]:
        bundle = files("aws_lambda_powertools.event_handler.openapi.swagger_ui")
        script = (bundle / "swagger-ui-bundle.min.js").read_text(encoding="utf-8")
        # As part of a page, no text of it may end the script.
        start = _START.format(document=_document(app).replace("</", "<\\/"))
        css = (bundle / "swagger-ui.min.css").read_text(encoding="utf-8")
        headers = {"Cache-Control": _KEPT, "Content-Security-Policy": _policy(script, start)}
        return Response(HTTPStatus.OK, _HTML, _PAGE.format(css=css, bundle=script, start=start), headers=headers)


def _document(app: Resolver) -> str:
    return json.dumps(make_document(app, app.base_path or "/"), ensure_ascii=False)


def _policy(*scripts: str) -> str:
    """Return what a browser may do for the page: run these scripts, and ask this API."""
    digests = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
