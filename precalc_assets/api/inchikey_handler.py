"""The way into the Lambda that has RDKit: `POST /inchikeys` and nothing else.

It is apart from `handler`, since RDKit is twenty times as large as all that the other Lambda carries, and so that
molecules, however large, take nothing from those who read predictions. It knows no table and has no rights.
"""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from precalc_assets.api.framework import new_app
from precalc_assets.api.gateway import answer_event, cors_origins
from precalc_assets.api.inchikeys import MOLECULE_SECONDS, REQUEST_SECONDS, add_inchikey_routes
from precalc_assets.api.rdkit_processes import RDKitProcesses

if TYPE_CHECKING:
    from mangum.types import LambdaContext


def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one event of API Gateway."""
    return answer_event(lambda: _app, event, context)


def _make_app() -> FastAPI:
    app = new_app(cors_origins())
    # A Lambda is asked one question at a time. While it starts it has a whole core, so RDKit is loaded meanwhile.
    rdkit = RDKitProcesses(1, molecule_seconds=MOLECULE_SECONDS, seconds=REQUEST_SECONDS)
    rdkit.warm()
    add_inchikey_routes(app, rdkit)
    return app


_app = _make_app()
