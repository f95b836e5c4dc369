r"""What commands print. Texts of others (an API, a file, a model, a person) never reach the terminal raw.

An escape code in a model's release could hide what follows, or write into the terminal's input. So every control
character but a line end and a tab is shown as `\u001b`, here and nowhere else: ruff refuses `print` and rich's own
console in the commands.
"""

import io
import re
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO, cast

from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251
from rich.segment import Segment
from rich.text import Text

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL and C1; line ends and changes of direction of Unicode; halves of a pair, which no terminal can be sent."""


def plain(text: str) -> str:
    r"""Return a text with its control characters spelled out.

    >>> plain("v1\x1b[2J")
    'v1\\u001b[2J'
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show(text: object = "") -> None:
    """Print a result to standard output."""
    print(plain(str(text)), flush=True)  # noqa: T201


def say(text: object) -> None:
    """Print a message to standard error."""
    print(plain(str(text)), file=sys.stderr, flush=True)  # noqa: T201


class PlainConsole(Console):
    """Rich's console, whose own codes are the only ones; markup has to be asked for."""

    def __init__(self, *, stderr: bool = False, markup: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, markup=markup, soft_wrap=soft_wrap, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as they are
        """Return a text to print; cells of tables are measured by this, too."""
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of something to print, which may be another's `Text`."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(plain(piece.text), piece.style)


class _TerminalStream(io.RawIOBase):
    """Shows the bytes of a text on the terminal."""

    def write(self, content: object) -> int:
        raw = bytes(cast(bytes, content))
        print(plain(raw.decode(errors="backslashreplace")), end="")  # noqa: T201
        return len(raw)


def data_stream() -> BinaryIO:
    """Return standard output for bytes: as they are for a file or a pipe, spelled out for a terminal."""
    return cast(BinaryIO, _TerminalStream()) if sys.stdout.isatty() else sys.stdout.buffer
