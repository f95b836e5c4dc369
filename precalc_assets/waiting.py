"""Messages during long waits."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

SECONDS_BETWEEN_WAITS = 30.0
"""The interval of the messages, so that a long call of a model does not look dead."""


@contextmanager
def told_while_waiting(what: str, say: Callable[[str], None], every: float = SECONDS_BETWEEN_WAITS) -> Iterator[None]:
    """Say every `every` seconds, until the context ends, how long the caller has been waiting for `what`."""
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
