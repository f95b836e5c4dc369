"""A command's progress on stderr: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from precalc.cli.terminal import PlainConsole, say
from precalc.progress import ProgressLines

stderr = PlainConsole(stderr=True)


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "–/s")


@contextmanager
def progress(title: str, total: int, unit: str = "molecules") -> Iterator[Callable[[float, int], None]]:
    """Show progress towards `total` until the context ends; yield what is called as `OnProgress` is."""
    if not stderr.is_terminal:
        yield ProgressLines(lambda line: say(f"{title}: {line}"), total, unit)
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

        def advance(molecules: float, quarantined: int) -> None:
            nonlocal seen
            seen += quarantined
            bar.update(task, advance=molecules, quarantined=f"{seen:,} quarantined" if seen else "")

        yield advance
