"""From a URL or the settings to a source."""

from precalc_assets.client.source import Source


def open_source(url: str | None = None, key: str | None = None) -> Source:
    """Return the API at a URL, or without one the tables that the settings name.

    Raises UsageError for a URL or a key that is none, TableError for tables that cannot be used.
    """
    if url:
        from precalc_assets.client.remote import RemoteSource

        return RemoteSource(url, key)
    from precalc_assets.client.local import LocalSource
    from precalc_assets.settings import load_settings
    from precalc_assets.tables import open_tables

    settings = load_settings()
    return LocalSource(open_tables(settings.tables_url), settings.tables_url, settings.store_url)
