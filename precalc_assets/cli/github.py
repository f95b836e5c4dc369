"""`precalc github …`: whether executions can be launched on GitHub's runners, and cancelling one that was."""

from precalc_assets.errors import ExecutionError, PrecalcError
from precalc_assets.executions import Runners, find_settled, read_intent
from precalc_assets.executions import cancel as end
from precalc_assets.executions.check import check as find_out
from precalc_assets.executions.github import open_github
from precalc_assets.library import read_manifest
from precalc_assets.settings import load_settings
from precalc_assets.storage import open_store


class NotReadyError(PrecalcError):
    """Executions cannot be launched; the message says what stands in the way."""


def check() -> None:
    """Print what was found. Raises NotReadyError if something is not right, UsageError if settings are missing."""
    for found in find_out(open_github(load_settings())):
        if not found.passed:
            raise NotReadyError(f"{found.name}: {found.description}")
        print(f"{found.name}: {found.description}")
    print("ready; set PRECALC_COMPUTE=github for Dagster to launch executions here")


def cancel(key: str) -> None:
    """Cancel an execution's run and have none of its shards tried again.

    Raises ExecutionError if there is no such execution or it is over, UsageError if settings are missing.
    """
    settings = load_settings()
    store = open_store(settings.store_url)
    intent = read_intent(store, key)
    settled = find_settled(store, key)
    if settled:
        raise ExecutionError(f"{key} is over ({settled.conclusion}): there is nothing to cancel")
    end(Runners(store, open_github(settings), settings, say=print), read_manifest(store), [intent])
    settled = find_settled(store, key)
    if settled:
        print(f"{key}: {settled.conclusion}; {len(settled.landed)} shards have landed and stay")
