"""Several things under way at a time, in threads that nobody waits for who is interrupted."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(items: Iterable[_Item], work: Callable[[_Item], _Result], at_once: int) -> Iterator[tuple[_Item, _Result]]:
    """Yield each item with what the work on it returns, in order; of so many items at a time, and no more in memory.

    Raises what the work raises, when its turn has come. A pool of threads would not let go of a process before the
    last request has been answered or has timed out, which a person who presses Ctrl-C does not wait for.
    """
    if at_once == 1:
        yield from ((item, work(item)) for item in items)
        return
    under_way: deque[tuple[_Item, Future[_Result]]] = deque()
    for item in items:
        under_way.append((item, _begin(work, item)))
        if len(under_way) == at_once:
            first, future = under_way.popleft()
            yield first, future.result()
    for rest, future in under_way:
        yield rest, future.result()


def _begin(work: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001 - whoever takes the result is told
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
