"""How many molecules a model is sent in a call: by how long its calls take, and how many of them time out."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from precalc_assets.inference.canary_report import CanaryReport

_FIRST_CALL = 50
"""Molecules in the first call to a model of unknown speed: at 6 s each, that is five minutes."""

_CALL_SECONDS = 30.0
"""Length of a call, so that progress is seen and little is lost by a kill."""

_WORK_PER_START = 4.0
_MOST_WORK_SECONDS = 120.0
"""A model that is slow to start works four times as long on the molecules of a call, and two minutes at most."""

_LARGEST_STEP = 100
"""How many times as large as the last call the next one may be, however fast that was."""

_MOST_BATCHES = 10
_MOST_BYTES = 16 << 20
"""Bounds of a call to a fast model: of what is lost when it is killed, and of the memory that its output takes."""


class Call(NamedTuple):
    """A call of the model that went well: molecules, and how long it took."""

    molecules: int
    seconds: float


def fit_line(points: Iterable[Call]) -> tuple[float, float]:
    """Return a call's own seconds and those of a molecule, by least squares over at least one call.

    Neither is negative. If all calls are of one size, all of the time counts as the molecules'.
    """
    points = list(points)
    sizes = sum(point.molecules for point in points) / len(points)
    seconds = sum(point.seconds for point in points) / len(points)
    spread = sum((point.molecules - sizes) ** 2 for point in points)
    if not spread:
        return 0.0, seconds / sizes
    slope = sum((point.molecules - sizes) * (point.seconds - seconds) for point in points) / spread
    if slope < 0:
        return seconds, 0.0
    if seconds < slope * sizes:
        return 0.0, seconds / sizes
    return seconds - slope * sizes, slope


def planned_size(seconds_per_call: float, seconds_per_molecule: float, batch_size: int) -> int:
    """Return how many molecules a call of a model has whose speed is known: one at least, ten batches at most.

    A call lasts 30 s in all. If the model needs more than 6 s of its own for a call, the call lasts longer, so that
    these are no more than a fifth of it.
    """
    work = max(_CALL_SECONDS - seconds_per_call, min(_WORK_PER_START * seconds_per_call, _MOST_WORK_SECONDS))
    most = _MOST_BATCHES * batch_size
    return max(1, min(most, int(work / seconds_per_molecule))) if seconds_per_molecule else most


class CallSize:
    """The number of molecules that fit into a model's next call.

    It starts from the speed that the canary has measured, or from a small call. A call that takes `seconds` for n
    molecules allows 30 s of molecules at that rate. More are sent if calls of different sizes show that a call has a
    time of its own, up to twice the largest call so far. After a time-out, calls are at most half as large, until
    others have shown the model's speed, or a molecule alone has timed out and was to blame.
    """

    def __init__(self, batch_size: int, report: CanaryReport | None = None) -> None:
        self._batch_size = batch_size
        self._batches = _MOST_BATCHES
        self._bytes_each = report.bytes_per_molecule or 0.0 if report else 0.0
        self._calls: dict[int, Call] = {}
        self._last: Call | None = None
        self._shortest = 0.0
        self._largest = 0
        self._ceiling = math.inf
        self._timed_out = False
        if report and report.speed:
            speed = report.speed
            for molecules in (1, speed.best_batch_size):
                self._note(Call(molecules, speed.seconds_per_call + molecules * speed.seconds_per_further_molecule))

    @property
    def most(self) -> int:
        """Molecules of the next call at most; at least one."""
        if self._last is None:
            return max(1, int(min(self._batch_size, _FIRST_CALL, self._ceiling)))
        molecules, seconds = self._last
        by_time = min(int(_CALL_SECONDS * molecules / seconds), _LARGEST_STEP * molecules)
        if len(self._calls) == 1 and max(1, by_time).bit_length() == molecules.bit_length():
            # Calls of one size do not tell the call's own time from the molecules'.
            by_time = molecules // 2 or int(min(2 if seconds < 2 * _CALL_SECONDS else 1, self._ceiling))
        elif self._calls:
            planned = planned_size(*fit_line(self._calls.values()), self._batch_size)
            by_time = max(by_time, int(min(planned, 2 * self._largest, self._ceiling)))
        else:  # none has been answered since one timed out
            by_time = int(min(by_time, self._ceiling))
        by_bytes = max(self._batch_size, int(_MOST_BYTES / max(self._bytes_each, 1.0)))
        return max(1, min(by_time, by_bytes, self._batches * self._batch_size))

    @property
    def limit(self) -> float:
        """Molecules that a larger call is to be cut into before it is made; without bound until one has timed out."""
        return self.most if self._timed_out else math.inf

    def affordable(self, seconds: float) -> int:
        """Return how many molecules the next call can have to end within so many seconds; 0 if not even one."""
        if seconds <= self._shortest:
            return 0
        if self._last is None:
            return self.most
        return int(min(self.most, seconds * self._last.molecules / self._last.seconds))

    def answered(self, molecules: int, seconds: float, size: int) -> None:
        """Take note of a call that was answered, with how many bytes the model printed."""
        self._bytes_each = size / molecules
        self._note(Call(molecules, seconds))

    def timed_out(self, molecules: int, seconds: float) -> None:
        """Take note of a call that was not answered in time."""
        self._timed_out = True
        if molecules == 1:
            self._ceiling = math.inf
            return
        self._last = Call(molecules, seconds)
        self._calls.clear()
        self._largest = 0
        self._ceiling = min(self._ceiling, molecules // 2)

    def found_down(self) -> None:
        """Send a model that was found dead no more than a batch at a time."""
        self._batches = 1

    def _note(self, call: Call) -> None:
        """Keep the latest call of each order of magnitude, so that a line through them has points far apart."""
        call = Call(call.molecules, max(call.seconds, 1e-6))
        self._last = call
        self._calls[call.molecules.bit_length()] = call
        self._largest = max(self._largest, call.molecules)
        self._shortest = min(self._shortest or call.seconds, call.seconds)
