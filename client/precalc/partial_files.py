"""A file that is written block by block and can be continued after a kill: the partial file and its journal.

They are beside the file as `.out.csv.partial` and `.out.csv.journal` until it is whole. The journal is one JSON object,
replaced after each block: the plan, which says what is written, the sizes of the partial files, and the state then. To
continue, the partial files are cut to these sizes.
"""

import json
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
        self._journal = _beside(path, "journal")
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
        for partial, size in zip(self.partials, self._resume(), strict=True):
            # Without a buffer: that would be written when the file is closed, too late to report a full disk.
            file = partial.open("r+b" if size else "wb", buffering=0)
            self._files.append(file)
            file.truncate(size)
            file.seek(size)
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
        """Append to each of the files, and note it in the journal. Raises PrecalcError on a full disk."""
        for file, content in zip(self._files, contents, strict=True):
            write_all(file, content)
        journal = {"plan": self._plan, "sizes": [file.tell() for file in self._files], "state": dict(state)}
        new = _beside(self.path, "journal.new")
        with new.open("wb", buffering=0) as file:
            write_all(file, json.dumps(journal).encode())
        new.replace(self._journal)
        self.state = dict(state)

    def close(self) -> None:
        """Close the partial files, so that they can be finished."""
        for file in self._files:
            file.close()
        self._files.clear()

    def remove(self) -> None:
        """Remove the partial files and the journal."""
        self.close()
        for path in (*self.partials, self._journal, *(_beside(self.path, kind) for kind in ("journal.new", "lock"))):
            path.unlink(missing_ok=True)
        self.state = {}

    def _resume(self) -> list[int]:
        """Take over the state of an earlier command with the same plan; return the sizes of the files so far."""
        nothing = [0] * len(self.partials)
        try:
            journal = json.loads(self._journal.read_bytes())
            plan, sizes, state = journal["plan"], journal["sizes"], journal["state"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return nothing
        self.different = sorted(word for word in self._plan if plan.get(word) != self._plan[word])
        found = [partial.stat().st_size if partial.exists() else 0 for partial in self.partials]
        if self.different or any(has < size for has, size in zip(found, sizes, strict=True)):
            return nothing
        self.state = state
        return list(sizes)


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
