"""Downloading a model's Parquet files: several at a time, each continued where it was cut off, and checked at the end.

A file gets its name when its content has the listed checksum; until then it is `.shard=07.parquet.<checksum>.partial`.
Another content has another partial file, so no file is ever put together from two.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from precalc.errors import DownloadError, UsageError
from precalc.partial_files import replace_json, write_all
from precalc.side_by_side import run_in_order
from precalc.source import CutOffError, LinkExpiredError, Listing, ServedFile, Source, name_some, reload

_log = logging.getLogger(__name__)

MANIFEST = "_manifest.json"
"""Arrow, and so pandas, passes over names that begin with an underscore when it reads a folder."""

_LOCK = ".download.lock"
_AT_ONCE = 4
_ATTEMPTS = 5
"""Tries without a single new byte before a download fails."""

_SECONDS = 0.5
"""Wait before a retry; it doubles each time."""

_DESCRIBED = ("shard", "bytes", "sha256", "rows", "release")
"""What the manifest says of a file, beside its path."""

_NAME = re.compile(r"shard=[0-9]+\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")

OnBytes = Callable[[int], None]
"""Called with how many more bytes have arrived."""


def checked_file(file: ServedFile) -> ServedFile:
    """Return the file. Raises DownloadError if its name or checksum, which become a path, or its size cannot be."""
    if not _NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256) or file.bytes <= 0:
        raise DownloadError(
            f"a file is listed as {file.name[:60]!r} of {file.bytes:,} bytes with the checksum {file.sha256[:70]!r}; "
            f"stopped; {reload(file.model)}"
        )
    return file


def download(source: Source, listing: Listing, folder: Path, *, on_bytes: OnBytes = lambda _: None) -> None:
    """Download the listed files into a folder, which is made, and describe them in `_manifest.json`.

    Files that are in the folder with the right content stay as they are. Raises DownloadError if a file cannot be
    downloaded; the others are kept.
    """
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise DownloadError(f"{folder} is the target of another download; wait for it") from None
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written into: {error.strerror}; name a folder that you may write into with -o"
        ) from None
    downloader = _Downloader(source, listing, folder, on_bytes)
    try:
        for _ in run_in_order(listing.files, downloader.download, _AT_ONCE):
            pass
        _put_manifest(folder, listing)
    finally:
        downloader.stop.set()
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


@dataclass(slots=True)
class _Downloader:
    """Downloads files of a model one by one, in several threads, until it is told to stop."""

    _source: Source
    _listing: Listing
    _folder: Path
    _on_bytes: OnBytes
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counted: dict[str, int] = field(default_factory=dict)
    _damaged: set[str] = field(default_factory=set)

    def download(self, file: ServedFile) -> None:
        """Download a file, unless it is in the folder. Raises DownloadError if that fails."""
        path = self._folder / file.name
        if path.is_file() and path.stat().st_size == file.bytes and _sha256(path) == file.sha256:
            self._count(file, file.bytes)
            return
        for partial in set(self._folder.glob(f".{file.name}.*.partial")) - {self._partial(file)}:
            partial.unlink()  # of another content
        failures = 0
        while True:
            before = self._size(file)
            try:
                self._append(file)
                self._finish(file)
                return
            except LinkExpiredError:
                why = "its links expire before they are used"
                file = self._list_again(file)
            except CutOffError as error:
                why = str(error)
            except _DamagedError as error:
                self._partial(file).unlink()
                if file.sha256 in self._damaged:
                    raise DownloadError(f"{file.name} of {file.model}: {error}") from None
                self._damaged.add(file.sha256)
                _log.info("%s of %s has another content than listed; downloading it again", file.name, file.model)
                why = str(error)
                file = self._list_again(file)
            failures = 1 if self._size(file) > before else failures + 1
            if failures == _ATTEMPTS:
                again = f"run the same command to continue; if it stops there again, {reload(file.model)}"
                raise DownloadError(f"{file.name} of {file.model}: {why}; {again}")
            if self.stop.wait(_SECONDS * 2**failures):
                raise DownloadError(f"{file.name} of {file.model}: stopped; run the same command to continue")

    def _size(self, file: ServedFile) -> int:
        """Return how many bytes of a file have arrived."""
        partial = self._partial(file)
        return partial.stat().st_size if partial.exists() else 0

    def _append(self, file: ServedFile) -> None:
        start = self._size(file)
        if start >= file.bytes:
            return  # whole, or too long: the checksum tells
        with self._source.open_file(file, start) as stream, self._partial(file).open("ab", buffering=0) as target:
            target.truncate(stream.start)
            self._count(file, stream.start)
            for chunk in stream.chunks:
                if self.stop.is_set():  # before a write: the next command may have the file by now
                    raise DownloadError(f"{file.name}: stopped")
                write_all(target, chunk)
                self._count(file, target.tell())
                if target.tell() > file.bytes:
                    break  # it may have no end; its checksum will not match
            size = target.tell()
        if size < file.bytes:
            raise CutOffError(f"it ended after {size:,} of {file.bytes:,} bytes")

    def _finish(self, file: ServedFile) -> None:
        partial = self._partial(file)
        digest = _sha256(partial)
        if digest != file.sha256:
            raise _DamagedError(
                f"its content is not what the table was loaded from (SHA-256 {digest[:16]}…, not {file.sha256[:16]}…); "
                f"{reload(file.model)}"
            )
        partial.replace(self._folder / file.name)

    def _partial(self, file: ServedFile) -> Path:
        return self._folder / f".{file.name}.{file.sha256[:16]}.partial"

    def _list_again(self, file: ServedFile) -> ServedFile:
        listing = self._source.files(file.model)
        was, now = ((each.releases, each.library_digest) for each in (self._listing, listing))
        for listed in listing.files:
            if listed.shard == file.shard and was == now:
                return listed
        raise DownloadError(
            f"{file.model} was loaded again while it was downloaded; run the same command to start again"
        )

    def _count(self, file: ServedFile, size: int) -> None:
        """Report how much a file has grown, a negative number when it starts from the beginning."""
        with self._lock:
            self._on_bytes(size - self._counted.get(file.shard, 0))
            self._counted[file.shard] = size


class _DamagedError(Exception):
    """The file is whole, and has another checksum than listed."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_manifest(folder: Path, listing: Listing) -> None:
    """Describe the folder's files, for whoever cites them or checks them (`sha256` of each file)."""
    names = {file.name for file in listing.files}
    strays = sorted(path.name for path in folder.glob("shard=*.parquet") if path.name not in names)
    if strays:
        _log.warning(
            "warning: %s in %s is no longer among the files of %s, and would be read with them; delete it",
            name_some(strays),
            folder,
            listing.model,
        )
    manifest = {
        "model": listing.model,
        "releases": listing.releases,
        "library_digest": listing.library_digest,
        "source": listing.source,
        "files": [{"path": file.name, **{name: getattr(file, name) for name in _DESCRIBED}} for file in listing.files],
    }
    replace_json(folder / MANIFEST, manifest)
