"""The way into the Lambda that reads the tables.

`PRECALC_TABLES_URL`, `PRECALC_STORE_URL` and `PRECALC_CORS_ORIGINS` are the settings. They are read here, since a
Lambda has no `.env`, and pydantic-settings would be one package more to carry. Without a store there are no links to
files; without origins no other web page may read answers.
"""

import os
from contextlib import suppress
from functools import cache
from typing import Any

from fastapi import FastAPI

from precalc_assets.api.application import make_app
from precalc_assets.api.files import open_links
from precalc_assets.api.gateway import answer_event, cors_origins, required_setting
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.tables import open_tables


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer one event of API Gateway."""
    return answer_event(_app, event, context)


@cache
def _app() -> FastAPI:
    tables = open_tables(required_setting("PRECALC_TABLES_URL"))
    store = os.environ.get("PRECALC_STORE_URL")
    return make_app(tables, open_links(store) if store else None, cors_origins())


# A starting Lambda has a whole core, so open the tables now. If that fails, the first answer reports it.
with suppress(PrecalcError):
    _app()
