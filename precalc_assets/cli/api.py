"""`precalc api`: the read API for the tables and the store of the settings, on this machine alone."""

from precalc_assets.model_ids import is_model_id
from precalc_assets.settings import load_settings
from precalc_assets.tables import open_tables


def serve(port: int) -> None:
    """Serve until Ctrl-C, and say where.

    Raises UsageError for a port that cannot be used.
    """
    settings = load_settings()
    tables = open_tables(settings.tables_url)
    models = sum(map(is_model_id, tables.list_tables()))
    # uvicorn and the routes take half a second to load; a wrong setting is told before.
    from precalc_assets.api.server import serve as work

    def announce(url: str) -> None:
        served = "1 model" if models == 1 else f"{models:,} models"
        print(f"{url} serves {served} of {settings.tables_url}; Ctrl-C stops it")
        print(f"{url}/docs describes the API", flush=True)

    work(tables, settings.store_url, port, announce)
