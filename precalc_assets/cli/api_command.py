"""`precalc api`: serves the read API over the settings' tables and store, on loopback only."""

from precalc.identifiers import is_model_id
from precalc_assets.settings import load_settings
from precalc_assets.tables import open_tables


def serve(port: int) -> None:
    """Serve until Ctrl-C, and print the URL.

    Raises UsageError for a port that cannot be used.
    """
    settings = load_settings()
    tables = open_tables(settings.tables_url)
    models = sum(map(is_model_id, tables.list_tables()))
    # Imported after the settings are checked: uvicorn and the routes take half a second.
    from precalc_assets.api import server

    def announce(url: str) -> None:
        served = "1 model" if models == 1 else f"{models:,} models"
        print(f"{url} serves {served} of {settings.tables_url}; Ctrl-C stops it")
        print(f"{url}/docs describes the API", flush=True)

    server.serve(server.make_local_app(tables, settings.store_url, settings.cors_origins), port, announce)
