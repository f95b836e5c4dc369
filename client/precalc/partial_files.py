"""A file that is written block by block and can be continued after a kill: the partial file and its journal.

They are beside the file as `.out.csv.partial` and `.out.csv.journal` until it is whole. The first line of the journal
is the plan: what is written. Each other line has the sizes of the partial files after a block, and the state then. To
continue, the partial files are cut to the last sizes that they reach.
"""

import json
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from precalc.errors import PrecalcError, UsageError

Plan = Mapping[str, Any]


class PartialFiles:
    """Files that grow together, under a lock: only one command writes them at a time.

    `plan` is JSON that says what is written; its keys name for a person what differs from an earlier plan, and those
    are in `different`. `state` is what the last call of `append` was given, with the number of `rows` until then; it is
    empty at the beginning. Raises UsageError if the folder does not exist, PrecalcError if another command writes the
    file.
    """

    def __init__(self, path: Path, others: Sequence[Path], plan: Plan) -> None:
        self.path = path
        for each in (path, *others):
            if each.is_dir() or not each.absolute().parent.is_dir():
                raise UsageError(f"{each}: that is a folder, or in a folder that does not exist; name a file")
        self.partials = [_beside(each, "partial") for each in (path, *others)]
        self._journal_path = _beside(path, "journal")
        self._plan = json.loads(json.dumps(plan))
        self._lock = FileLock(_beside(path, "lock"))
        self.state: dict[str, Any] = {}
        self.different: list[str] = []
        self._files: list[FileIO] = []

    def __enter__(self) -> Self:
        """Continue the files of the same plan, or begin."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise PrecalcError(f"{self.path} is being written by another command; wait for it") from None
        try:
            sizes = self._resume()
            for partial, size in zip(self.partials, sizes, strict=True):
                # Without a buffer: that would be written when the file is closed, too late to report a full disk.
                file = partial.open("r+b" if size else "wb", buffering=0)
                self._files.append(file)
                file.truncate(size)
                file.seek(size)
            journal = json.dumps({"plan": self._plan}) + "\n"
            if self.state:
                journal += json.dumps({"sizes": sizes, "state": self.state}) + "\n"
            _put(self._journal_path, journal)
            self._journal = self._journal_path.open("ab", buffering=0)
        except BaseException:
            self.close()
            if not self.state:
                self.remove()
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Keep finished rows for the next command; remove everything if there are none."""
        self.close()
        if not self.state.get("rows"):
            self.remove()
        self._lock.release()

    def append(self, contents: Sequence[bytes], state: Mapping[str, Any]) -> None:
        """Append to each of the files, and to the journal. Raises PrecalcError on a full disk."""
        for file, content in zip(self._files, contents, strict=True):
            write_all(file, content)
        entry = {"sizes": [file.tell() for file in self._files], "state": dict(state)}
        write_all(self._journal, f"{json.dumps(entry)}\n".encode())
        self.state = dict(state)

    def remove(self) -> None:
        """Remove the partial files and the journal."""
        self.close()
        for partial in self.partials:
            partial.unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)
        _beside(self.path, "lock").unlink(missing_ok=True)
        self.state = {}

    def close(self) -> None:
        """Close the partial files, so that they can be finished."""
        for file in self._files:
            file.close()
        self._files.clear()
        journal: FileIO | None = getattr(self, "_journal", None)
        if journal:
            journal.close()

    def _resume(self) -> list[int]:
        """Take over the state of an earlier command with the same plan; return the sizes of the files so far."""
        nothing = [0] * len(self.partials)
        try:
            lines = self._journal_path.read_bytes().splitlines()
        except FileNotFoundError:
            return nothing
        entries = [entry for entry in map(_parse, lines) if entry]
        earlier = entries[0].get("plan", {}) if entries else {}
        self.different = sorted(word for word in self._plan if earlier.get(word) != self._plan[word])
        if self.different:
            return nothing
        there = [partial.stat().st_size if partial.exists() else 0 for partial in self.partials]
        for entry in reversed(entries[1:]):
            sizes = entry["sizes"]
            if len(sizes) == len(there) and all(size <= has for size, has in zip(sizes, there, strict=True)):
                self.state = entry["state"]
                return list(sizes)
        return nothing


def write_all(file: FileIO, content: bytes) -> None:
    """Write bytes to an unbuffered file. Raises PrecalcError where that cannot be done, as on a full disk."""
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise PrecalcError(
            f"{file.name} cannot be written: {error.strerror}; make room, then run the same command to continue"
        ) from None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line of the journal; None for one that was cut short."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and ("plan" in entry or {"sizes", "state"} <= entry.keys()) else None


def _put(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb", buffering=0) as file:
            write_all(file, text.encode())
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
