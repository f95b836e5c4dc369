"""A rate limit for work that is charged in units. Standard library only."""

import threading
import time
from collections.abc import Callable

_BURST_SECONDS = 0.1
"""The burst allowed after a pause, as seconds' worth of units."""


class RateLimit:
    """Allows at most `rate` units a second over all threads."""

    def __init__(
        self, rate: float, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, units: float) -> None:
        """Reserve units, and wait until their turn comes."""
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - _BURST_SECONDS)
            self._free_at = start + units / self._rate
        if start > now:
            self._sleep(start - now)

    def correct(self, units: float) -> None:
        """Add units that were not reserved, or return those reserved in excess (negative). The next `take` waits."""
        with self._lock:
            self._free_at += units / self._rate
