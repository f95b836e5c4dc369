"""What a person sees while a command works: a bar on a terminal, plain lines elsewhere. All of it on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from precalc_assets.progress import OnProgress, ProgressLines

stderr = Console(stderr=True, highlight=False)


@contextmanager
def row_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of something that tells how far it is, and out of how many rows."""
    with ExitStack() as stack:
        bar: OnProgress | None = None
        seen = 0

        def advance(done: int, total: int) -> None:
            nonlocal bar, seen
            bar = bar or stack.enter_context(progress(title, total, "rows"))
            bar(done - seen, 0)
            seen = done

        yield advance


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "–/s")


@contextmanager
def progress(title: str, total: int, unit: str = "molecules") -> Iterator[OnProgress]:
    """Show the progress of something that is counted, until the context is left."""
    if not stderr.is_terminal:
        yield ProgressLines(lambda line: print(f"{title}: {line}", file=sys.stderr, flush=True), total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quarantined]}"),
    )
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task(title, total=total, quarantined="")
        seen = 0

        def advance(molecules: int, quarantined: int) -> None:
            nonlocal seen
            seen += quarantined
            bar.update(task, advance=molecules, quarantined=f"{seen:,} quarantined" if seen else "")

        yield advance
