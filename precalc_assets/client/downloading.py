"""Downloading a model's Parquet files: side by side, each gone on with where it was cut off, and checked in the end.

A file is there under its name when its content is the one that was promised; until then it is beside it as
`.shard=07.parquet.<checksum>.partial`. Another content is another partial file, so none is ever made of two.
"""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock, Timeout

from precalc_assets.client.errors import DownloadError
from precalc_assets.client.partial import write_all
from precalc_assets.client.under_way import in_order

_log = logging.getLogger(__name__)

MANIFEST = "_manifest.json"
"""Readers of Parquet, Arrow and so pandas among them, pass over names that begin so when they read a folder."""

_LOCK = ".download.lock"
_AT_ONCE = 4
_CHUNK = 1 << 20
_ATTEMPTS = 5
"""Tries without a single new byte before a file is given up."""

_SECONDS = 0.5
"""Before a file is tried again, twice as long each time."""

_NAME = re.compile(r"shard=[0-9]+\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")

OnBytes = Callable[[int], None]
"""Called with how many more bytes are there."""


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file that a shard's predictions were loaded from; `sha256` is that of its content, in hexadecimal."""

    model: str
    shard: str
    name: str
    url: str
    bytes: int
    sha256: str
    rows: int
    release: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's files as they are now."""

    source: str
    model: str
    releases: tuple[str, ...]
    library_digest: str | None
    files: tuple[ServedFile, ...]


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """A file in the folder, which is the one that was promised."""

    shard: str
    path: Path
    bytes: int
    sha256: str
    rows: int
    release: str


class Download(NamedTuple):
    """What is in the folder now."""

    listing: Listing
    files: list[DownloadedFile]


class Stream(NamedTuple):
    """The bytes of a file from a place on, which is where it begins if it cannot be read from the middle."""

    start: int
    chunks: Iterator[bytes]


class LinkExpiredError(Exception):
    """A link does not work any more: ask for another."""


class CutOffError(Exception):
    """A file ended before its end, or could not be begun; trying again may help. The message is the reason."""


class FileSource(Protocol):
    """Where files are downloaded from."""

    name: str

    def files(self, model: str) -> Listing:
        """Return a model's files, with links that work for a while."""
        ...

    def open_file(self, file: ServedFile, start: int) -> AbstractContextManager[Stream]:
        """Open a file from a place on. Raises LinkExpiredError, CutOffError, and DownloadError where it is gone."""
        ...


def checked_file(file: ServedFile) -> ServedFile:
    """Return a file as it was listed. Raises DownloadError for a name or a checksum that could not be one of ours."""
    if not _NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
        raise DownloadError(
            f"a file is listed as {file.name[:60]!r} with the checksum {str(file.sha256)[:70]!r}; stopped"
        )
    return file


def download(
    source: FileSource, model: str, folder: Path, *, begin: Callable[[int], OnBytes] = lambda _: lambda _: None
) -> Download:
    """Download a model's files into a folder, which is made, and note in `_manifest.json` what they are.

    What is there already and right is left as it is. `begin` is told how many bytes there are in all, and returns
    what is told of each. Raises DownloadError if a file cannot be had; the others are kept.
    """
    listing = source.files(model)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DownloadError(f"{folder} is being downloaded to by another command; wait for it") from None
    stop = threading.Event()
    try:
        on_bytes = begin(sum(file.bytes for file in listing.files))
        one = _Downloader(source, listing, folder, on_bytes, stop)
        files = [file for _, file in in_order(listing.files, one.download, _AT_ONCE)]
        _put_manifest(folder, listing, files)
    finally:
        stop.set()
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
    return Download(listing, files)


class _Downloader:
    """Downloads files of a model one by one, in several threads."""

    def __init__(
        self, source: FileSource, listing: Listing, folder: Path, on_bytes: OnBytes, stop: threading.Event
    ) -> None:
        self._source = source
        self._listing = listing
        self._folder = folder
        self._on_bytes = on_bytes
        self._stop = stop
        self._lock = threading.Lock()
        self._counted: dict[str, int] = {}
        self._other: set[str] = set()

    def download(self, file: ServedFile) -> DownloadedFile:
        """Download a file, unless it is there. Raises DownloadError if it cannot be had."""
        there = self._find(file)
        if there:
            self._count(file, there.bytes)
            return there
        # What is left of another content than this one.
        for partial in self._folder.glob(f".{file.name}.*.partial"):
            if partial != self._partial(file):
                partial.unlink()
        failures = 0
        while True:
            before = self._size(file)
            done = self._try(file)
            if isinstance(done, DownloadedFile):
                return done
            file, why = done
            failures = 1 if self._size(file) > before else failures + 1
            if failures == _ATTEMPTS:
                raise DownloadError(f"{file.name} of {file.model}: {why}; the same command goes on")
            if self._stop.wait(_SECONDS * 2**failures):
                raise DownloadError(f"{file.name} of {file.model}: stopped; the same command goes on")

    def _try(self, file: ServedFile) -> DownloadedFile | tuple[ServedFile, str]:
        """Go on with a file; return it, or what to try next time, and why."""
        try:
            self._append(file)
            return self._finish(file)
        except LinkExpiredError:
            return self._listed_again(file), "its links expire before they are used"
        except CutOffError as error:
            return file, str(error)
        except _OtherContentError as error:
            self._partial(file).unlink()
            if file.sha256 in self._other:
                raise DownloadError(f"{file.name} of {file.model}: {error}") from None
            self._other.add(file.sha256)
            _log.info("%s of %s is not what was promised; starting anew", file.name, file.model)
            return self._listed_again(file), str(error)

    def _size(self, file: ServedFile) -> int:
        """Return how much of a file is there."""
        partial = self._partial(file)
        return partial.stat().st_size if partial.exists() else 0

    def _append(self, file: ServedFile) -> None:
        start = self._size(file)
        if start >= file.bytes:
            return  # whole, or too long, which its checksum tells
        with (
            self._source.open_file(file, start) as stream,
            self._partial(file).open("ab", buffering=0) as target,
        ):
            target.truncate(stream.start)
            self._count(file, stream.start)
            for chunk in stream.chunks:
                if self._stop.is_set():  # before anything is written: the next call may have the file by now
                    raise DownloadError(f"{file.name}: stopped")
                write_all(target, chunk)
                self._count(file, target.tell())
                if target.tell() > file.bytes:
                    break  # it may have no end; its checksum tells that it is another file
            size = target.tell()
        if size < file.bytes:
            raise CutOffError(f"it ended after {size:,} of {file.bytes:,} bytes")

    def _finish(self, file: ServedFile) -> DownloadedFile:
        partial, path = self._partial(file), self._folder / file.name
        digest = _sha256(partial)
        if digest != file.sha256:
            raise _OtherContentError(
                f"its content is not what the table was loaded from (SHA-256 {digest[:16]}…, not {file.sha256[:16]}…); "
                "ask those who serve it to load it again"
            )
        partial.replace(path)
        return _downloaded(file, path)

    def _find(self, file: ServedFile) -> DownloadedFile | None:
        """Return the file if it is in the folder, and is the one that was promised."""
        path = self._folder / file.name
        is_it = path.is_file() and path.stat().st_size == file.bytes and _sha256(path) == file.sha256
        return _downloaded(file, path) if is_it else None

    def _partial(self, file: ServedFile) -> Path:
        return self._folder / f".{file.name}.{file.sha256[:16]}.partial"

    def _listed_again(self, file: ServedFile) -> ServedFile:
        listing = self._source.files(file.model)
        was, now = ((each.releases, each.library_digest) for each in (self._listing, listing))
        for listed in listing.files:
            if listed.shard == file.shard and was == now:
                return listed
        raise DownloadError(f"{file.model} was loaded anew while it was downloaded; the same command starts again")

    def _count(self, file: ServedFile, size: int) -> None:
        """Tell how much more of a file is there than before, which is less than nothing where it is begun anew."""
        with self._lock:
            self._on_bytes(size - self._counted.get(file.shard, 0))
            self._counted[file.shard] = size


class _OtherContentError(Exception):
    """The file is whole, and not the one that was promised."""


def _downloaded(file: ServedFile, path: Path) -> DownloadedFile:
    return DownloadedFile(file.shard, path, file.bytes, file.sha256, file.rows, file.release)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _put_manifest(folder: Path, listing: Listing, files: Iterable[DownloadedFile]) -> None:
    """Write what the folder holds, for whoever cites it or checks it (`sha256` of each file)."""
    entries = [{**asdict(file), "path": file.path.name} for file in files]
    names = {str(entry["path"]) for entry in entries}
    strays = sorted(path.name for path in folder.glob("shard=*.parquet") if path.name not in names)
    if strays:
        _log.warning(
            "warning: %s in %s is not among the files of %s any more, and would be read with them; delete it",
            ", ".join(strays[:3]) + (f" and {len(strays) - 3} more" if len(strays) > 3 else ""),
            folder,
            listing.model,
        )
    manifest = {
        "model": listing.model,
        "releases": listing.releases,
        "library_digest": listing.library_digest,
        "source": listing.source,
        "files": entries,
    }
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)
