"""Messages while something is waited for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

SECONDS_BETWEEN_WAITS = 30.0
"""Somebody who watches a run gets a message at least this often, also during one long call of a model."""


@contextmanager
def told_while_waiting(what: str, say: Callable[[str], None], every: float = SECONDS_BETWEEN_WAITS) -> Iterator[None]:
    """Say every so many seconds that `what` is still waited for, and for how long, until the context ends."""
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
