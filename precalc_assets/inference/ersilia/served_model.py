"""Asking a served model: requests over a fresh connection each, and answers as the records that backends return.

Standard library only, and no proxies: a server is on this machine, whatever `http_proxy` says of other ones.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TextIO, cast
from urllib.parse import urlsplit

from precalc_assets.columns import Column
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.output import check_columns, echo_columns
from precalc_assets.platform_errors import ColumnsError
from precalc_assets.predictions import format_record, misshapen_record
from precalc_assets.processes import printable

_HEALTH_SECONDS = 10.0

_RUN = "/run?fetch_cache=false&save_cache=false"
"""Without the server's cache, which is there where a Redis is: it returns what it has before what it computes, and so
in another order than it was asked."""

_BREAKER_OPEN = 503

_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
"""Leaves numbers as they are printed. A number and a string of the same text become the same, as they are in CSV."""

_PIECE = 1 << 20
"""Characters of an answer that are read at a time."""

_SEPARATOR = re.compile(r"[\s,]*")


class BreakerOpenError(Exception):
    """The server answers nothing for a while because its last five answers were failures: nobody is to blame."""


def is_up(url: str) -> bool:
    """Return whether a server answers at all."""
    try:
        with _response(url, "GET", "/", None, _HEALTH_SECONDS) as response:
            return response.status < 500
    except (OSError, HTTPException):
        return False


def ask(url: str, model: str, columns: Sequence[Column], smiles: Sequence[str], timeout: float) -> list[bytes]:
    """Return a record for each molecule.

    Raises TimeoutError when the server is silent for so many seconds, BreakerOpenError as above, BatchError when it
    does not answer for all of the molecules, ColumnsError when it answers with other columns.
    """
    try:
        with _response(url, "POST", _RUN, json.dumps(list(smiles)).encode(), timeout) as response:
            if response.status == _BREAKER_OPEN:
                raise BreakerOpenError
            if response.status != 200:
                raise BatchError(f"the server answered {response.status}: {_reason(response.read())}")
            return _records(io.TextIOWrapper(response, "utf-8", newline=""), model, columns, smiles)
    except TimeoutError:
        raise
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise BatchError(f"the server has gone while it was asked: {type(error).__name__}") from None


@contextmanager
def _response(url: str, method: str, path: str, body: bytes | None, timeout: float) -> Iterator[HTTPResponse]:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        yield connection.getresponse()
    finally:
        connection.close()


def _reason(answer: bytes) -> str:
    """Return what a server says of its failure; ersilia's puts the message under "detail"."""
    try:
        said = json.loads(answer)["detail"]
    except (ValueError, TypeError, KeyError):
        said = answer.decode("utf-8", "replace")
    return printable(" ".join(str(said).split())) or "nothing else"


def _records(answer: TextIO, model: str, columns: Sequence[Column], smiles: Sequence[str]) -> list[bytes]:
    """Return a record for each row. One that is like no other, with fewer or more columns, is a misshapen record."""
    names = [column.declared for column in columns]
    echoes = echo_columns(columns)
    records: list[bytes] = []
    fault: ColumnsError | None = None
    answered: list[str] | None = None
    for row in _rows(answer):
        for name in echoes & row.keys():
            if len(records) < len(smiles) and row[name] != smiles[len(records)]:
                raise BatchError(f"the server answered for other molecules than it was given (column {name!r})")
        try:
            if list(row) != answered:
                check_columns(model, list(row), columns)
                answered = list(row)
        except ColumnsError as error:
            fault = fault or error
            missing = sum(name not in row for name in names)
            records.append(misshapen_record(len(names), -missing or 1))
        else:
            records.append(format_record(_cell(row[name]) for name in names))
    if fault and answered is None:
        raise fault
    if len(records) != len(smiles):
        raise BatchError(f"the server answered {len(records)} rows for {len(smiles)} molecules")
    return records


def _rows(answer: TextIO) -> Iterator[dict[str, object]]:
    """Parse a list of objects, one at a time and as they are read: a wide answer has a hundred megabytes."""
    held, place = answer.read(_PIECE).lstrip(), 1
    if not held.startswith("["):
        raise BatchError(f"the server's answer is no list of rows: {printable(held[:60])!r}")
    while True:
        place = cast("re.Match[str]", _SEPARATOR.match(held, place)).end()
        if held.startswith("]", place):
            return
        try:
            row, place = _DECODER.raw_decode(held, place)
        except ValueError:  # most likely it goes on in the next piece
            piece = answer.read(max(_PIECE, len(held) - place))
            if not piece:
                raise BatchError("the server's answer is no list of rows, or ends within one") from None
            held, place = held[place:] + piece, 0
        else:
            if not isinstance(row, dict):
                raise BatchError("the server's answer is no list of rows with names")
            yield row


def _cell(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
