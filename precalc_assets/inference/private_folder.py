"""A backend's own copy of a model's folder: what the model writes beside its code, no other process or later call sees.

Only how a folder is copied, kept clean and removed belongs here; what is run in it is the backend's business.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from precalc_assets.models import ModelFolder
from precalc_assets.processes import hold

_COPIED_BYTES = 1 << 20
"""Files up to this size are copied: code. Larger ones are checkpoints, and links do for them."""

_SPLITS = re.compile(r"[\s*?[\]]")
"""What a path must not have: the hub's scripts leave `$1` without quotes."""

_REMOVE = """
import fcntl, shutil, sys
fcntl.flock(open(sys.argv[1] + "/lock", "w"), fcntl.LOCK_EX)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
"""Waits until the last call has ended, which after a kill -9 its guard sees to, and removes the folder."""

_START_SECONDS = 60.0


class PrivateFolder:
    """A scratch folder whose path has no blank: `model` is the copy, `lock` is for calls to hold."""

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
        """Have the copy be as the model's author left it, but for Python's bytecode.

        A step that fails on a molecule would leave the former call's features to the next step, and so the former
        molecules' predictions. A call that changed nothing costs a look at the files.
        """
        if self._as_copied is None or _state(self.model) != self._as_copied:
            shutil.rmtree(self.model, ignore_errors=True)
            _copy(self._source, self.model)
            self._as_copied = _state(self.model)


@contextmanager
def private_folder(folder: ModelFolder, variables: Mapping[str, str]) -> Iterator[PrivateFolder]:
    """Make a folder for a backend. It is removed at the end; a guard removes it when this process is killed."""
    place = tempfile.gettempdir()
    path = Path(tempfile.mkdtemp(prefix=f"{folder.model}-", dir="/tmp" if _SPLITS.search(place) else place))  # noqa: S108
    remove = [sys.executable, "-I", "-S", "-c", _REMOVE, str(path)]
    try:
        guard = hold(["true"], close=remove, env=variables, cwd=path, log=path / "guard.txt", timeout=_START_SECONDS)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    try:
        yield PrivateFolder(path, folder.path / "model")
    finally:
        shutil.rmtree(path, ignore_errors=True)
        guard.dismiss()


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, what links lead to included: small files, writable, and links to large ones.

    Code is never a link, since it may look for its neighbours behind it. Scripts lose the carriage returns of Windows,
    which bash would take for a part of a file's name.
    """
    target.mkdir()
    for path in source.iterdir():
        copy = target / path.name
        if path.is_dir():
            _copy(path, copy)
        elif path.is_file() and path.stat().st_size > _COPIED_BYTES:
            copy.symlink_to(path.resolve())
        elif path.is_file():  # and no link that leads nowhere
            shutil.copy2(path, copy)
            copy.chmod(copy.stat().st_mode | 0o200)
            if copy.suffix == ".sh":
                copy.write_bytes(copy.read_bytes().replace(b"\r\n", b"\n"))


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells whether anything in a folder was changed: size and time of each file, but for bytecode."""
    found: dict[str, tuple[int, int]] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found |= {f"{place}/{name}": (0, 0) for name in folders}
        for name in files:
            stat = os.lstat(path := f"{place}/{name}")
            found[path] = (stat.st_size, stat.st_mtime_ns)
    return found
