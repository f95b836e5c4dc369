"""A file that is written block by block and can be continued after a kill: the partial file and its journal.

They are beside the file as `.out.csv.partial` and `.out.csv.journal` until it is whole. The journal is replaced after
each block. It is a JSON object on one line and the SHA-256 of that line on the next: the plan, which says what is
written, the size and SHA-256 of each partial file, and the state then. To continue, the partial files are cut to these
sizes; if anything has another checksum, they begin anew.
"""

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from precalc.errors import PrecalcError, UsageError

Plan = Mapping[str, Any]

_READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartialFiles:
    """Files that grow together, under a lock: only one command writes them at a time.

    `plan` is JSON that says what is written; its keys name for a person what differs from an earlier plan. `discarded`
    says what is wrong with files of an earlier command that cannot be continued, else it is empty. `state` is what the
    last call of `append` was given, with the number of `rows` until then; it is empty at the beginning. Raises
    UsageError if the folder does not exist, PrecalcError if another command writes the file.
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
        self.discarded = ""
        self._files: list[FileIO] = []
        self._digests = [hashlib.sha256() for _ in self.partials]

    def __enter__(self) -> Self:
        """Continue the files of the same plan, or begin."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise PrecalcError(f"{self.path} is being written by another command; wait for it") from None
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written: {error.strerror}; name a file in a folder that you may write into"
            ) from None
        for partial, size in zip(self.partials, self._resume(), strict=True):
            # Without a buffer: that would be written when the file is closed, too late to report a full disk.
            file = partial.open("r+b" if size else "wb", buffering=0)
            self._files.append(file)
            file.truncate(size)
            file.seek(size)
        return self

    def __exit__(self, *_error: object) -> None:
        """Keep finished rows for the next command; remove everything if there are none."""
        self.close()
        if not self.state.get("rows"):
            self.remove()
        self._lock.release()

    def append(self, contents: Sequence[bytes], state: Mapping[str, Any]) -> None:
        """Append to each of the files, and note it in the journal. Raises PrecalcError on a full disk."""
        for file, digest, content in zip(self._files, self._digests, contents, strict=True):
            write_all(file, content)
            digest.update(content)
        journal = {
            "plan": self._plan,
            "sizes": [file.tell() for file in self._files],
            "digests": [digest.hexdigest() for digest in self._digests],
            "state": dict(state),
        }
        line = json.dumps(journal).encode()
        _replace(self._journal, b"%b\n%b\n" % (line, hashlib.sha256(line).hexdigest().encode()))
        self.state = dict(state)

    def close(self) -> None:
        """Close the partial files, so that they can be finished."""
        for file in self._files:
            file.close()
        self._files.clear()

    def remove(self) -> None:
        """Remove the partial files and the journal."""
        self.close()
        for path in (*self.partials, self._journal, _new(self._journal), _beside(self.path, "lock")):
            path.unlink(missing_ok=True)
        self.state = {}

    def _resume(self) -> list[int]:
        """Take over the state of an earlier command with the same plan; return the sizes of the files so far."""
        nothing = [0] * len(self.partials)
        if not self._journal.exists():
            return nothing
        try:
            line, _, checksum = self._journal.read_bytes().partition(b"\n")
            if checksum.strip() != hashlib.sha256(line).hexdigest().encode():
                raise ValueError("another checksum")
            journal = json.loads(line)
            plan, state = dict(journal["plan"]), dict(journal["state"])
            different = sorted(word for word in self._plan if plan.get(word) != self._plan[word])
            if different:
                self.discarded = f"differs in {', '.join(different)}"
                return nothing
            files = [_digest(path, size) for path, size in zip(self.partials, journal["sizes"], strict=True)]
            if [digest.hexdigest() for digest in files] != journal["digests"]:
                raise ValueError("another checksum")
        except (ValueError, KeyError, TypeError, RecursionError):
            self.discarded = "is damaged"
            return nothing
        self._digests, self.state = files, state
        return list(journal["sizes"])


def write_all(file: FileIO, content: bytes) -> None:
    """Write bytes to an unbuffered file. Raises PrecalcError where that cannot be done, as on a full disk."""
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        way = "make room" if error.errno in _FULL else "check the disk"
        raise PrecalcError(
            f"{file.name} cannot be written: {error.strerror}; {way}, then run the same command to continue"
        ) from None


def replace_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace a file by JSON, at once. Raises PrecalcError where that cannot be done."""
    _replace(path, json.dumps(content, indent=2).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    new = _new(path)
    with new.open("wb", buffering=0) as file:
        write_all(file, content)
    new.replace(path)


def _digest(path: Path, size: int) -> "hashlib._Hash":
    """Return the SHA-256 of the first `size` bytes of a file, of all of it if it is shorter, or missing."""
    digest = hashlib.sha256()
    if size < 0:
        raise ValueError(size)
    if path.exists():
        with path.open("rb") as file:
            while size and (part := file.read(min(size, _READ_BYTES))):
                digest.update(part)
                size -= len(part)
    return digest


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name.removeprefix('.')}.new")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")
