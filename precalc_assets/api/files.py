"""Links to a model's Parquet files: presigned URLs for a bucket, paths of our own server for a folder.

Making a link needs no request to the object store: names, sizes and checksums are in the table's directories, and
signing is arithmetic. So a link may name a file that is gone by now. A reader chooses the model alone; the shards are
those that its table serves.
"""

import logging
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

from fastapi import FastAPI, Response
from pydantic import BaseModel

from precalc.identifiers import check_model_id, is_model_id
from precalc_assets.api.parameters import ModelId
from precalc_assets.api.problems import Problem, refusals, unavailable, unknown_model
from precalc_assets.api.served import ServedModels
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.platform_errors import MissingTableError, TableError, UsageError
from precalc_assets.tables import Directory

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from types_boto3_s3 import S3Client

LINK_LIFE = timedelta(hours=1)
"""How long a link works, unless the credentials that it is signed with end earlier."""

_log = logging.getLogger(__name__)

_LOCAL = re.compile(r"/models/([a-z0-9-]+)/files/(shard=[0-9]+\.parquet)")


class Links(NamedTuple):
    """URLs in the order of the shards, and the time at which they expire, None for never."""

    urls: list[str]
    expires_at: datetime | None


class FileLinks(Protocol):
    """Makes links to files of an object store."""

    def link(self, model: str, shards: Sequence[str]) -> Links:
        """Return a link to the predictions of each shard. Raises UsageError for a malformed model id."""


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
    """A model's files, by shard: the files that the predictions were loaded from.

    `url` may be relative to that of the request. `expires_at` is the time at which the links expire, ISO 8601 in UTC,
    null for never.
    """

    model: str
    releases: list[str]
    library_digest: str | None
    deterministic: bool | None
    expires_at: str | None
    files: list[FileAnswer]


def add_file_routes(app: FastAPI, models: ServedModels, links: FileLinks | None) -> None:
    """Add the route that lists the files of these models; without `links` it answers that there are none."""
    no_files = partial(Problem, HTTPStatus.NOT_FOUND, "no_files", "this API serves no files, only predictions")

    @app.get(
        "/models/{model}/files",
        summary="The files of a model",
        tags=["files"],
        responses=refusals(unknown_model("eos9zzz"), no_files(), unavailable()),
    )
    def list_files(response: Response, model: ModelId) -> FilesAnswer:
        """Return links to the Parquet files of a model, one for each shard, with sizes and checksums.

        The files hold `inchikey`, `smiles` and a column for each output. Request new links after `expires_at`.
        """
        entry = models.find(model)
        if entry is None:
            raise unknown_model(model)
        if links is None:
            raise no_files()
        # Whoever has a link can use it until it expires.
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
    """Return the directories of the loaded shards, which may be newer than the entry."""
    try:
        directories = entry.reader.directories()
    except MissingTableError:
        raise unknown_model(entry.model) from None
    if any(directory.n_shards != entry.reader.n_shards for directory in directories.values()):
        raise TableError(f"{entry.model}: the table was replaced by one with another number of shards; ask again")
    return directories


def open_links(store_url: str) -> FileLinks:
    """Return the links for the object store at a URL, `s3://bucket/prefix` or `file://…`.

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
    """Return the store's name of a model's file, the same as in `precalc_assets.storage`, which imports Arrow.

    Raises UsageError for a malformed model id.
    """
    return f"predictions/model={check_model_id(model)}/{name}"


class BucketLinks:
    """Presigned links to S3, signed with the credentials of boto3's standard chain."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def link(self, model: str, shards: Sequence[str]) -> Links:
        """Return presigned links. Raises UsageError for a malformed model id, and without valid credentials."""
        from botocore.exceptions import BotoCoreError

        client, credentials = self._signer
        now = datetime.now(UTC).replace(microsecond=0)
        try:
            life = min(LINK_LIFE, _life(credentials, now))
        except BotoCoreError as error:  # The credentials could not be renewed.
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
        # boto3 takes a tenth of a second and some MB, and most Lambdas sign no link.
        from botocore.config import Config

        from precalc_assets.aws import open_session

        session = open_session()
        # By default, botocore signs for the bucket's region but names a host of us-east-1, which redirects.
        hosts = not (_emulated() or "." in self._bucket)
        config = Config(signature_version="s3v4", s3={"addressing_style": "virtual" if hosts else "path"})
        credentials = session.get_credentials()
        if credentials is None:
            raise UsageError("there are no AWS credentials to sign links with")
        return session.client("s3", config=config), credentials


def _emulated() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _life(credentials: "Credentials", now: datetime) -> timedelta:
    """Return how long credentials are valid, at least a second; without an expiry, as in a Lambda, for ever.

    A link expires with the credentials that signed it (Amazon S3 User Guide, "Sharing objects with presigned URLs").
    """
    credentials.get_frozen_credentials()  # Renews credentials that are about to expire.
    end: datetime | None = getattr(credentials, "_expiry_time", None)
    return timedelta.max if end is None else max(timedelta(seconds=1), end - now)


class FolderLinks:
    """Links for a store in a folder: paths of our own server, which resolves them by `find`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def link(self, model: str, shards: Sequence[str]) -> Links:
        """Return paths that the running server answers. Raises UsageError for a malformed model id."""
        return Links([f"/models/{check_model_id(model)}/files/{file_name(shard)}" for shard in shards], None)

    def find(self, path: str) -> Path | None:
        """Return the file at one of these paths, None for any other path or a missing file."""
        match = _LOCAL.fullmatch(path)
        if match is None or not is_model_id(match[1]):
            return None
        file = self.root / object_name(match[1], match[2])
        return file if file.is_file() else None
