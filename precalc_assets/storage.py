"""The object store: opening it, listing it, passing its bytes to Arrow, and the names of its objects.

Callers read and write with obstore itself.
"""

import fcntl
import math
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError, GenericError
from obstore.store import ObjectStore, from_url
from typing_extensions import Buffer

from precalc.scratch import scratch_folder
from precalc_assets.outcomes import reason, s3_error_code
from precalc_assets.platform_errors import InfrastructureError, PrecalcError, UsageError
from precalc_assets.store_urls import check_store_url

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta

T = TypeVar("T")

_STAGED = re.compile(r".+#[0-9]+")
"""obstore writes `name#1`, and then renames it."""

_LONGEST_PAUSE = 3_600.0
"""Seconds without a write after which a put counts as given up, whoever began it."""

_CHUNK = 8 << 20
"""Bytes to copy from the store at a time."""

_LISTS = 3
"""How often to ask for a list at most."""

_CREDENTIALS_LIFE = timedelta(minutes=10)
"""How long obstore may cache credentials: boto3 returns none that expire earlier (botocore's mandatory refresh)."""


def open_store(url: str, *, probe: bool = True) -> ObjectStore:
    """Open the object store at a URL; see `check_store_url`. Creates a missing folder, but no bucket.

    What killed commands have left in a folder is deleted.

    For S3, credentials come from boto3's standard chain, and `AWS_DEFAULT_REGION` and `AWS_ENDPOINT_URL` apply. Without
    `probe`, nothing is read of a bucket, and wrong settings fail the first read.

    Raises UsageError for any other URL, for a folder that cannot be made, and for a bucket that cannot be read.
    """
    try:
        if check_store_url(url).startswith("s3:"):
            store = _open_bucket(url)
            if probe:
                _probe(store, url)
            return store
        store = from_url(absolute_url(url), mkdir=True, automatic_cleanup=True)
        _hold(Path(url.removeprefix("file://")).expanduser().resolve())
        return store
    except (BaseError, ValueError, OSError, RuntimeError) as error:
        raise UsageError(
            f"PRECALC_STORE_URL={url!r} cannot be opened: {reason(error)}; write file:///folder or s3://bucket"
        ) from error


def _open_bucket(url: str) -> ObjectStore:
    # boto3 takes a third of a second to load, and a store on disk needs none of it.
    from obstore.auth.boto3 import Boto3CredentialProvider

    from precalc_assets.aws import open_session

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return from_url(
        url,
        credential_provider=Boto3CredentialProvider(open_session(), ttl=_CREDENTIALS_LIFE),
        # An endpoint without TLS is an emulator.
        client_options={"allow_http": endpoint.startswith("http://")},
    )


def _probe(store: ObjectStore, url: str) -> None:
    """Read a byte of the library's manifest: obstore reports wrong settings at the first use."""
    from precalc_assets.aws import way_out

    try:
        # Not `head`: S3 answers it without an error message.
        obstore.get_range(store, LIBRARY_MANIFEST, start=0, length=1)
    except (BaseError, OSError) as error:
        code = s3_error_code(error)
        if code != "NoSuchKey":
            raise UsageError(f"PRECALC_STORE_URL={url!r} cannot be read: {reason(error)}; {way_out(code)}") from error


class _Held:
    """A folder that this process uses as a store: others do not delete what it is about to put there."""

    def __init__(self, folder: Path) -> None:
        """Hold the folder, and delete what is left of puts that were cut short.

        While another process holds it, only files that nobody has written to for an hour are deleted.
        """
        descriptor = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            written_before = math.inf
        except OSError:
            written_before = time.time() - _LONGEST_PAUSE
        for parent, _, names in os.walk(folder):
            for path in [Path(parent, name) for name in names if _STAGED.fullmatch(name)]:
                with suppress(OSError):  # another process may delete it at the same time, or the folder is read-only
                    if path.stat().st_mtime < written_before:
                        path.unlink()
        with suppress(OSError):  # some network file systems cannot lock a folder
            fcntl.flock(descriptor, fcntl.LOCK_SH)


_hold = lru_cache(maxsize=8)(_Held)


def absolute_url(url: str) -> str:
    """Return the store's URL with an absolute path in place of one that starts with a dot or a tilde."""
    if not url.startswith("file:"):
        return url
    return Path(url.removeprefix("file://")).expanduser().resolve().as_uri()


def list_sizes(store: ObjectStore, prefix: str) -> dict[str, int]:
    """Return the sizes in bytes of the objects below a folder, by name."""
    return {entry["path"]: entry["size"] for entry in list_objects(store, prefix)}


def list_objects(store: ObjectStore, prefix: str) -> "Sequence[ObjectMeta]":
    """Return what the store tells of each object below a folder: name, size, time, e-tag."""
    return _whole_answer(lambda: [entry for chunk in obstore.list(store, prefix) for entry in chunk])


def list_folder(store: ObjectStore, prefix: str) -> "ListResult[Sequence[ObjectMeta]]":
    """Return the objects in a folder and the folders in it."""
    return _whole_answer(lambda: obstore.list_with_delimiter(store, prefix))


def read_object(store: ObjectStore, name: str) -> bytes:
    """Return the content of a small object. Raises FileNotFoundError if there is none."""
    return _whole_answer(lambda: bytes(obstore.get(store, name).bytes()))


def _whole_answer(ask: Callable[[], T]) -> T:
    """Ask again when an answer breaks off. obstore repeats requests that fail, but not these."""
    for _ in range(_LISTS - 1):
        with suppress(GenericError):
            return ask()
    return ask()


class LocalCopy(NamedTuple):
    """A local copy of an object, with its size in bytes and its SHA-256 in hexadecimal."""

    path: Path
    bytes: int
    sha256: str


@contextmanager
def local_copy(store: ObjectStore, name: str, missing: PrecalcError) -> Iterator[LocalCopy]:
    """Copy an object to a local file, deleted on exit.

    Raises `missing` if there is none, InfrastructureError if the file cannot be written.
    """
    with ExitStack() as stack:
        try:
            found = obstore.get(store, name)
        except FileNotFoundError:
            raise missing from None
        digest = sha256()
        try:
            path = stack.enter_context(scratch_folder()) / "copy"
            with path.open("wb") as file:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
        except OSError as error:
            raise InfrastructureError(
                f"{name} cannot be copied to {gettempdir()}: {error.strerror}; free some space, or set TMPDIR to "
                "another disk"
            ) from error
        yield LocalCopy(path, path.stat().st_size, digest.hexdigest())


def arrow_reader(content: Buffer) -> pa.BufferReader:
    """Return an Arrow reader over a copy of an object's bytes in Arrow's memory.

    Arrow's threads may release a buffer while Python exits, and releasing Python's own bytes then aborts the process.
    """
    copy = pa.allocate_buffer(memoryview(content).nbytes)
    pa.FixedSizeBufferWriter(copy).write(content)
    return pa.BufferReader(copy)


LIBRARY = "library"
LIBRARY_MANIFEST = f"{LIBRARY}/manifest.json"
SOURCES = "library_source"
MADE_BY_BUILDS = (f"{SOURCES}/", f"{LIBRARY}/shard=", f"{LIBRARY}/rejected-", f"{LIBRARY}/other_forms-")


def library_source(sha256: str, suffix: str) -> str:
    """Return the name of the file that the library is built from."""
    return f"{SOURCES}/{sha256[:16]}{suffix}"


def library_shard(shard: str, digest: str) -> str:
    """Return the name of a library shard with this digest."""
    return f"{LIBRARY}/shard={shard}/{digest[:16]}.parquet"


def rejected(sha256: str) -> str:
    """Return the name of the list of the rows that are not in the library."""
    return f"{LIBRARY}/rejected-{sha256[:16]}.csv"


def other_forms(sha256: str) -> str:
    """Return the name of the list of the rows that are another form of a molecule of the library."""
    return f"{LIBRARY}/other_forms-{sha256[:16]}.csv"


def sample(model: str) -> str:
    """Return the name of a model's sample predictions."""
    return f"samples/model={model}.parquet"


def canary_report(model: str) -> str:
    """Return the name of a model's canary report."""
    return f"samples/model={model}.json"


PREDICTIONS = "predictions"
QUARANTINE = "quarantine"


def raw_prefix(model: str, shard: str) -> str:
    """Return the folder of a shard's raw predictions: its parts and its manifest."""
    return f"raw/model={model}/shard={shard}"


def predictions(model: str, shard: str) -> str:
    """Return the name of a shard's predictions."""
    return f"{PREDICTIONS}/model={model}/shard={shard}.parquet"


def quarantine(model: str, shard: str) -> str:
    """Return the name of the list of a shard's molecules that a model could not answer."""
    return f"{QUARANTINE}/model={model}/shard={shard}.csv"


def emptied(model: str, shard: str) -> str:
    """Return the name of the list of a shard's emptied cells: their number in each column, with an example."""
    return f"emptied/model={model}/shard={shard}.csv"


def delete_model_files(store: ObjectStore, model: str) -> int:
    """Delete a model's files, and return their bytes. Manifests go first: without one, no shard exists."""
    folders = [f"{stage}/model={model}" for stage in ("raw", PREDICTIONS, QUARANTINE, "emptied")]
    sizes = {name: size for folder in folders for name, size in list_sizes(store, folder).items()}
    samples = list_sizes(store, "samples")
    sizes |= {name: samples[name] for name in (canary_report(model), sample(model)) if name in samples}
    manifests = {name for name in sizes if name.endswith("/manifest.json")}
    for names in (manifests, sizes.keys() - manifests):
        obstore.delete(store, sorted(names))
    return sum(sizes.values())


HUB_MODELS = "hub/models.json"
CAMPAIGNS = "campaigns"
EXECUTIONS = "executions"
REQUESTS = "requests"
