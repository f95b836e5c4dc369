"""`precalc request`: asking for a model to be precalculated, by a record that Dagster's sensor meets."""

import sys

from precalc_assets.executions import put_request
from precalc_assets.settings import load_settings
from precalc_assets.storage import open_store


def request(model: str, size: int | None) -> None:
    """Put a request and print its id. Raises UsageError if the model's id is none."""
    put = put_request(open_store(load_settings().store_url), model, size)
    print(put.id)
    print("Dagster's sensor precalculation_requests meets it within a minute; it has to be running", file=sys.stderr)
