"""Links to a model's Parquet files and quarantine lists: presigned URLs for a bucket, our own paths for a folder.

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
from precalc_assets.api.answers import ModelId
from precalc_assets.api.problems import Problem, refusals, unavailable, unknown_model
from precalc_assets.api.served import ServedModels
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.platform_errors import MissingTableError, TableError, UsageError
from precalc_assets.store_urls import check_store_url
from precalc_assets.tables import Directory

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from types_boto3_s3 import S3Client

LINK_LIFE = timedelta(hours=1)
"""How long a link works, unless the credentials that it is signed with end earlier."""

Directories = dict[str, Directory]

_log = logging.getLogger(__name__)

_LOCAL = re.compile(r"/models/([a-z0-9-]+)/([a-z]+)/shard=([0-9]+)\.([a-z]+)")


class Kind(NamedTuple):
    """A kind of files: the last word of its route, its folder in the store, and how the files' names end."""

    route: str
    folder: str
    suffix: str

    def name(self, shard: str) -> str:
        """Return the name of a shard's file in the folder of its model."""
        return f"shard={shard}.{self.suffix}"

    def object_name(self, model: str, shard: str) -> str:
        """Return the store's name of a model's file, the same as in `precalc_assets.storage`, which imports Arrow.

        Raises UsageError for a malformed model id.
        """
        return f"{self.folder}/model={check_model_id(model)}/{self.name(shard)}"


FILES = Kind("files", "predictions", "parquet")
QUARANTINE = Kind("quarantine", "quarantine", "csv")


class Links(NamedTuple):
    """URLs in the order of the shards, and the time at which they expire, None for never."""

    urls: list[str]
    expires_at: datetime | None


class FileLinks(Protocol):
    """Makes links to files of an object store."""

    def link(self, model: str, shards: Sequence[str], kind: Kind = FILES) -> Links:
        """Return a link to the file of each shard. Raises UsageError for a malformed model id."""


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


class QuarantineList(BaseModel):
    """A list of the molecules of a shard that the model could not answer."""

    shard: str
    url: str


class QuarantineAnswer(BaseModel):
    """A model's quarantine lists, by shard, empty ones too; `url` and `expires_at` are as in a `FilesAnswer`."""

    model: str
    expires_at: str | None
    lists: list[QuarantineList]


def add_file_routes(app: FastAPI, models: ServedModels, links: FileLinks | None) -> None:
    """Add the routes that list the files of these models; without `links` they answer that there are none."""
    no_files = partial(Problem, HTTPStatus.NOT_FOUND, "no_files", "this API serves no files, only predictions")
    responses = refusals(unknown_model("eos9zzz"), no_files(), unavailable())

    def find(model: str, kind: Kind, response: Response) -> tuple[CatalogueEntry, Directories, Links]:
        entry = models.find(model)
        if entry is None:
            raise unknown_model(model)
        if links is None:
            raise no_files()
        # Whoever has a link can use it until it expires.
        response.headers["Cache-Control"] = "no-store"
        directories = _read_directories(entry)
        try:
            return entry, directories, links.link(model, list(directories), kind)
        except UsageError as error:
            _log.error("%s", error)
            message = "links to files cannot be made at the moment; try again later"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message) from None

    @app.get("/models/{model}/files", summary="The files of a model", tags=["files"], responses=responses)
    def list_files(response: Response, model: ModelId) -> FilesAnswer:
        """Return links to the Parquet files of a model, one for each shard, with sizes and checksums.

        The files hold `inchikey`, `smiles` and a column for each output. Request new links after `expires_at`.
        """
        return _list_files(*find(model, FILES, response))

    @app.get("/models/{model}/quarantine", summary="Why a model failed", tags=["files"], responses=responses)
    def list_quarantine(response: Response, model: ModelId) -> QuarantineAnswer:
        """Return links to lists of the molecules that the model could not answer, whose status is `model_failed`.

        There is a list for each shard: CSV with `inchikey`, `input` and the model's `reason`.
        """
        _, directories, made = find(model, QUARANTINE, response)
        lists = [QuarantineList(shard=shard, url=url) for shard, url in zip(directories, made.urls, strict=True)]
        return QuarantineAnswer(model=model, expires_at=_expiry(made), lists=lists)


def _read_directories(entry: CatalogueEntry) -> Directories:
    """Return the directories of the loaded shards, which may be newer than the entry."""
    try:
        directories = entry.reader.directories()
    except MissingTableError:
        raise unknown_model(entry.model) from None
    if any(directory.n_shards != entry.reader.n_shards for directory in directories.values()):
        raise TableError(f"{entry.model}: the table was replaced by one with another number of shards; ask again")
    return directories


def _list_files(entry: CatalogueEntry, directories: Directories, made: Links) -> FilesAnswer:
    return FilesAnswer(
        model=entry.model,
        releases=sorted({directory.release for directory in directories.values()}),
        library_digest=entry.library_digest_with(directories),
        deterministic=entry.deterministic,
        expires_at=_expiry(made),
        files=[
            FileAnswer(
                shard=shard,
                name=FILES.name(shard),
                url=url,
                bytes=directory.file_bytes,
                sha256=directory.file_sha256,
                rows=directory.rows,
                release=directory.release,
            )
            for (shard, directory), url in zip(directories.items(), made.urls, strict=True)
        ],
    )


def _expiry(made: Links) -> str | None:
    return None if made.expires_at is None else made.expires_at.isoformat()


def open_links(store_url: str) -> FileLinks:
    """Return the links for the store at `s3://bucket/prefix` or `file://…`. Raises UsageError for any other URL."""
    parts = urlsplit(check_store_url(store_url))
    if parts.scheme == "s3":
        return BucketLinks(parts.netloc, parts.path.strip("/"))
    return FolderLinks(Path(store_url.removeprefix("file://")).expanduser().resolve())


class BucketLinks:
    """Presigned links to S3, signed with the credentials of boto3's standard chain."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def link(self, model: str, shards: Sequence[str], kind: Kind = FILES) -> Links:
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
                Params={"Bucket": self._bucket, "Key": self._prefix + kind.object_name(model, shard)},
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
        emulated = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        hosts = not emulated and "." not in self._bucket
        config = Config(signature_version="s3v4", s3={"addressing_style": "virtual" if hosts else "path"})
        credentials = session.get_credentials()
        if credentials is None:
            raise UsageError("there are no AWS credentials to sign links with")
        return session.client("s3", config=config), credentials


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

    def link(self, model: str, shards: Sequence[str], kind: Kind = FILES) -> Links:
        """Return paths that the running server answers. Raises UsageError for a malformed model id."""
        folder = f"/models/{check_model_id(model)}/{kind.route}"
        return Links([f"{folder}/{kind.name(shard)}" for shard in shards], None)

    def find(self, path: str) -> Path | None:
        """Return the file at one of these paths, None for any other path or a missing file."""
        match = _LOCAL.fullmatch(path)
        kind = next((each for each in (FILES, QUARANTINE) if match and match.group(2, 4) == each[::2]), None)
        if match is None or kind is None or not is_model_id(match[1]):
            return None
        file = self.root / kind.object_name(match[1], match[3])
        return file if file.is_file() else None
