"""Links to the Parquet files that a model is served from: presigned for a bucket, paths of our own for a folder.

No link needs a word with the object store: which files there are, how large they are and what they hold is in the
table's directories, and a link is signed by arithmetic. So it names a file whether or not that is still there. All
that a reader may choose is the model; shards are those that its table serves.
"""

import logging
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

from fastapi import FastAPI, Response
from pydantic import BaseModel

from precalc_assets.api.parameters import ModelId
from precalc_assets.api.problems import Problem, refusals, unavailable, unknown_model
from precalc_assets.api.served import ServedModels
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.errors import MissingTableError, TableError, UsageError
from precalc_assets.model_ids import check_model_id, is_model_id
from precalc_assets.tables import Directory

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from types_boto3_s3 import S3Client

LINK_LIFE = timedelta(hours=1)
"""How long a link works, unless the credentials that it is signed with end earlier."""

_log = logging.getLogger(__name__)

_LOCAL = re.compile(r"/models/([a-z0-9-]+)/files/(shard=[0-9]+\.parquet)")


class Links(NamedTuple):
    """URLs in the order of the shards, and when they stop working, None for never."""

    urls: list[str]
    expires_at: datetime | None


class FileLinks(Protocol):
    """Makes links to files of an object store."""

    def link(self, model: str, shards: Sequence[str]) -> Links:
        """Return a link to the predictions of each shard of a model. Raises UsageError for no model id."""


class FileAnswer(BaseModel):
    """One file, with its size and the SHA-256 of its content, in hexadecimal."""

    shard: str
    name: str
    url: str
    bytes: int
    sha256: str
    rows: int
    release: str


class FilesAnswer(BaseModel):
    """A model's files, by shard: each is the one that the shard's predictions were loaded from.

    `url` may be relative to that of the request. `expires_at` is when the links stop working, ISO 8601 in UTC, null
    for links that do not.
    """

    model: str
    releases: list[str]
    library_digest: str | None
    deterministic: bool | None
    expires_at: str | None
    files: list[FileAnswer]


def add_file_routes(app: FastAPI, models: ServedModels, links: FileLinks | None) -> None:
    """Make an application name the files of these models; without links, say that it has none."""
    no_files = Problem(HTTPStatus.NOT_FOUND, "no_files", "files are not served here, predictions alone are")

    @app.get(
        "/models/{model}/files",
        summary="The files of a model",
        tags=["files"],
        responses=refusals(unknown_model("eos9zzz"), no_files, unavailable()),
    )
    def list_files(response: Response, model: ModelId) -> FilesAnswer:
        """Return links to the Parquet files of a model, one for each shard, with sizes and checksums.

        They hold `inchikey`, `smiles` and a column for each output, and stop working at `expires_at`: ask again then.
        """
        entry = models.find(model)
        if entry is None:
            raise unknown_model(model)
        if links is None:
            raise no_files
        # Links are as good as keys as long as they work.
        response.headers["Cache-Control"] = "no-store"
        return _answer(entry, links)


def _answer(entry: CatalogueEntry, links: FileLinks) -> FilesAnswer:
    directories = _directories(entry)
    try:
        made = links.link(entry.model, list(directories))
    except UsageError as error:
        _log.error("%s", error)
        message = "links to files cannot be made at the moment; try again later"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message) from None
    return FilesAnswer(
        model=entry.model,
        releases=sorted({directory.release for directory in directories.values()}),
        library_digest=entry.library_digest_with(directories),
        deterministic=entry.deterministic,
        expires_at=made.expires_at and made.expires_at.isoformat(),
        files=[
            FileAnswer(
                shard=shard,
                name=file_name(shard),
                url=url,
                bytes=directory.file_bytes,
                sha256=directory.file_sha256,
                rows=directory.rows,
                release=directory.release,
            )
            for (shard, directory), url in zip(directories.items(), made.urls, strict=True)
        ],
    )


def _directories(entry: CatalogueEntry) -> dict[str, Directory]:
    """Return what is loaded now, which may be newer than what the model was opened with."""
    try:
        directories = entry.reader.directories()
    except MissingTableError:
        raise unknown_model(entry.model) from None
    if any(directory.n_shards != entry.reader.n_shards for directory in directories.values()):
        raise TableError(f"{entry.model}: the table was made anew with other shards; open it again")
    return directories


def open_links(store_url: str) -> FileLinks:
    """Return what makes links to the files of the object store at a URL, `s3://bucket/prefix` or `file://…`.

    Raises UsageError for any other URL.
    """
    parts = urlsplit(store_url)
    if parts.scheme == "s3" and parts.netloc:
        return BucketLinks(parts.netloc, parts.path.strip("/"))
    if parts.scheme == "file":
        return FolderLinks(Path(store_url.removeprefix("file://")).expanduser().resolve())
    raise UsageError(f"PRECALC_STORE_URL={store_url!r} is not a store; write file:///folder or s3://bucket")


def file_name(shard: str) -> str:
    """Return the name of a shard's file in the folder of its model."""
    return f"shard={shard}.parquet"


def object_name(model: str, name: str) -> str:
    """Return the name in the store of a model's file, as `precalc_assets.storage` has it; that one carries Arrow.

    Raises UsageError for what is no model id.
    """
    return f"predictions/model={check_model_id(model)}/{name}"


class BucketLinks:
    """Links that S3 answers to whoever has them, signed with the credentials of boto3's standard chain."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def link(self, model: str, shards: Sequence[str]) -> Links:
        """Return presigned links. Raises UsageError for no model id, and when there are no credentials, or none now."""
        from botocore.exceptions import BotoCoreError

        client, credentials = self._signer
        now = datetime.now(UTC).replace(microsecond=0)
        try:
            life = min(LINK_LIFE, _life(credentials, now))
        except BotoCoreError as error:  # They could not be renewed.
            raise UsageError(f"there are no AWS credentials to sign links with: {error}") from error
        urls = [
            client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._bucket, "Key": self._prefix + object_name(model, file_name(shard))},
                ExpiresIn=int(life.total_seconds()),
            )
            for shard in shards
        ]
        return Links(urls, now + life)

    @cached_property
    def _signer(self) -> "tuple[S3Client, Credentials]":
        # A tenth of a second and some MB, which most Lambdas never need.
        from botocore.config import Config

        from precalc_assets.aws import open_session

        session = open_session()
        # Left to itself, botocore signs for the bucket's region, and names a host of us-east-1 that redirects there.
        hosts = not (_emulated() or "." in self._bucket)
        config = Config(signature_version="s3v4", s3={"addressing_style": "virtual" if hosts else "path"})
        credentials = session.get_credentials()
        if credentials is None:
            raise UsageError("there are no AWS credentials to sign links with")
        return session.client("s3", config=config), credentials


def _emulated() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _life(credentials: "Credentials", now: datetime) -> timedelta:
    """Return how long credentials live, at least a second; those that do not say, a Lambda's among them, for ever.

    A link ends with the credentials that signed it (Amazon S3 User Guide, "Sharing objects with presigned URLs").
    """
    credentials.get_frozen_credentials()  # Renews those that are about to end.
    end: datetime | None = getattr(credentials, "_expiry_time", None)
    return timedelta.max if end is None else max(timedelta(seconds=1), end - now)


class FolderLinks:
    """Links for a store in a folder: paths of the server that gave them, which asks `find` what they mean."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def link(self, model: str, shards: Sequence[str]) -> Links:
        """Return paths, which the server answers for as long as it runs. Raises UsageError for no model id."""
        return Links([f"/models/{check_model_id(model)}/files/{file_name(shard)}" for shard in shards], None)

    def find(self, path: str) -> Path | None:
        """Return the file that one of these paths means; None for any other path, and where there is no file."""
        match = _LOCAL.fullmatch(path)
        if match is None or not is_model_id(match[1]):
            return None
        file = self.root / object_name(match[1], match[2])
        return file if file.is_file() else None
