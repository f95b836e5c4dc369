"""Choose how many molecules to send in a call, by how long a model's calls take and whether they time out."""

import math
from collections.abc import Iterable
from statistics import fmean, linear_regression
from typing import NamedTuple

from precalc_assets.predictions.canary_report import CanaryReport

_FIRST_CALL = 50
"""Molecules in the first call to a model of unknown speed: at 6 s each, that is five minutes."""

_CALL_SECONDS = 30.0
"""Target length of a call: progress shows, and a kill loses little."""

_WORK_PER_START = 4.0
_MOST_WORK_SECONDS = 120.0
"""A call to a model that is slow to start spends four times the start time on molecules, at most two minutes."""

_LARGEST_STEP = 100
"""Limit on the growth from one call to the next, however fast the last one was."""

_MOST_BATCHES = 10
_MOST_BYTES = 16 << 20
"""Limits of a call to a fast model: they bound the loss when it is killed, and the memory for its output."""


class Call(NamedTuple):
    """A call of the model: number of molecules, and seconds."""

    molecules: int
    seconds: float


def fit_line(points: Iterable[Call]) -> tuple[float, float]:
    """Fit the fixed seconds of a call and the seconds per molecule, by least squares over at least one call.

    Neither is negative. If all calls are of one size, all of the time counts as time per molecule.
    """
    molecules, seconds = zip(*points, strict=True)
    if len(set(molecules)) == 1:
        return 0.0, fmean(seconds) / molecules[0]
    slope, intercept = linear_regression(molecules, seconds)
    if slope < 0:
        return fmean(seconds), 0.0
    return (intercept, slope) if intercept >= 0 else (0.0, fmean(seconds) / fmean(molecules))


def planned_size(seconds_per_call: float, seconds_per_molecule: float, batch_size: int) -> int:
    """Return the molecules per call for a model of known speed: at least one, at most ten batches.

    A call lasts 30 s in all. If its fixed time is more than 6 s, the call lasts longer, so that the fixed time is a
    fifth of it, but molecules take at most two minutes.
    """
    work = max(_CALL_SECONDS - seconds_per_call, min(_WORK_PER_START * seconds_per_call, _MOST_WORK_SECONDS))
    most = _MOST_BATCHES * batch_size
    return max(1, min(most, int(work / seconds_per_molecule))) if seconds_per_molecule else most


class CallSize:
    """The number of molecules for a model's next call.

    It starts from the speed that the canary has measured, or from a small call. The next call has as many molecules as
    fit into 30 s at the last call's rate. If calls of different sizes show a fixed time per call, it has more, up to
    twice the largest call so far. After a timeout, calls are at most half as large, until later calls have shown the
    model's speed, or a single molecule has timed out and was to blame.
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
        """Maximum molecules of the next call; at least one."""
        if self._last is None:
            return max(1, int(min(self._batch_size, _FIRST_CALL, self._ceiling)))
        molecules, seconds = self._last
        by_time = min(int(_CALL_SECONDS * molecules / seconds), _LARGEST_STEP * molecules)
        if len(self._calls) == 1 and max(1, by_time).bit_length() == molecules.bit_length():
            # Calls of one size cannot separate the fixed time from the time per molecule.
            by_time = molecules // 2 or int(min(2 if seconds < 2 * _CALL_SECONDS else 1, self._ceiling))
        elif self._calls:
            planned = planned_size(*fit_line(self._calls.values()), self._batch_size)
            by_time = max(by_time, int(min(planned, 2 * self._largest, self._ceiling)))
        else:  # no call was answered since the last timeout
            by_time = int(min(by_time, self._ceiling))
        by_bytes = max(self._batch_size, int(_MOST_BYTES / max(self._bytes_each, 1.0)))
        return max(1, min(by_time, by_bytes, self._batches * self._batch_size))

    @property
    def limit(self) -> float:
        """Molecules above which a call is split before it is made; infinite until a call has timed out."""
        return self.most if self._timed_out else math.inf

    def affordable(self, seconds: float) -> int:
        """Return how many molecules the next call can have to end within `seconds`; 0 if not even one."""
        if seconds <= self._shortest:
            return 0
        if self._last is None:
            return self.most
        return int(min(self.most, seconds * self._last.molecules / self._last.seconds))

    def answered(self, molecules: int, seconds: float, size: int) -> None:
        """Record a call that was answered; `size` is the output in bytes."""
        self._bytes_each = size / molecules
        self._note(Call(molecules, seconds))

    def timed_out(self, molecules: int, seconds: float) -> None:
        """Record a call that timed out."""
        self._timed_out = True
        if molecules == 1:
            self._ceiling = math.inf
            return
        self._last = Call(molecules, seconds)
        self._calls.clear()
        self._largest = 0
        self._ceiling = min(self._ceiling, molecules // 2)

    def found_down(self) -> None:
        """Limit calls to one batch, after the server has died."""
        self._batches = 1

    def _note(self, call: Call) -> None:
        """Keep the latest call of each order of magnitude, so that the fit has points far apart."""
        call = Call(call.molecules, max(call.seconds, 1e-6))
        self._last = call
        self._calls[call.molecules.bit_length()] = call
        self._largest = max(self._largest, call.molecules)
        self._shortest = min(self._shortest or call.seconds, call.seconds)
