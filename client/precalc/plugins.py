"""What another distribution, the platform, adds to the client, found by entry points.

- `precalc.sources`: a function without arguments that returns the `Source` to read from when no API is named.
- `precalc.computing`: a `Compute` function, which runs a model on what is not precalculated.
- `precalc.commands`: a function that adds commands to the Typer application of `cli`.
"""

import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from precalc.errors import UsageError
from precalc.source import Source

URL_VARIABLE = "PRECALC_API_URL"


def find_plugin(group: str) -> Any | None:  # noqa: ANN401 - each group has a type of its own
    """Return what an installed distribution adds under the group, or None."""
    return next((point.load() for point in entry_points(group=group)), None)


def open_source(url: str | None = None, key: str | None = None) -> Source:
    """Return the API at a URL or at PRECALC_API_URL, else what the platform reads from. Raises UsageError."""
    return find_source(url, key)()


def find_source(url: str | None = None, key: str | None = None) -> Callable[[], Source]:
    """Return what opens the source. Raises UsageError if there is nothing to read from."""
    url = url or os.environ.get(URL_VARIABLE)
    if url:
        from precalc.remote import RemoteSource

        return partial(RemoteSource, url, key)
    open_tables: Callable[[], Source] | None = find_plugin("precalc.sources")
    if open_tables is None:
        raise UsageError(f"no API is named; give its URL with --api, or set {URL_VARIABLE}")
    return open_tables
