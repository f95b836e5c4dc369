"""The object store: opening it, listing it, handing its bytes to Arrow, and the names of the objects in it.

Reading and writing is obstore's own business.
"""

from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url
from typing_extensions import Buffer

from precalc_assets.errors import UsageError
from precalc_assets.outcomes import reason


def open_store(url: str) -> ObjectStore:
    """Open the object store at a URL (`file://…` or `s3://…`); a folder is made where there is none.

    Raises UsageError for a URL that obstore cannot open.
    """
    try:
        if urlsplit(url).scheme == "file":
            return from_url(absolute_url(url), mkdir=True)
        return from_url(url)
    except (BaseError, ValueError, OSError) as error:
        raise UsageError(
            f"PRECALC_STORE_URL={url!r} cannot be opened: {reason(error)}; write file:///folder, file://./folder or s3://bucket"
        ) from error


def absolute_url(url: str) -> str:
    """Return the store's URL; for a file URL that starts with a dot or a tilde, that of the folder it means."""
    if urlsplit(url).scheme != "file":
        return url
    return Path(url.removeprefix("file://")).expanduser().resolve().as_uri()


def list_sizes(store: ObjectStore, prefix: str) -> dict[str, int]:
    """Return the sizes in bytes of the objects below a folder, by name."""
    return {entry["path"]: entry["size"] for chunk in obstore.list(store, prefix) for entry in chunk}


def arrow_reader(content: Buffer) -> pa.BufferReader:
    """Return a reader for Arrow over a copy of its own of an object's bytes.

    Arrow's threads may let go of what they read while Python exits, and letting go of Python's bytes then aborts it.
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
    """Return the name of what the canary found out about a model."""
    return f"samples/model={model}.json"


def raw_prefix(model: str, shard: str) -> str:
    """Return the folder of a shard's raw predictions: its parts and its manifest."""
    return f"raw/model={model}/shard={shard}"


def predictions(model: str, shard: str) -> str:
    """Return the name of a shard's predictions."""
    return f"predictions/model={model}/shard={shard}.parquet"


def quarantine(model: str, shard: str) -> str:
    """Return the name of the list of molecules that a model could not answer."""
    return f"quarantine/model={model}/shard={shard}.csv"
