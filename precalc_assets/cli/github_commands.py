"""`precalc github …`: checks the setup of GitHub's runners, and cancels executions."""

from precalc_assets.executions import Engine, Execution
from precalc_assets.executions import cancel as cancel_executions
from precalc_assets.executions.github import open_github
from precalc_assets.executions.github_check import check as find_faults
from precalc_assets.library import read_manifest
from precalc_assets.platform_errors import ExecutionError, PrecalcError
from precalc_assets.settings import load_settings
from precalc_assets.storage import open_store


class NotReadyError(PrecalcError):
    """Executions cannot be launched; the message says why."""


def check() -> None:
    """Print each check that passed. Raises NotReadyError if one failed, UsageError if settings are missing."""
    for found in find_faults(open_github(load_settings())):
        if not found.passed:
            raise NotReadyError(f"{found.name}: {found.description}")
        print(f"{found.name}: {found.description}")
    print("ready; set PRECALC_COMPUTE=github for Dagster to launch executions here")


def cancel(key: str) -> None:
    """Cancel an execution's run; its shards are not retried.

    Raises ExecutionError if the execution does not exist or is over, UsageError if settings are missing.
    """
    settings = load_settings()
    store = open_store(settings.store_url)
    execution = Execution(store, key)
    if execution.intent and (settled := execution.settled.read()):
        raise ExecutionError(f"{key} is over ({settled.conclusion}): there is nothing to cancel")
    engine = Engine(store, open_github(settings), read_manifest(store), settings, say=print)
    cancel_executions(engine, [execution])
    settled = execution.settled.read()
    if settled:
        print(f"{key}: {settled.conclusion}; {len(settled.landed)} shards have landed and stay")
