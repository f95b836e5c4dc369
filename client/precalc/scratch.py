"""Folders for temporary files. They are removed when they are no longer used, and by the next command after a kill."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: a killed command's folders stay
    fcntl = None  # type: ignore[assignment]

_PREFIX = "precalc-scratch-"

_TRIES = 20
"""Folders that may be swept before they are locked; a file system without locks has none to offer, and sweeps none."""


@contextmanager
def scratch_folder(place: str = "") -> Iterator[Path]:
    """Make an empty folder in `place` (default: the one for temporary files), and remove it on exit.

    While it is used, its process holds a lock on it. The first folder of a process removes those that nobody holds.
    """
    place = place or tempfile.gettempdir()
    _sweep(place)
    path, lock = _make(place)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make(place: str) -> tuple[Path, int | None]:
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        if fcntl is None:
            return path, None
        lock = _lock(path)
        # Another process may have swept the folder before it was locked.
        if lock is not None and path.exists():
            return path, lock
        with suppress(OSError):
            path.rmdir()
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place)), None


@cache
def _sweep(place: str) -> None:
    if fcntl is None:
        return
    for path in Path(place).glob(f"{_PREFIX}*"):
        lock = _lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a folder and return the descriptor that holds the lock; None if it is held, gone or another user's."""
    lock = None
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    if lock is not None:
        os.close(lock)
    return None
