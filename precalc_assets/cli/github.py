"""`precalc github check`: whether executions can be launched on GitHub's runners, and what to do if not."""

from precalc_assets.errors import PrecalcError
from precalc_assets.executions.check import check as find_out
from precalc_assets.executions.github import open_github
from precalc_assets.settings import load_settings


class NotReadyError(PrecalcError):
    """Executions cannot be launched; the message says what stands in the way."""


def check() -> None:
    """Print what was found. Raises NotReadyError if something is not right, UsageError if settings are missing."""
    for found in find_out(open_github(load_settings())):
        if not found.passed:
            raise NotReadyError(f"{found.name}: {found.description}")
        print(f"{found.name}: {found.description}")
    print("ready; set PRECALC_COMPUTE=github for Dagster to launch executions here")
