"""Call a served model: each request uses a new connection, and answers are parsed into a backend's records.

This module uses only the standard library, and no proxy: the server is on this machine.
"""

import io
import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Timer
from typing import TextIO, cast
from urllib.parse import urlsplit

from precalc_assets.columns import Column
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.output import check_columns, echo_columns
from precalc_assets.platform_errors import ColumnsError
from precalc_assets.predictions.cells import format_record, misshapen_record
from precalc_assets.processes import printable

_HEALTH_SECONDS = 10.0

_RUN = "/run?fetch_cache=false&save_cache=false"
"""Disables the server's cache, which exists where Redis does: it returns cached rows before computed ones, and so in
another order than the input."""

_BREAKER_OPEN = 503

_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
"""Keeps numbers as text. A number and a string of the same text become equal, as in CSV."""

_PIECE = 1 << 20
"""Characters of an answer to read at a time."""

_MOST_CELL = 1 << 12
"""Characters of a cell on average, above which a row is no answer."""

_SEPARATOR = re.compile(r"[\s,]*")


class BreakerOpenError(Exception):
    """The server rejects requests for a while, since its last five answers were failures. No molecule is to blame."""


def is_up(url: str) -> bool:
    """Return whether a server answers at all."""
    try:
        with _response(url, "GET", "/", None, _HEALTH_SECONDS) as response:
            return response.status < 500
    except (OSError, HTTPException):
        return False


def ask(url: str, model: str, columns: Sequence[Column], smiles: Sequence[str], timeout: float) -> list[bytes]:
    """Return a record for each molecule.

    Raises TimeoutError if the answer is not complete after `timeout` seconds, BreakerOpenError while the server rejects
    requests, BatchError if it does not answer for all molecules, ColumnsError if it answers with other columns.
    """
    deadline = time.monotonic() + timeout
    try:
        with _response(url, "POST", _RUN, json.dumps(list(smiles)).encode(), timeout) as response:
            if response.status == _BREAKER_OPEN:
                raise BreakerOpenError
            if response.status != 200:
                raise BatchError(f"the server answered {response.status}: {_reason(response.read(_PIECE))}")
            return _records(io.TextIOWrapper(response, "utf-8", newline=""), model, columns, smiles)
    except TimeoutError:
        raise
    except (OSError, HTTPException, UnicodeDecodeError, BatchError) as error:
        if time.monotonic() >= deadline:
            raise TimeoutError from None
        if isinstance(error, BatchError):
            raise
        raise BatchError(f"the connection to the server failed: {type(error).__name__}") from None


@contextmanager
def _response(url: str, method: str, path: str, body: bytes | None, timeout: float) -> Iterator[HTTPResponse]:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=timeout)
    connection.connect()
    connected: socket.socket = connection.sock

    def cut() -> None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    # A connection's own timeout begins anew with every byte.
    clock = Timer(timeout, cut)
    clock.start()
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        yield connection.getresponse()
    finally:
        clock.cancel()
        connection.close()


def _reason(answer: bytes) -> str:
    """Return the message of a failure; ersilia's servers have it under "detail"."""
    try:
        said = json.loads(answer)["detail"]
    except (ValueError, TypeError, KeyError):
        said = answer.decode("utf-8", "replace")
    return printable(" ".join(str(said).split())) or "nothing else"


def _records(answer: TextIO, model: str, columns: Sequence[Column], smiles: Sequence[str]) -> list[bytes]:
    """Return a record for each row. A row with other columns becomes a misshapen record, unless all rows have them."""
    names = [column.declared for column in columns]
    echoes = echo_columns(columns)
    records: list[bytes] = []
    fault: ColumnsError | None = None
    answered: list[str] | None = None
    most = _PIECE + len(columns) * _MOST_CELL
    count = 0
    for count, row in enumerate(_rows(answer, most), 1):
        if count > len(smiles):
            continue
        for name in echoes & row.keys():
            if row[name] != smiles[len(records)]:
                raise BatchError(f"the server answered for other molecules than those sent (column {name!r})")
        try:
            if list(row) != answered:
                check_columns(model, list(row), columns)
                answered = list(row)
        except ColumnsError as error:
            fault = fault or error
            missing = sum(name not in row for name in names)
            records.append(misshapen_record(len(names), -missing or 1))
        else:
            cells = (row[name] for name in names)
            records.append(format_record(x if x is None or isinstance(x, str) else json.dumps(x) for x in cells))
    if fault and answered is None:
        raise fault
    if count != len(smiles):
        raise BatchError(f"the server answered {count} rows for {len(smiles)} molecules")
    return records


def _rows(answer: TextIO, most: int) -> Iterator[dict[str, object]]:
    """Parse a list of objects, of up to `most` characters each, while reading: a wide answer has a hundred MB."""
    held, place = answer.read(_PIECE).lstrip(), 1
    if not held.startswith("["):
        raise BatchError(f"the server's answer is not a list of rows: {printable(held[:60])!r}")
    while True:
        place = cast("re.Match[str]", _SEPARATOR.match(held, place)).end()
        if held.startswith("]", place):
            return
        try:
            row, place = _DECODER.raw_decode(held, place)
        except RecursionError:
            raise BatchError("the server's answer is nested too deeply") from None
        except ValueError:  # the row probably continues in the next piece
            piece = answer.read(max(_PIECE, len(held) - place)) if len(held) - place <= most else ""
            if not piece:
                raise BatchError("the server's answer is not a list of rows, or is cut off") from None
            held, place = held[place:] + piece, 0
        else:
            if not isinstance(row, dict):
                raise BatchError("the server's answer is not a list of rows with column names")
            yield row
