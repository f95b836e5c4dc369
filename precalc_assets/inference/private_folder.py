"""A backend's private copy of a model's folder: no other process or later call sees the files that the model writes.

This module copies, cleans and removes the folder. The backend runs programs in it.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from precalc.scratch import scratch_folder
from precalc_assets.models.folder import ModelFolder
from precalc_assets.processes import hold

_COPIED_BYTES = 1 << 20
"""Files up to this size, such as code, are copied. Larger ones, such as checkpoints, are linked."""

_SPLITS = re.compile(r"[\s*?[\]]")
"""Characters that a path must not have: the hub's scripts use `$1` without quotes."""

_REMOVE = """
import fcntl, os, shutil, sys
if os.path.exists(sys.argv[1]):
    fcntl.flock(open(sys.argv[1] + "/lock", "w"), fcntl.LOCK_EX)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
"""Waits until the last call has ended, and removes the folder. After a kill -9, the call's guard ends it."""

_START_SECONDS = 60.0


class PrivateFolder:
    """A scratch folder whose path has no blank. `model` is the copy; each call holds `lock`."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.lock = path / "lock"
        self._source = source
        self._as_copied: dict[str, tuple[int, int]] | None = None

    @property
    def framework(self) -> Path:
        """The folder that holds `run.sh`."""
        return self.model / "framework"

    def clean(self) -> None:
        """Restore the copy to the original files, except for Python's bytecode.

        Otherwise, when a step fails, the next step could read the features of the previous call and predict its
        molecules again. If nothing has changed, this only costs a stat of each file.
        """
        if self._as_copied is None or _state(self.model) != self._as_copied:
            shutil.rmtree(self.model, ignore_errors=True)
            _copy(self._source, self.model)
            self._as_copied = _state(self.model)


@contextmanager
def private_folder(folder: ModelFolder, variables: Mapping[str, str]) -> Iterator[PrivateFolder]:
    """Make a private folder, removed on exit. If this process is killed, a guard removes it."""
    place = tempfile.gettempdir()
    with ExitStack() as stack:
        path = stack.enter_context(scratch_folder("/tmp" if _SPLITS.search(place) else place))  # noqa: S108
        remove = [sys.executable, "-I", "-S", "-c", _REMOVE, str(path)]
        log = path / "guard.txt"
        stack.callback(hold(["true"], close=remove, env=variables, cwd=path, log=log, timeout=_START_SECONDS))
        yield PrivateFolder(path, folder.path / "model")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder and follow its links: small files become writable copies, large files become links.

    Code is never a link, since it may look for neighbouring files at the target. Scripts lose the carriage returns of
    Windows, which bash would read as part of a file name.
    """
    target.mkdir()
    for path in source.iterdir():
        copy = target / path.name
        if path.is_dir():
            _copy(path, copy)
        elif path.is_file() and path.stat().st_size > _COPIED_BYTES:
            copy.symlink_to(path.resolve())
        elif path.is_file():  # false for a broken link
            shutil.copy2(path, copy)
            copy.chmod(copy.stat().st_mode | 0o200)
            if copy.suffix == ".sh":
                copy.write_bytes(copy.read_bytes().replace(b"\r\n", b"\n"))


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of each file, without bytecode, to detect changes."""
    found: dict[str, tuple[int, int]] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found |= {f"{place}/{name}": (0, 0) for name in folders}
        for name in files:
            stat = os.lstat(path := f"{place}/{name}")
            found[path] = (stat.st_size, stat.st_mtime_ns)
    return found
