"""Reading through an API over HTTP: what it limits is kept to, and what passes is waited out."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast, get_args
from urllib.parse import urljoin

import httpx
from httpx_retries import Retry, RetryTransport

from precalc_assets.client.downloading import CutOffError, LinkExpiredError, Listing, ServedFile, Stream, checked_file
from precalc_assets.client.errors import ApiError, ChangedError, DownloadError
from precalc_assets.client.keys import KEY_VARIABLE, check_key, find_key, normal_url
from precalc_assets.client.source import Answer, ModelInfo, ModelSummary, changed
from precalc_assets.columns import Column, ColumnType
from precalc_assets.model_ids import check_model_id

_log = logging.getLogger(__name__)

MAX_MOLECULES = 1_000
MAX_VALUES = 200_000
"""What an API answers at a time, `precalc_assets.api.routes`; where it allows less, its refusal is heeded."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds without a byte. API Gateway gives up after 29 itself."""

_FIRST_TRIES = 3
"""Repetitions of the requests with which everything begins: whoever mistypes a URL is not to wait for minutes."""

_TOLD_AFTER = 4

_SHOWN = 100
"""Characters of where a redirection leads."""

_PASSING = (429, 502, 503, 504)
"""What a throttled, restarting or slow API answers, and API Gateway in front of it."""

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
        status_forcelist=_PASSING,
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
        found = self.get("/models")
        with self.expecting("a list of models"):
            return [
                ModelSummary(
                    model=str(entry["model"]),
                    title=entry["title"],
                    n_columns=entry["n_columns"],
                    molecules=entry["molecules"],
                    shards=entry["shards"],
                    n_shards=entry["n_shards"],
                    releases=None if entry["releases"] is None else tuple(entry["releases"]),
                    deterministic=entry["deterministic"],
                    updated=entry["updated"],
                )
                for entry in found["models"]
            ]

    def open(self, model: str) -> "RemoteModel":
        """See `Source.open`."""
        found = self.get(f"/models/{check_model_id(model)}")
        with self.expecting(f"a description of {model}"):
            info = ModelInfo(
                source=self.name,
                model=model,
                columns=tuple(map(_column, found["columns"])),
                releases=tuple(found["releases"]),
                library_digest=found["library_digest"],
                deterministic=found["deterministic"],
                varying=tuple(found["varying"] or ()),
                updated=found["updated"],
                molecules=found["molecules"],
            )
        return RemoteModel(info, self)

    def files(self, model: str) -> Listing:
        """See `FileSource.files`."""
        path = f"/models/{check_model_id(model)}/files"
        found = self.get(path)
        with self.expecting(f"a list of the files of {model}"):
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
                            bytes=int(entry["bytes"]),
                            sha256=str(entry["sha256"]),
                            rows=int(entry["rows"]),
                            release=str(entry["release"]),
                        )
                    )
                    for entry in found["files"]
                ),
            )

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
        if response.has_redirect_location:
            # Not followed: the key would go to whoever the answer names.
            to = response.headers["location"][:_SHOWN]
            return ApiError(
                f"{self.name} answers with {said} to {to!r}; is it the URL of a precalc API?", status=status
            )
        way = "; wait, then run the same command again: it goes on" if status in _PASSING and not code else ""
        return ApiError(f"{self.name}: {said}{way}", status=status, code=code)

    def strange(self, what: str) -> ApiError:
        """Return the error for an answer that no API of ours gives."""
        return ApiError(f"{self.name} answers with {what}; is it the URL of a precalc API?")

    @contextmanager
    def expecting(self, what: str) -> Iterator[None]:
        """Raise ApiError where an answer is of another form: that of something else, or of another version."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            form = f"without {error}" if isinstance(error, KeyError) else "in a form that this version does not know"
            raise self.strange(f"{what} {form}") from None


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
        n = len(inchikeys)
        with self._api.expecting("predictions"):
            self._check(found)
            rows = [None if row is None else tuple(row) for row in self._list(found, "predictions", n)]
            if any(row is not None and len(row) != len(self.info.columns) for row in rows):
                raise self._api.strange("a row with more or fewer values than columns")
            return Answer(rows, self._list(found, "smiles", n) if smiles else None)

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        return self.read(inchikeys, smiles=True).smiles or []

    def _read_halves(self, inchikeys: Sequence[str], *, smiles: bool) -> Answer:
        """Ask for less at a time, as an API does whose answers may be smaller than we think."""
        middle = len(inchikeys) // 2
        first, second = (self.read(half, smiles=smiles) for half in (inchikeys[:middle], inchikeys[middle:]))
        both = [*(first.smiles or []), *(second.smiles or [])] if smiles else None
        return Answer([*first.rows, *second.rows], both)

    def _check(self, found: dict[str, Any]) -> None:
        """Raise ChangedError unless an answer is about the model that was opened."""
        info = self.info
        releases, digest = found["releases"], found["library_digest"]
        same_columns = [(c["name"], c["type"]) for c in found["columns"]] == [(c.name, c.type) for c in info.columns]
        if not set(releases) <= set(info.releases) or digest != info.library_digest or not same_columns:
            what = "" if same_columns else ", with other columns"
            now = f"{' and '.join(releases) or 'no release'}, library {digest or 'incomplete'}{what}"
            raise ChangedError(changed(info, now))

    def _list(self, found: dict[str, Any], name: str, n: int) -> list[Any]:
        values: list[Any] = found[name]
        if len(values) != n:
            raise self._api.strange(f"{len(values):,} {name} for {n:,} molecules")
        return values


def _column(described: dict[str, str]) -> Column:
    kind = described["type"]
    if kind not in get_args(ColumnType):
        raise ValueError(kind)
    return Column(described["name"], cast(ColumnType, kind), described["direction"], described["description"])


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
