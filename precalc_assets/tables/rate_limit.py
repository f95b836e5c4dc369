"""A rate limit for work that is charged in units: it spreads units over time. What a unit is, is the caller's business.

Standard library only.
"""

import threading
import time
from collections.abc import Callable

_BURST_SECONDS = 0.1
"""How much of a second's units may go out at once, after a pause."""


class RateLimit:
    """Lets through at most `rate` units a second, of all threads together."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, units: float) -> None:
        """Wait until the units before these are through."""
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - _BURST_SECONDS)
            self._free_at = start + units / self._rate
        if start > now:
            self._sleep(start - now)

    def correct(self, units: float) -> None:
        """Count units that were taken too few, or, below zero, too many: whoever comes next waits for them."""
        with self._lock:
            self._free_at += units / self._rate
