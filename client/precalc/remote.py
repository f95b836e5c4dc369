"""Reading from an API over HTTP: requests keep to its limits, and are repeated after a fault that passes."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from urllib.parse import urljoin

import httpx
from httpx_retries import Retry, RetryTransport

from precalc.api_keys import KEY_VARIABLE, check_key, find_key, normal_url
from precalc.downloading import checked_file
from precalc.errors import ApiError, ChangedError, DownloadError
from precalc.identifiers import check_model_id
from precalc.source import (
    Answer,
    Column,
    ColumnType,
    CutOffError,
    LinkExpiredError,
    Listing,
    ModelInfo,
    ModelSummary,
    ServedFile,
    Stream,
    changed,
    cite,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")

_log = logging.getLogger(__name__)

MAX_MOLECULES = 1_000
MAX_VALUES = 200_000
"""Limits of a request to our API. If another API allows less, its refusal (413) makes the requests smaller."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds without a byte. API Gateway gives up after 29 itself."""

_FIRST_TRIES = 3
"""Retries of the first requests: a mistyped URL should not take minutes to fail."""

_TOLD_AFTER = 4
"""Retries before a message says that the client waits."""

_SHOWN = 100
"""Characters of a redirection's target in a message."""

_PASSING = (429, 502, 503, 504)
"""Statuses of a throttled, restarting or slow API, or of API Gateway in front of it: retried."""

_QUOTA_WORDS = ("quota_exceeded", "LimitExceeded", "Limit Exceeded")
"""What tells an exhausted quota: our API's code, API Gateway's `x-amzn-ErrorType`, and API Gateway's message."""

_TOO_LARGE = 413
_FORBIDDEN = (401, 403)
_EXPIRED = (400, 401, 403)
"""Statuses of S3 for a link that has expired, or whose credentials have."""


class _Patience(Retry):
    """Logs once that it waits, when that takes longer than a person expects."""

    def sleep(self, response: httpx.Response | Exception) -> None:
        """See `Retry.sleep`."""
        if self.attempts_made == _TOLD_AFTER:
            said = response.status_code if isinstance(response, httpx.Response) else response or type(response).__name__
            _log.info("the API does not answer as expected (%s); retrying for some minutes", said)
        super().sleep(response)


def retries() -> Retry:
    """Return the retry policy. Our requests only read, so POST is retried too.

    The wait doubles each time, or is what `Retry-After` says, up to five minutes in all: the API's throttling passes in
    seconds, and a router takes two minutes to restart.
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
        # So that a body that breaks off in the middle is retried too.
        validate_response=_read_body,
    )


def _read_body(response: httpx.Response) -> None:
    response.read()


class _QuotaTransport(httpx.BaseTransport):
    """Refuses to retry when the key's quota is exhausted: throttling has the same status, but passes in seconds."""

    def __init__(self, inner: httpx.BaseTransport, api: str) -> None:
        self._inner = inner
        self._api = api

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response. Raises ApiError if the quota is exhausted."""
        response = self._inner.handle_request(request)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            response.read()
            code, message = _problem(response)
            said = f"{code} {message} {response.headers.get('x-amzn-errortype', '')}"
            if any(word in said for word in _QUOTA_WORDS):
                raise ApiError(
                    f"{self._api}: {message or 'the quota of the key is exhausted'}; when the quota is renewed, run "
                    "the same command to continue",
                    status=HTTPStatus.TOO_MANY_REQUESTS,
                    code=_QUOTA_WORDS[0],
                )
        return response

    def close(self) -> None:
        """See `BaseTransport.close`."""
        self._inner.close()


class RemoteSource:
    """An API. `transport` replaces the network in tests."""

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
        # A file is too large to be read into memory for validation; its length and checksum are checked instead.
        self._quick = retry.copy_with(total=min(_FIRST_TRIES, retry.total))
        self._streaming = retry.copy_with(validate_response=None, total=4)
        repeating = RetryTransport(_QuotaTransport(transport or httpx.HTTPTransport(), self.name), retry)
        key_header = {"x-api-key": key} if key else {}
        self._client = httpx.Client(
            headers={"accept": "application/json", **key_header}, timeout=_TIMEOUT, transport=repeating
        )
        self._files = httpx.Client(timeout=_TIMEOUT, transport=repeating)

    def models(self) -> list[ModelSummary]:
        """See `Source.models`."""
        found = self.get("/models")
        with self.expecting("a list of models"):
            return [_record(ModelSummary, entry, model=str(entry["model"])) for entry in found["models"]]

    def open(self, model: str) -> "RemoteModel":
        """See `Source.open`."""
        found = self.get(f"/models/{check_model_id(model)}")
        with self.expecting(f"a description of {model}"):
            info = _record(
                ModelInfo,
                found,
                source=self.name,
                columns=tuple(map(_column, found["columns"])),
                varying=tuple(found["varying"] or ()),
                shards=len(found["shards"]),
            )
        return RemoteModel(info, self)

    def files(self, model: str) -> Listing:
        """See `Source.files`."""
        path = f"/models/{check_model_id(model)}/files"
        found = self.get(path)
        with self.expecting(f"a list of the files of {model}"):
            return Listing(
                source=self.name,
                model=model,
                releases=tuple(found["releases"]),
                library_digest=found["library_digest"],
                files=tuple(self._file(model, path, entry) for entry in found["files"]),
            )

    def _file(self, model: str, path: str, entry: Mapping[str, Any]) -> ServedFile:
        url, numbers = urljoin(self.name + path, entry["url"]), {name: int(entry[name]) for name in ("bytes", "rows")}
        return checked_file(_record(ServedFile, entry, model=model, url=url, **numbers))

    @contextmanager
    def open_file(self, file: ServedFile, start: int) -> Iterator[Stream]:
        """See `Source.open_file`."""
        # A link carries its own permission; the key goes to the API alone.
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
        """Return the JSON of a route. Raises what `send` does."""
        return self.send("GET", path, retry=self._quick)

    def send(self, method: str, path: str, body: object = None, retry: Retry | None = None) -> dict[str, Any]:
        """Return the JSON answer to a request. Raises ApiError for a refusal, and for any other answer."""
        try:
            extensions = {"retry": retry} if retry else None
            response = self._client.request(method, self.name + path, json=body, extensions=extensions)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ApiError(f"{self.name} does not answer: {reason}; check the URL, or try later") from error
        if not response.is_success:
            raise self._refusal(response)
        try:
            found = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = None
        if not isinstance(found, dict):
            raise self.unexpected("something other than JSON")
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
            # Not followed: the key would go to whatever host the answer names.
            to = response.headers["location"][:_SHOWN]
            return ApiError(
                f"{self.name} answers with {said} to {to!r}; is it the URL of a precalc API?", status=status
            )
        way = "; wait, then run the same command to continue" if status in _PASSING and not code else ""
        return ApiError(f"{self.name}: {said}{way}", status=status, code=code)

    def unexpected(self, what: str) -> ApiError:
        """Return the error for an answer that our API never gives."""
        return ApiError(f"{self.name} answers with {what}; is it the URL of a precalc API?")

    @contextmanager
    def expecting(self, what: str) -> Iterator[None]:
        """Raise ApiError if an answer has another form: it comes from something else, or from another version."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            form = f"without {error}" if isinstance(error, KeyError) else "in a form that this client does not know"
            raise self.unexpected(f"{what} {form}") from None


def _start(response: httpx.Response, file: ServedFile, wanted: int) -> int:
    """Return where in the file an answer begins. Raises what `Source.open_file` does if it has no bytes of the file."""
    status = response.status_code
    if status == HTTPStatus.OK:
        return 0
    if status == HTTPStatus.PARTIAL_CONTENT:
        begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if begins and int(begins[1]) == wanted:
            return wanted
        raise CutOffError("the answer is another part of the file than requested")
    if status in _EXPIRED:
        raise LinkExpiredError
    if status == HTTPStatus.NOT_FOUND:
        raise DownloadError(f"{file.name} is no longer in the store; ask those who serve it to load it again")
    raise CutOffError(f"the answer is {status} {response.reason_phrase}")


class RemoteModel:
    """A model of an API. Answers of other releases or of another library are refused."""

    parallel = 4
    """Enough to hide the network's latency; API Gateway's usage plan allows little more at a time."""

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
                raise self._api.unexpected("a row with more or fewer values than columns")
            return Answer(rows, self._list(found, "smiles", n) if smiles else None)

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        return self.read(inchikeys, smiles=True).smiles or []

    def _read_halves(self, inchikeys: Sequence[str], *, smiles: bool) -> Answer:
        """Make two smaller requests, for an API that allows less than ours."""
        middle = len(inchikeys) // 2
        first, second = (self.read(half, smiles=smiles) for half in (inchikeys[:middle], inchikeys[middle:]))
        both = [*(first.smiles or []), *(second.smiles or [])] if smiles else None
        return Answer([*first.rows, *second.rows], both)

    def _check(self, found: dict[str, Any]) -> None:
        """Raise ChangedError unless an answer is of the model's state when it was opened."""
        info = self.info
        releases, digest = found["releases"], found["library_digest"]
        same_columns = [(c["name"], c["type"]) for c in found["columns"]] == [(c.name, c.type) for c in info.columns]
        if not set(releases) <= set(info.releases) or digest != info.library_digest or not same_columns:
            what = "" if same_columns else ", with other columns"
            raise ChangedError(changed(info, cite(info.model, releases, digest) + what))

    def _list(self, found: dict[str, Any], name: str, n: int) -> list[Any]:
        values: list[Any] = found[name]
        if len(values) != n:
            raise self._api.unexpected(f"{len(values):,} {name} for {n:,} molecules")
        return values


def _record(kind: type[_Record], found: Mapping[str, Any], **given: object) -> _Record:
    """Return a record of fields of a JSON object, but for those that are given. Raises KeyError if one is missing."""
    names = [field.name for field in fields(kind) if field.name not in given]
    values = {name: tuple(found[name]) if isinstance(found[name], list) else found[name] for name in names}
    return kind(**values, **given)


def _column(found: Mapping[str, Any]) -> Column:
    if found["type"] not in get_args(ColumnType):
        raise ValueError(found["type"])
    return _record(Column, found)


def _problem(response: httpx.Response) -> tuple[str, str]:
    """Return the code and the message of a refusal by our API, or by API Gateway in front of it."""
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return "", ""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        return str(error.get("code", "")), " ".join(str(error.get("message", "")).split())
    return "", " ".join(str(found.get("message", "")).split()) if isinstance(found, dict) else ""
