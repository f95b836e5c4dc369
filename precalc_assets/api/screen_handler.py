"""The way into the Lambda that has Arrow: `GET /screens` and `POST /screens`.

It is separate from `handler`, because Arrow and NumPy are seven times as large as everything in that Lambda, and so
that screens do not slow down those who read predictions. Its settings are those of `handler`, and both URLs are needed.
"""

from contextlib import suppress
from functools import cache
from typing import Any

from fastapi import FastAPI

from precalc_assets.api.fastapi_base import new_app
from precalc_assets.api.gateway import answer_event, cors_origins, required_setting
from precalc_assets.api.screens import add_screen_routes
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.screening.engine import open_engine
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer one event of API Gateway."""
    return answer_event(_app, event, context)


@cache
def _app() -> FastAPI:
    # The role reads predictions alone, so opening the store must not read the library.
    store = open_store(required_setting("PRECALC_STORE_URL"), probe=False)
    app = new_app(cors_origins())
    add_screen_routes(app, open_engine(store, open_tables(required_setting("PRECALC_TABLES_URL"))).answer)
    return app


# A starting Lambda has a whole core, so open the store and the tables now. If that fails, the first answer reports it.
with suppress(PrecalcError):
    _app()
