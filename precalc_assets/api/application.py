"""The application that reads the tables: all its routes. `POST /inchikeys` is a Lambda of its own.

`handler` puts it into a Lambda, `server` serves it on this machine, where `add_inchikey_routes` completes it.
"""

from collections.abc import Sequence

from fastapi import FastAPI

from precalc_assets.api.documents import add_documents
from precalc_assets.api.fastapi_base import new_app
from precalc_assets.api.files import FileLinks, add_file_routes
from precalc_assets.api.html_pages import add_pages
from precalc_assets.api.legacy import add_legacy_routes
from precalc_assets.api.routes import add_routes
from precalc_assets.api.served import ServedModels
from precalc_assets.tables import KeyValueStore


def make_app(tables: KeyValueStore, links: FileLinks | None = None, origins: Sequence[str] = ()) -> FastAPI:
    """Return the API for these tables, and for the files that links can be made to.

    Browsers may call it from pages of these origins.
    """
    app = new_app(origins)
    models = ServedModels(tables)
    add_routes(app, models)
    add_legacy_routes(app, models)
    add_file_routes(app, models, links)
    add_pages(app, models)
    add_documents(app)
    return app
