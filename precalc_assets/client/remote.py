"""Reading through an API over HTTP: what it limits is kept to, and what passes is waited out."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

import httpx
from httpx_retries import Retry, RetryTransport

from precalc_assets.client.downloading import CutOffError, LinkExpiredError, Listing, ServedFile, Stream, checked_file
from precalc_assets.client.errors import ApiError, ChangedError, DownloadError
from precalc_assets.client.keys import KEY_VARIABLE, check_key, find_key, normal_url
from precalc_assets.client.source import Answer, ModelInfo, ModelSummary, changed
from precalc_assets.columns import Column
from precalc_assets.model_ids import check_model_id
from precalc_assets.tables.reader import Row

_log = logging.getLogger(__name__)

MAX_MOLECULES = 1_000
MAX_VALUES = 200_000
"""What an API answers at a time, `precalc_assets.api.routes`; where it allows less, its refusal is heeded."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds without a byte. API Gateway gives up after 29 itself."""

_FIRST_TRIES = 3
"""Repetitions of the requests with which everything begins: whoever mistypes a URL is not to wait for minutes."""

_TOLD_AFTER = 4

_TOO_LARGE = 413
_FORBIDDEN = (401, 403)
_EXPIRED = (400, 401, 403)
"""What S3 answers to a link that has expired, or whose credentials have."""


class _Patience(Retry):
    """Says that it waits, once that takes longer than a person expects."""

    def sleep(self, response: httpx.Response | Exception) -> None:
        """See `Retry.sleep`."""
        if self.attempts_made == _TOLD_AFTER:
            said = response.status_code if isinstance(response, httpx.Response) else response or type(response).__name__
            _log.info("the API does not answer as it should (%s); trying again for a while", said)
        super().sleep(response)


def retries() -> Retry:
    """Return how requests are repeated: all of ours only read, so POST is repeated too.

    Twice as long is waited each time, or as long as the API says: in all up to five minutes, since the API's
    throttling passes in seconds and a router that starts again takes two.
    """
    return _Patience(
        total=10,
        allowed_methods=("GET", "POST"),
        status_forcelist=(429, 502, 503, 504),
        retry_on_exceptions=(
            httpx.TimeoutException,
            httpx.NetworkError,
            httpx.RemoteProtocolError,
            httpx.DecodingError,
        ),
        backoff_factor=0.5,
        max_backoff_wait=60.0,
        total_timeout=300.0,
        # What breaks off in the middle of a body is repeated too.
        validate_response=_read_body,
    )


def _read_body(response: httpx.Response) -> None:
    response.read()


class RemoteSource:
    """An API. `transport` takes the place of the network in tests."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.name = normal_url(url)
        key = check_key(self.name, key) if key else find_key(self.name)
        self._has_key = key is not None
        retry = retry or retries()
        # A file is not read into memory to see that it is whole; its length and checksum tell.
        self._quick = retry.copy_with(total=min(_FIRST_TRIES, retry.total))
        self._streaming = retry.copy_with(validate_response=None, total=4)
        repeating = RetryTransport(transport or httpx.HTTPTransport(), retry)
        key_header = {"x-api-key": key} if key else {}
        self._client = httpx.Client(
            headers={"accept": "application/json", **key_header}, timeout=_TIMEOUT, transport=repeating
        )
        self._files = httpx.Client(timeout=_TIMEOUT, transport=repeating)

    def models(self) -> list[ModelSummary]:
        """See `Source.models`."""
        listed = _list(self.get("/models"), "models")
        return [
            ModelSummary(
                model=str(entry["model"]),
                title=entry.get("title"),
                n_columns=entry.get("n_columns"),
                molecules=entry.get("molecules"),
                shards=entry.get("shards"),
                n_shards=entry.get("n_shards"),
                releases=None if entry.get("releases") is None else tuple(entry["releases"]),
                deterministic=entry.get("deterministic"),
                updated=entry.get("updated"),
            )
            for entry in listed
        ]

    def open(self, model: str) -> "RemoteModel":
        """See `Source.open`."""
        found = self.get(f"/models/{check_model_id(model)}")
        try:
            info = ModelInfo(
                source=self.name,
                model=model,
                columns=tuple(
                    Column(c["name"], c["type"], c.get("direction", ""), c.get("description", ""))
                    for c in found["columns"]
                ),
                releases=tuple(found["releases"]),
                library_digest=found["library_digest"],
                deterministic=found["deterministic"],
                varying=tuple(found["varying"] or ()),
                updated=found["updated"],
                molecules=found["molecules"],
            )
        except (KeyError, TypeError) as error:
            raise self.strange(f"no {error} in its description of {model}") from None
        return RemoteModel(info, self)

    def files(self, model: str) -> Listing:
        """See `FileSource.files`."""
        path = f"/models/{check_model_id(model)}/files"
        found = self.get(path)
        try:
            return Listing(
                source=self.name,
                model=model,
                releases=tuple(found["releases"]),
                library_digest=found["library_digest"],
                files=tuple(
                    checked_file(
                        ServedFile(
                            model=model,
                            shard=str(entry["shard"]),
                            name=str(entry["name"]),
                            url=urljoin(self.name + path, str(entry["url"])),
                            bytes=entry["bytes"],
                            sha256=entry["sha256"],
                            rows=entry["rows"],
                            release=str(entry["release"]),
                        )
                    )
                    for entry in found["files"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise self.strange(f"no {error} in its list of files") from None

    @contextmanager
    def open_file(self, file: ServedFile, start: int) -> Iterator[Stream]:
        """See `FileSource.open_file`."""
        # A link carries its own permission; the key is for the API alone.
        is_ours = httpx.URL(file.url).netloc == httpx.URL(self.name).netloc
        client = self._client if is_ours else self._files
        headers = {"accept": "*/*", "accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
        try:
            with client.stream("GET", file.url, headers=headers, extensions={"retry": self._streaming}) as response:
                yield Stream(_start(response, file, start), response.iter_raw())
        except httpx.HTTPError as error:
            raise CutOffError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """See `Source.close`."""
        self._client.close()
        self._files.close()

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON of a route. Raises ApiError if there is none."""
        return self.send("GET", path, retry=self._quick)

    def send(self, method: str, path: str, body: object = None, retry: Retry | None = None) -> dict[str, Any]:
        """Return the JSON that a request is answered with. Raises ApiError for a refusal, and for anything else."""
        try:
            extensions = {"retry": retry} if retry else None
            response = self._client.request(method, self.name + path, json=body, extensions=extensions)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ApiError(f"{self.name} does not answer: {reason}; see that the URL is right, or try later") from error
        if not response.is_success:
            raise self._refusal(response)
        try:
            found = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = None
        if not isinstance(found, dict):
            raise self.strange("something other than JSON")
        return found

    def _refusal(self, response: httpx.Response) -> ApiError:
        status = response.status_code
        code, message = _problem(response)
        if status in _FORBIDDEN and code != "unknown_route":
            way = (
                "it does not take the key that it was given"
                if self._has_key
                else f"it wants a key: set {KEY_VARIABLE}, or run `precalc login {self.name}`"
            )
            return ApiError(f"{self.name} refuses: {message or status}; {way}", status=status, code=code)
        said = message or f"{status} {response.reason_phrase}"
        return ApiError(f"{self.name}: {said}", status=status, code=code)

    def strange(self, what: str) -> ApiError:
        """Return the error for an answer that no API of ours gives."""
        return ApiError(f"{self.name} answers with {what}; is it the URL of a precalc API?")


def _start(response: httpx.Response, file: ServedFile, wanted: int) -> int:
    """Return where in the file an answer begins. Raises what `FileSource.open_file` does if it has no bytes of it."""
    status = response.status_code
    if status == HTTPStatus.OK:
        return 0
    if status == HTTPStatus.PARTIAL_CONTENT:
        begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if begins and int(begins[1]) == wanted:
            return wanted
        raise CutOffError("it was answered with another part of the file than was asked for")
    if status in _EXPIRED:
        raise LinkExpiredError
    if status == HTTPStatus.NOT_FOUND:
        raise DownloadError(f"{file.name} is not in the store any more; ask those who serve it to load it again")
    raise CutOffError(f"it was answered with {status} {response.reason_phrase}")


class RemoteModel:
    """A model of an API, as long as its answers are of these releases and this library."""

    parallel = 4
    """Enough to hide the way there and back; API Gateway's usage plan allows little more at a time."""

    def __init__(self, info: ModelInfo, api: RemoteSource) -> None:
        self.info = info
        self.batch_size = max(1, min(MAX_MOLECULES, MAX_VALUES // max(1, len(info.columns))))
        self._api = api

    def read(self, inchikeys: Sequence[str], *, smiles: bool = False) -> Answer:
        """See `OpenModel.read`."""
        if not inchikeys:
            return Answer([], [] if smiles else None)
        path = f"/models/{self.info.model}/predictions" + ("?include=smiles" if smiles else "")
        try:
            found = self._api.send("POST", path, {"inchikeys": list(inchikeys)})
        except ApiError as error:
            if error.status != _TOO_LARGE or len(inchikeys) == 1:
                raise
            return self._read_halves(inchikeys, smiles=smiles)
        rows = self._rows(found, len(inchikeys))
        return Answer(rows, self._list(found, "smiles", len(inchikeys)) if smiles else None)

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        return self.read(inchikeys, smiles=True).smiles or []

    def _read_halves(self, inchikeys: Sequence[str], *, smiles: bool) -> Answer:
        """Ask for less at a time, as an API does whose answers may be smaller than we think."""
        middle = len(inchikeys) // 2
        first, second = (self.read(half, smiles=smiles) for half in (inchikeys[:middle], inchikeys[middle:]))
        both = [*(first.smiles or []), *(second.smiles or [])] if smiles else None
        return Answer([*first.rows, *second.rows], both)

    def _rows(self, found: dict[str, Any], n: int) -> list[Row | None]:
        """Return the rows of an answer, if it is one about the model that was opened."""
        info = self.info
        releases, digest = found.get("releases", []), found.get("library_digest")
        columns = [(c.get("name"), c.get("type")) for c in _list(found, "columns")]
        same_columns = columns == [(c.name, c.type) for c in info.columns]
        if not set(releases) <= set(info.releases) or digest != info.library_digest or not same_columns:
            what = "" if same_columns else ", with other columns"
            now = f"{' and '.join(releases) or 'no release'}, library {digest or 'incomplete'}{what}"
            raise ChangedError(changed(info, now))
        rows = self._list(found, "predictions", n)
        if any(row is not None and len(row) != len(info.columns) for row in rows):
            raise self._api.strange("a row with more or fewer values than columns")
        return [None if row is None else tuple(row) for row in rows]

    def _list(self, found: dict[str, Any], name: str, n: int) -> list[Any]:
        value = _list(found, name)
        if len(value) != n:
            raise self._api.strange(f"{len(value):,} {name} for {n:,} molecules")
        return value


def _problem(response: httpx.Response) -> tuple[str, str]:
    """Return the code and the message of a refusal: of our API, or of API Gateway in front of it."""
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return "", ""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        return str(error.get("code", "")), " ".join(str(error.get("message", "")).split())
    return "", " ".join(str(found.get("message", "")).split()) if isinstance(found, dict) else ""


def _list(found: dict[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    return value if isinstance(value, list) else []
