"""Reading from an API over HTTP: requests keep to its limits, and are repeated after a fault that passes."""

import json
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlencode, urljoin

import httpx
from httpx_retries import Retry, RetryTransport

from precalc.api_keys import KEY_VARIABLE, check_key, find_key, normal_url
from precalc.bounded_answers import BoundedTransport
from precalc.downloading import checked_file
from precalc.errors import ApiError, ChangedError, DownloadError, UsageError
from precalc.formats import Layout
from precalc.identifiers import check_model_id, join_names
from precalc.reasons import Reasons
from precalc.source import (
    Answer,
    Column,
    ColumnType,
    CutOffError,
    Distribution,
    Engine,
    LinkExpiredError,
    Listing,
    ModelInfo,
    ModelSummary,
    Question,
    ScreenAnswer,
    ScreenedColumn,
    ScreenedModel,
    ServedFile,
    Stream,
    changed,
    cite,
    reload,
)
from precalc.statuses import Status

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")

_log = logging.getLogger(__name__)

MAX_MOLECULES = 1_000
MAX_VALUES = 200_000
"""Limits of a request to our API. If another API allows less, its refusal (413) makes the requests smaller."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds without a byte. API Gateway gives up after 29 itself."""

_DISTRIBUTIONS = 100
"""Columns whose distributions are requested at a time; the API answers 200."""

_FIRST_TRIES = 3
"""Retries of the first requests: a mistyped URL should not take minutes to fail."""

_TOLD_AFTER = 4
"""Retries before a message says that the client waits."""

_SHOWN = 300
"""Characters of an API's message, or of a redirection's target, in ours."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How halves of a pair are written in JSON; one without the other is no text."""

_PASSING = (502, 503, 504)
"""Statuses of a restarting or slow API, or of API Gateway in front of it: retried."""

_QUOTA_WORDS = ("quota_exceeded", "LimitExceeded", "Limit Exceeded")
"""What tells an exhausted quota: our API's code, API Gateway's `x-amzn-ErrorType`, and API Gateway's message."""

_STATUSES = set(get_args(Status))

_MOST_OF_A_LIST = 100_000_000
"""Bytes of a quarantine list; one of ours has some 100 for a molecule."""

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
            httpx.DecodingError,  # also of a body that breaks off in the middle
        ),
        backoff_factor=0.5,
        max_backoff_wait=60.0,
        total_timeout=300.0,
    )


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
        retry = (retry or retries()).copy_with(validate_response=self._validate)
        # A file is too large to be read into memory for validation; its length and checksum are checked instead.
        self._quick = retry.copy_with(total=min(_FIRST_TRIES, retry.total))
        self._streaming = retry.copy_with(validate_response=None, total=4)
        transport = transport or httpx.HTTPTransport()
        self._key_header = {"x-api-key": key} if key else {}
        self._client = httpx.Client(
            headers={"accept": "application/json", **self._key_header},
            timeout=_TIMEOUT,
            transport=RetryTransport(BoundedTransport(transport), retry),
        )
        self._files = httpx.Client(timeout=_TIMEOUT, transport=RetryTransport(transport, self._streaming))

    def models(self) -> list[ModelSummary]:
        """See `Source.models`."""
        found = self.get("/models")
        with self.expecting("a list of models"):
            return [_record(ModelSummary, entry, model=str(entry["model"])) for entry in found["models"]]

    def open(self, model: str, columns: Sequence[str] | None = None) -> "RemoteModel":
        """See `Source.open`."""
        found = self.get(f"/models/{check_model_id(model)}")
        with self.expecting(f"a description of {model}"):
            info = _record(
                ModelInfo,
                found,
                source=self.name,
                columns=tuple(_record(Column, column) for column in found["columns"]),
                varying=tuple(found["varying"] or ()),
                shards=len(found["shards"]),
            )
        names = Layout(info.columns).names
        if len(set(names)) < len(names):
            raise self.unexpected(f"two columns of one name for {model}, or one of a name of ours")
        chosen = info if columns is None else info.with_columns(columns)
        return RemoteModel(chosen, self, all_columns=columns is None)

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

    def distributions(self, model: str, columns: Sequence[str]) -> dict[str, Distribution]:
        """See `Source.distributions`."""
        found: dict[str, Distribution] = {}
        for start in range(0, len(columns), _DISTRIBUTIONS):
            query = urlencode({"columns": join_names(columns[start : start + _DISTRIBUTIONS])})
            answer = self.get(f"/models/{check_model_id(model)}/distributions?{query}")
            with self.expecting(f"distributions of {model}"):
                found |= {each["column"]: _record(Distribution, each) for each in answer["distributions"]}
        return found

    def screen(self, question: Question, *, engine: Engine | None = None) -> ScreenAnswer:
        """See `Source.screen`. An API has one engine."""
        if engine:
            raise UsageError(f"{self.name} answers by its own engine; leave --engine out, or --api")
        try:
            found = self.send("POST", "/screens", question)
        except ApiError as error:
            if error.status == HTTPStatus.BAD_REQUEST:
                raise UsageError(str(error)) from None
            raise
        with self.expecting("the answer to a screen"):
            columns = tuple(_record(ScreenedColumn, column) for column in found["columns"])
            for column, values in zip(columns, zip(*found["rows"], strict=True), strict=False):
                _check_values(column.name, column.type, values)
            return _record(
                ScreenAnswer,
                found,
                models=tuple(_record(ScreenedModel, model) for model in found["models"]),
                columns=columns,
                rows=tuple(map(tuple, found["rows"])),
                distributions=tuple(_record(Distribution, each) for each in found["distributions"]),
            )

    def _file(self, model: str, path: str, entry: Mapping[str, Any]) -> ServedFile:
        return checked_file(_record(ServedFile, entry, model=model, url=urljoin(self.name + path, entry["url"])))

    def quarantine(self, model: str, shards: Collection[int]) -> dict[int, bytes]:
        """Return a model's quarantine lists of these shards, by their numbers."""
        path = f"/models/{check_model_id(model)}/quarantine"
        found = self.get(path)
        with self.expecting(f"the quarantine lists of {model}"):
            urls = {int(entry["shard"]): urljoin(self.name + path, entry["url"]) for entry in found["lists"]}
        return {shard: self._read_list(model, urls[shard]) for shard in shards if shard in urls}

    def _read_list(self, model: str, url: str) -> bytes:
        content = bytearray()
        file = ServedFile(model, "", "a quarantine list", url, 0, "", 0, "")
        try:
            with self.open_file(file, 0) as stream:
                for chunk in stream.chunks:
                    content += chunk
                    if len(content) > _MOST_OF_A_LIST:
                        raise self.unexpected(f"a quarantine list of {model} above {_MOST_OF_A_LIST:,} bytes")
        except (CutOffError, LinkExpiredError) as error:
            why = str(error) or "its link has expired"
            raise ApiError(f"a quarantine list of {model} cannot be read: {why}; try again") from None
        return bytes(content)

    @contextmanager
    def open_file(self, file: ServedFile, start: int) -> Iterator[Stream]:
        """See `Source.open_file`."""
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
        # A link carries its own permission; the key goes to the API alone.
        if httpx.URL(file.url).netloc == httpx.URL(self.name).netloc:
            headers |= self._key_header
        try:
            with self._files.stream("GET", file.url, headers=headers) as response:
                yield Stream(_start(response, file, start), response.iter_raw())
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
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
            reason = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
            raise ApiError(f"{self.name} does not answer: {reason}; check the URL, or try later") from error
        if not response.is_success:
            raise self._refusal(response)
        found = _json_object(response)
        if found is None:
            raise self.unexpected("something other than JSON")
        return found

    def _validate(self, response: httpx.Response) -> None:
        """Read an answer, so that one that breaks off in the middle is retried, and so is throttling.

        Raises ApiError if the key's quota is exhausted, which has the same status, but does not pass.
        """
        response.read()
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            code, message = _problem(response)
            said = f"{code} {message} {response.headers.get('x-amzn-errortype', '')}"
            if not any(word in said for word in _QUOTA_WORDS):
                raise httpx.NetworkError("the API wants fewer requests")
            raise ApiError(
                f"{self.name}: {message or 'the quota of the key is exhausted'}; when the quota is renewed, run "
                "the same command to continue",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code=_QUOTA_WORDS[0],
            )

    def _refusal(self, response: httpx.Response) -> ApiError:
        status = response.status_code
        code, message = _problem(response)
        if status in _FORBIDDEN and code != "unknown_route":
            way = (
                "it does not take the key that it was given"
                if self._key_header
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
        way = "; wait, then run the same command to continue" if status in (429, *_PASSING) and not code else ""
        return ApiError(f"{self.name}: {said}{way}", status=status, code=code)

    def unexpected(self, what: str) -> ApiError:
        """Return the error for an answer that our API never gives."""
        return ApiError(f"{self.name} answers with {what}; is it the URL of a precalc API?")

    @contextmanager
    def expecting(self, what: str) -> Iterator[None]:
        """Raise ApiError if an answer has another form: it comes from something else, or from another version."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            form = f"without {error}" if isinstance(error, KeyError) else "in a form that this client does not know"
            raise self.unexpected(f"{what} {form}") from None


def _start(response: httpx.Response, file: ServedFile, wanted: int) -> int:
    """Return where in the file an answer begins. Raises what `Source.open_file` does if it has no bytes of the file."""
    status = response.status_code
    if status == HTTPStatus.OK:
        return 0
    if status == HTTPStatus.PARTIAL_CONTENT:
        begins = re.match(r"bytes (\d{1,18})-", response.headers.get("content-range", ""))
        if begins and int(begins[1]) == wanted:
            return wanted
        raise CutOffError("the answer is another part of the file than requested")
    if status in _EXPIRED:
        raise LinkExpiredError
    if status == HTTPStatus.NOT_FOUND:
        raise DownloadError(f"{file.name} is no longer in the store; {reload(file.model)}")
    raise CutOffError(f"the answer is {status} {response.reason_phrase}")


class RemoteModel:
    """A model of an API. Answers of other releases or of another library are refused."""

    parallel = 4
    """Enough to hide the network's latency; API Gateway's usage plan allows little more at a time."""

    def __init__(self, info: ModelInfo, api: RemoteSource, *, all_columns: bool) -> None:
        self.info = info
        self._choice = {} if all_columns else {"columns": [column.name for column in info.columns]}
        self.batch_size = max(1, min(MAX_MOLECULES, MAX_VALUES // max(1, len(info.columns))))
        self._api = api
        self._reasons = Reasons(info.model, info.n_shards, partial(api.quarantine, info.model))

    def read(self, inchikeys: Sequence[str], *, smiles: Collection[str] = (), reasons: bool = False) -> Answer:
        """See `OpenModel.read`."""
        answer = self._read(inchikeys, smiles)
        return self._reasons.add_to(answer, inchikeys) if reasons else answer

    def _read(self, inchikeys: Sequence[str], smiles: Collection[str]) -> Answer:
        if not inchikeys:
            return Answer([], [], {})
        path = f"/models/{self.info.model}/predictions" + ("?include=smiles" if smiles else "")
        try:
            found = self._api.send("POST", path, {"inchikeys": list(inchikeys), **self._choice})
        except ApiError as error:
            if error.status != _TOO_LARGE or len(inchikeys) == 1:
                raise
            # An API that allows less than ours gets two smaller requests.
            middle = len(inchikeys) // 2
            first, second = (self._read(half, smiles) for half in (inchikeys[:middle], inchikeys[middle:]))
            return Answer(
                [*first.rows, *second.rows], [*first.statuses, *second.statuses], {**first.smiles, **second.smiles}
            )
        n = len(inchikeys)
        with self._api.expecting("predictions"):
            self._check(found)
            lists, columns = self._list(found, "predictions", n), self.info.columns
            if any(row is not None and (type(row) is not list or len(row) != len(columns)) for row in lists):
                raise self._api.unexpected("a row with more or fewer values than columns")
            for column, values in zip(columns, zip(*filter(None, lists), strict=True), strict=False):
                _check_values(column.name, column.type, values)
            statuses = self._list(found, "statuses", n)
            if not set(statuses) <= _STATUSES:
                raise self._api.unexpected("a status that this client does not know")
            texts = self._list(found, "smiles", n) if smiles else []
            _check_values("smiles", "string", texts)
            return Answer(lists, statuses, dict(zip(inchikeys, texts, strict=False)))

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """See `OpenModel.smiles`."""
        known = self.read(inchikeys, smiles=inchikeys).smiles
        return [known.get(inchikey) for inchikey in inchikeys]

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
    """Return a record of fields of a JSON object, but for those that are given.

    Raises KeyError if one is missing, ValueError if one is of another type.
    """
    names = [field.name for field in fields(kind) if field.name not in given]
    values = {name: tuple(found[name]) if isinstance(found[name], list) else found[name] for name in names}
    types = _types(kind)
    for name, value in (values | given).items():
        if not _is_of(value, types[name]):
            raise ValueError(name)
    return kind(**values, **given)


_types = cache(get_type_hints)


def _is_of(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type
    """Return whether a value is of a type that a record's field has."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return value in inner
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(each, inner[0]) for each in value)
    if inner:
        return any(_is_of(value, each) for each in inner)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


_JSON_TYPES: dict[ColumnType, set[type]] = {"float": {float}, "integer": {int}, "string": {str}}


def _check_values(name: str, kind: ColumnType, values: Sequence[Any]) -> None:
    """Raise ValueError unless values of JSON are null or of a column's type."""
    is_wrong = not set(map(type, values)) <= _JSON_TYPES[kind] | {type(None)}
    if is_wrong or (kind == "float" and (math.inf in values or -math.inf in values)):
        raise ValueError(name)
    if kind == "integer" and any(value is not None and not -(2**63) <= value < 2**63 for value in values):
        raise ValueError(name)


def _problem(response: httpx.Response) -> tuple[str, str]:
    """Return the code and the message of a refusal by our API, or by API Gateway in front of it."""
    found = _json_object(response) or {}
    error = found.get("error")
    said = error if isinstance(error, dict) else {"message": found.get("message", "")}
    code, message = (" ".join(str(said.get(name, "")).split()) for name in ("code", "message"))
    return code, message if len(message) <= _SHOWN else f"{message[:_SHOWN]}…"


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    """Return the JSON object that an answer is, or None: also for numbers and texts that no file can hold."""
    try:
        found = json.loads(response.content, parse_constant=_refuse_constant)
        if _SURROGATE.search(response.content):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
