"""The way into the Lambda that has RDKit: `POST /inchikeys`, `POST /rows` and `POST /drawings`.

It is separate from `handler`, because RDKit is twice as large as everything in the other Lambda, and so that large
molecules do not slow down those who read predictions. It reads no table and has no rights.
"""

from typing import Any

from fastapi import FastAPI

from precalc_assets.api.drawings import add_drawing_route
from precalc_assets.api.fastapi_base import new_app
from precalc_assets.api.gateway import answer_event, cors_origins
from precalc_assets.api.inchikeys import RDKitProcesses, add_inchikey_routes
from precalc_assets.api.row_reading import add_row_reading


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer one event of API Gateway."""
    return answer_event(lambda: _app, event, context)


def _make_app() -> FastAPI:
    app = new_app(cors_origins())
    # A Lambda gets one request at a time. A starting Lambda has a whole core, so load RDKit now.
    rdkit = RDKitProcesses(1)
    rdkit.warm()
    add_inchikey_routes(app, rdkit)
    add_row_reading(app)
    add_drawing_route(app)
    return app


_app = _make_app()
