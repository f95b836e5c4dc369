"""`precalc …`: the same functions that Dagster calls, from a terminal, a script or a GitHub runner."""

import signal
import sys

from obstore.exceptions import BaseError

from precalc_assets.cli.app import app
from precalc_assets.cli.log import show_log
from precalc_assets.errors import PrecalcError
from precalc_assets.outcomes import reason

__all__ = ["main"]


_INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""


def main() -> None:
    """Run the command line. Exit code 2 for what was asked wrongly, 1 for what failed, without a traceback."""
    # As an exception, so that what was started is ended: a model's processes outlive this one otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    show_log()
    try:
        app()
    except PrecalcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        raise
    except (BaseError, OSError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        sys.exit(1)
