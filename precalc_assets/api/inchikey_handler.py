"""The way into the Lambda that has RDKit: `POST /inchikeys` and nothing else.

It is apart from `handler`, since RDKit is twenty times as large as all that the other Lambda carries, and so that
molecules, however large, take nothing from those who read predictions. It knows no table and has no rights.
"""

import logging
from typing import TYPE_CHECKING, Any

from precalc_assets.api.events import answer
from precalc_assets.api.inchikeys import MOLECULE_SECONDS, REQUEST_SECONDS, add_inchikey_routes
from precalc_assets.api.problems import add_problems, internal_error
from precalc_assets.api.rdkit_processes import RDKitProcesses
from precalc_assets.api.resolver import Resolver

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_log = logging.getLogger(__name__)


def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one event of API Gateway."""
    try:
        return answer(_app, event, context)
    except Exception:  # noqa: BLE001 - nobody is above us but Lambda, which would answer without an explanation
        _log.exception("unexpected error")
        return internal_error().event()


def _make_app() -> Resolver:
    app = Resolver()
    # A Lambda is asked one question at a time. While it starts it has a whole core, so RDKit is loaded meanwhile.
    rdkit = RDKitProcesses(1, molecule_seconds=MOLECULE_SECONDS, seconds=REQUEST_SECONDS)
    rdkit.warm()
    add_inchikey_routes(app, rdkit)
    add_problems(app)
    return app.sealed()


_app = _make_app()
