"""Work in several threads at a time, for which an interrupted command does not wait."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def run_in_order(items: Iterable[_Item], work: Callable[[_Item], _Result], at_once: int) -> Iterator[_Result]:
    """Yield the result of the work on each item, in order; at most `at_once` items are in work, or in memory.

    Raises what the work raises, in its turn. Not a ThreadPoolExecutor: after Ctrl-C that keeps the process until the
    last request has been answered or has timed out.
    """
    if at_once == 1:
        yield from map(work, items)
        return

    def run(item: _Item, future: Future[_Result]) -> None:
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001 - the caller of `result` gets it
            future.set_exception(error)

    running: deque[Future[_Result]] = deque()
    for item in items:
        running.append(Future())
        Thread(target=run, args=(item, running[-1]), daemon=True).start()
        if len(running) == at_once:
            yield running.popleft().result()
    for future in running:
        yield future.result()
