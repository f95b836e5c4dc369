"""The way into the Lambda that reads the tables, and the routes that it answers for. The local server has them, too.

`PRECALC_TABLES_URL` and `PRECALC_STORE_URL` are the settings; they are read here, since a Lambda has no `.env` and
pydantic-settings would be one package more to carry. Without a store there are no links to files.
"""

import logging
import os
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from precalc_assets.api.documents import add_documents
from precalc_assets.api.events import answer
from precalc_assets.api.files import FileLinks, add_file_routes, open_links
from precalc_assets.api.legacy import add_legacy_routes
from precalc_assets.api.pages import add_pages
from precalc_assets.api.problems import add_problems, internal_error
from precalc_assets.api.resolver import Resolver
from precalc_assets.api.routes import add_routes
from precalc_assets.api.served import ServedModels
from precalc_assets.errors import PrecalcError, UsageError
from precalc_assets.tables import KeyValueStore, open_tables

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_log = logging.getLogger(__name__)


def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one event of API Gateway."""
    try:
        return answer(_app(), event, context)
    except Exception:  # noqa: BLE001 - nobody is above us but Lambda, which would answer without an explanation
        _log.exception("unexpected error")
        return internal_error().event()


def make_app(tables: KeyValueStore, links: FileLinks | None = None) -> Resolver:
    """Return the resolver of API Gateway's events for these tables, and for the files that links can be made to.

    `POST /inchikeys` is not among its routes: it is a Lambda of its own, and `add_inchikey_routes` adds it elsewhere.
    Call `sealed` when there is nothing more to add.
    """
    app = Resolver()
    models = ServedModels(tables)
    add_routes(app, models)
    add_legacy_routes(app, models)
    add_file_routes(app, models, links)
    add_pages(app, models)
    add_documents(app)
    add_problems(app)
    return app


@cache
def _app() -> Resolver:
    url = os.environ.get("PRECALC_TABLES_URL")
    if not url:
        raise UsageError("PRECALC_TABLES_URL is not set; set it to the tables that are served")
    store = os.environ.get("PRECALC_STORE_URL")
    return make_app(open_tables(url), open_links(store) if store else None).sealed()


# While a Lambda starts it has a whole core, so the tables are opened now; what fails is told by the first answer.
with suppress(PrecalcError):
    _app()
