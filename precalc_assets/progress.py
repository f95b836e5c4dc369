"""Progress of long work, told in molecules; and as lines, for logs and for terminals that are none."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

OnProgress = Callable[[int, int], None]
"""Called with how many more molecules are settled, and how many of them are quarantined."""

_SECONDS_BETWEEN_LINES = 10.0
"""A line of a run's log costs Dagster about 12 ms to store, and a person the time to read it."""

SECONDS_BETWEEN_WAITS = 30.0
"""Somebody who watches a run hears of it at least so often, also while one call of the model goes on."""


def ignore_progress(molecules: int, quarantined: int) -> None:
    """Take note of nothing."""


class ProgressLines:
    """Counts, and now and then says how many, how fast, and how long it will take."""

    def __init__(self, say: Callable[[str], None], total: int, unit: str = "molecules") -> None:
        self._say = say
        self._total = total
        self._unit = unit
        self._done = 0
        self._quarantined = 0
        self._said = time.monotonic()
        self._done_when_said = 0

    def __call__(self, molecules: int, quarantined: int) -> None:
        """Take note of molecules; see `OnProgress`."""
        self._done += molecules
        self._quarantined += quarantined
        now = time.monotonic()
        if molecules and now - self._said >= _SECONDS_BETWEEN_LINES:
            # Of the time since the last line: what an earlier run has left is counted at once, at no rate at all.
            rate = (self._done - self._done_when_said) / (now - self._said)
            self._said, self._done_when_said = now, self._done
            left = (self._total - self._done) / rate
            bad = f", {self._quarantined:,} quarantined" if self._quarantined else ""
            self._say(f"{self._done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s, about {left:,.0f} s left{bad}")


@contextmanager
def told_while_waiting(what: str, say: Callable[[str], None], every: float = SECONDS_BETWEEN_WAITS) -> Iterator[None]:
    """Say every so many seconds that `what` is still waited for, and since when, until the context is left."""
    started = time.monotonic()
    done = Event()

    def tell() -> None:
        while not done.wait(every):
            say(f"still waiting for {what}, {time.monotonic() - started:,.0f} s")

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
