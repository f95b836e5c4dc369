"""The application that reads the tables: all its routes. What needs RDKit or Arrow is in Lambdas of their own.

`handler` puts it into a Lambda, `server` serves it on this machine, with the routes of `inchikey_handler` and
`screen_handler`.
"""

from collections.abc import Sequence

from fastapi import FastAPI

from precalc_assets.api.documents import add_documents
from precalc_assets.api.fastapi_base import new_app
from precalc_assets.api.files import FileLinks, add_file_routes
from precalc_assets.api.html_pages import add_pages
from precalc_assets.api.legacy import add_legacy_routes
from precalc_assets.api.predicted_rows import add_predicted_rows
from precalc_assets.api.routes import add_distribution_route, add_routes
from precalc_assets.api.screen_page import add_screen_page
from precalc_assets.api.screens import Screen, add_screen_routes
from precalc_assets.api.served import ServedModels
from precalc_assets.tables import KeyValueStore


def make_app(
    tables: KeyValueStore,
    links: FileLinks | None = None,
    origins: Sequence[str] = (),
    screen: Screen | None = None,
) -> FastAPI:
    """Return the API for these tables, and for the files that links can be made to.

    Browsers may call it from pages of these origins. `screen` answers screens, where that is not another Lambda's work.
    """
    app = new_app(origins)
    models = ServedModels(tables)
    add_routes(app, models)
    add_distribution_route(app, models)
    add_legacy_routes(app, models)
    add_file_routes(app, models, links)
    add_pages(app, models)
    add_screen_page(app, models, screen)
    if screen:
        add_screen_routes(app, screen)
    add_predicted_rows(app, models)
    add_documents(app)
    return app
