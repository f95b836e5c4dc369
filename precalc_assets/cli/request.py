"""`precalc request`: requests a model's precalculation by a record in the store, which a sensor reads."""

import sys

from precalc_assets.executions import put_request
from precalc_assets.settings import load_settings
from precalc_assets.storage import open_store


def request(model: str, size: int | None) -> None:
    """Put a request and print its id. Raises UsageError for a malformed model id."""
    put = put_request(open_store(load_settings().store_url), model, size)
    print(put.id)
    print("Dagster's sensor precalculation_requests reads it within a minute; it must be running", file=sys.stderr)
