"""`precalc …`: the client's commands, to which the platform adds its own.

`app` has the commands and their options, the other modules do their work.
"""

import logging
import signal
import sys

from precalc.cli.app import app
from precalc.cli.terminal import say
from precalc.errors import PrecalcError
from precalc.plugins import find_plugin

__all__ = ["main", "show_log"]

_INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""


def main() -> None:
    """Run the command line; errors exit 2 for a wrong request, 1 for a failure, without a traceback."""
    # An exception runs the cleanup; without it, a model's processes would outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    show_log("precalc")
    add_commands = find_plugin("precalc.commands")
    if add_commands:
        add_commands(app)
    try:
        app()
    except PrecalcError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            say("interrupted; finished work is kept, and the same command continues")
        raise
    except OSError as error:
        say(f"error: {str(error).partition(chr(10))[0] or type(error).__name__}")
        sys.exit(1)


def show_log(package: str) -> None:
    """Print a package's log messages to stderr, one a line, above a progress bar."""
    log = logging.getLogger(package)
    log.setLevel(logging.INFO)
    log.addHandler(_Lines())


class _Lines(logging.Handler):
    """Prints to the current `sys.stderr`, which rich replaces while it shows a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        say(record.getMessage())
