"""What our own modules log, as a person sees it who has given a command."""

import logging
import sys


def show_log() -> None:
    """Show what our own modules log, each message as a line; above the bar, if there is one."""
    log = logging.getLogger("precalc_assets")
    log.setLevel(logging.INFO)
    log.addHandler(_Lines())


class _Lines(logging.Handler):
    """Prints to what `sys.stderr` is at that moment: while there is a bar, rich has put itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        print(record.getMessage(), file=sys.stderr, flush=True)
