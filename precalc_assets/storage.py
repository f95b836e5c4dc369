"""The object store: opening it, listing it, passing its bytes to Arrow, and the names of its objects.

Callers read and write with obstore itself.
"""

import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url
from typing_extensions import Buffer

from precalc_assets.outcomes import reason, s3_error_code
from precalc_assets.platform_errors import UsageError

_CREDENTIALS_LIFE = timedelta(minutes=10)
"""How long obstore may cache credentials: boto3 returns none that expire earlier (botocore's mandatory refresh)."""


def open_store(url: str) -> ObjectStore:
    """Open the object store at a URL, `file://…` or `s3://…`. Creates a missing folder, but no bucket.

    For S3, credentials come from boto3's standard chain, and `AWS_DEFAULT_REGION` and `AWS_ENDPOINT_URL` apply.

    Raises UsageError for a URL that obstore cannot open, and for a bucket that cannot be read.
    """
    try:
        scheme = urlsplit(url).scheme
        if scheme == "file":
            return from_url(absolute_url(url), mkdir=True)
        return _open_bucket(url) if scheme == "s3" else from_url(url)
    except (BaseError, ValueError, OSError, RuntimeError) as error:
        raise UsageError(
            f"PRECALC_STORE_URL={url!r} cannot be opened: {reason(error)}; write file:///folder, file://./folder or s3://bucket"
        ) from error


def _open_bucket(url: str) -> ObjectStore:
    """Open a bucket, and read a byte of it, since obstore reports wrong settings only at the first use.

    It reads the library's manifest, which every user of the store may read.
    """
    # boto3 takes a third of a second to load, and a store on disk needs none of it.
    from obstore.auth.boto3 import Boto3CredentialProvider

    from precalc_assets.aws import open_session, way_out

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    store = from_url(
        url,
        credential_provider=Boto3CredentialProvider(open_session(), ttl=_CREDENTIALS_LIFE),
        # An endpoint without TLS is an emulator.
        client_options={"allow_http": endpoint.startswith("http://")},
    )
    try:
        # Not `head`: S3 answers it without an error message.
        obstore.get_range(store, LIBRARY_MANIFEST, start=0, length=1)
    except (BaseError, OSError) as error:
        code = s3_error_code(error)
        if code != "NoSuchKey":
            raise UsageError(f"PRECALC_STORE_URL={url!r} cannot be read: {reason(error)}; {way_out(code)}") from error
    return store


def absolute_url(url: str) -> str:
    """Return the store's URL with an absolute path in place of one that starts with a dot or a tilde."""
    if urlsplit(url).scheme != "file":
        return url
    return Path(url.removeprefix("file://")).expanduser().resolve().as_uri()


def list_sizes(store: ObjectStore, prefix: str) -> dict[str, int]:
    """Return the sizes in bytes of the objects below a folder, by name."""
    return {entry["path"]: entry["size"] for chunk in obstore.list(store, prefix) for entry in chunk}


def arrow_reader(content: Buffer) -> pa.BufferReader:
    """Return an Arrow reader over a copy of an object's bytes in Arrow's memory.

    Arrow's threads may release a buffer while Python exits, and releasing Python's own bytes then aborts the process.
    """
    copy = pa.BufferOutputStream()
    copy.write(content)
    return pa.BufferReader(copy.getvalue())


LIBRARY_MANIFEST = "library/manifest.json"
REJECTED = "library/rejected.csv"


def library_shard(shard: str) -> str:
    """Return the name of a library shard."""
    return f"library/shard={shard}.parquet"


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


EXECUTIONS = "executions"
REQUESTS = "requests"


def execution(key: str) -> str:
    """Return the folder of an execution's records."""
    return f"{EXECUTIONS}/{key}"


def request(request_id: str) -> str:
    """Return the name of a pending request."""
    return f"{REQUESTS}/{request_id}.json"


def met_request(request_id: str) -> str:
    """Return the name of a request that was met."""
    return f"{REQUESTS}/met/{request_id}.json"
