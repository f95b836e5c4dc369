"""Progress as lines of text, for logs and for output that is no terminal."""

import time
from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with how many more molecules are done, and how many of them are quarantined."""

_SECONDS_BETWEEN_LINES = 10.0
"""A line of a run's log costs Dagster about 12 ms to store, and a person the time to read it."""


def ignore_progress(molecules: int, quarantined: int) -> None:
    """Do nothing."""


class ProgressLines:
    """Counts molecules and says every ten seconds how many are done, how fast, and how long the rest takes."""

    def __init__(self, say: Callable[[str], None], total: int, unit: str = "molecules") -> None:
        self._say = say
        self._total = total
        self._unit = unit
        self._done = 0.0
        self._quarantined = 0
        self._said = time.monotonic()
        self._done_when_said = 0.0

    def __call__(self, molecules: float, quarantined: int) -> None:
        """Count molecules; see `OnProgress`."""
        self._done += molecules
        self._quarantined += quarantined
        now = time.monotonic()
        if molecules and now - self._said >= _SECONDS_BETWEEN_LINES:
            # The rate since the last line: what an earlier run left is counted at once and would distort the mean.
            rate = (self._done - self._done_when_said) / (now - self._said)
            self._said, self._done_when_said = now, self._done
            left = (self._total - self._done) / rate
            bad = f", {self._quarantined:,} quarantined" if self._quarantined else ""
            done = f"{self._done:,.0f} of {self._total:,} {self._unit}"
            self._say(f"{done}, {rate:,.0f}/s, about {left:,.0f} s left{bad}")
