"""A file that is written block by block and can be gone on with after a kill: the partial file and its journal.

They stand beside the file as `.out.csv.partial` and `.out.csv.journal` until it is whole. The journal's first line says
what is written; each other one how long the partial files were after a block, and what was counted until then. What
stands behind the last such place is cut off.
"""

import json
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from precalc_assets.errors import PrecalcError, UsageError

Plan = Mapping[str, Any]


class PartialFiles:
    """Files that grow together, under a lock: while somebody writes them, nobody else does.

    `plan` says in JSON what is written, by the words that a person is told when it differs. `state` is what the last
    call of `append` was given, with the number of `rows` until there; it is empty where everything begins. `other`
    names what differs from an earlier plan, if there was one. Raises UsageError where the folder does not exist,
    PrecalcError if somebody else writes the file.
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
        self.other: list[str] = []
        self._files: list[FileIO] = []

    def __enter__(self) -> Self:
        """Go on with what is there of the same plan, or begin."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise PrecalcError(f"{self.path} is being written by another command; wait for it") from None
        try:
            sizes = self._resume()
            for partial, size in zip(self.partials, sizes, strict=True):
                # Without a buffer, which would be written when the file is closed: too late to say that it cannot be.
                file = partial.open("r+b" if size else "wb", buffering=0)
                self._files.append(file)
                file.truncate(size)
                file.seek(size)
            kept = json.dumps({"plan": self._plan}) + "\n"
            if self.state:
                kept += json.dumps({"sizes": sizes, "state": self.state}) + "\n"
            _put(self._journal_path, kept)
            self._journal = self._journal_path.open("ab", buffering=0)
        except BaseException:
            self._close()
            if not self.state:
                self.remove()
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave what is finished; nothing, if nothing is or if it is thrown away."""
        self._close()
        if not self.state.get("rows"):
            self.remove()
        self._lock.release()

    def append(self, contents: Sequence[bytes], state: Mapping[str, Any]) -> None:
        """Append to each of the files, and take note of it. Raises PrecalcError on a full disk."""
        for file, content in zip(self._files, contents, strict=True):
            write_all(file, content)
        entry = {"sizes": [file.tell() for file in self._files], "state": dict(state)}
        write_all(self._journal, f"{json.dumps(entry)}\n".encode())
        self.state = dict(state)

    def close(self) -> None:
        """Close the partial files, so that they can be finished."""
        self._close()

    def remove(self) -> None:
        """Remove what is partial, and the journal."""
        self._close()
        for partial in self.partials:
            partial.unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)
        _beside(self.path, "lock").unlink(missing_ok=True)
        self.state = {}

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
        journal: FileIO | None = getattr(self, "_journal", None)
        if journal:
            journal.close()

    def _resume(self) -> list[int]:
        """Take over what an earlier command has left of the same plan; return the sizes of the files so far."""
        nothing = [0] * len(self.partials)
        try:
            lines = self._journal_path.read_bytes().splitlines()
        except FileNotFoundError:
            return nothing
        entries = [entry for entry in map(_parse, lines) if entry]
        earlier = entries[0].get("plan", {}) if entries else {}
        self.other = sorted(word for word in self._plan if earlier.get(word) != self._plan[word])
        if self.other:
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
            f"{file.name} cannot be written: {error.strerror}; make room, then the same command goes on"
        ) from None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return what a line of the journal says; None for one that was cut short."""
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
