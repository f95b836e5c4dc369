"""Parsing a served model's answers."""

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

from precalc_assets.columns import Column, public_name
from precalc_assets.inference.ersilia import served_model as server
from precalc_assets.inference.ersilia.served_model import BreakerOpenError, ask, is_up
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.platform_errors import ColumnsError
from precalc_assets.predictions.cells import read_records

COLUMNS = (Column("score", "float", "", ""), Column("label", "string", "", ""))
Answering = Callable[[int, str], str]


def asked(url: str, smiles: tuple[str, ...] = ("C", "CC"), timeout: float = 10.0) -> list[bytes]:
    return ask(url, "eos9abc", COLUMNS, smiles, timeout)


def test_numbers_are_kept_as_they_are_printed(answering: Answering) -> None:
    text = '[{"score": 0.30000000000000004, "label": 1}, {"score": 1E-7, "label": 12345678901234567890}]'
    assert asked(answering(200, text)) == [b"0.30000000000000004,1", b"1E-7,12345678901234567890"]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("null", b""),
        ('""', b'""'),
        ('"a"', b"a"),
        ('"a,b"', b'"a,b"'),
        (r'"say \"a\"\n"', b'"say ""a""\n"'),
        ('"é"', "é".encode()),
        ("NaN", b"NaN"),
        ("-Infinity", b"-Infinity"),
        ("true", b"true"),
        ("[1, 2]", b'"[""1"", ""2""]"'),
    ],
)
def test_a_value_becomes_a_cell(answering: Answering, value: str, cell: bytes) -> None:
    assert asked(answering(200, f'[{{"score": 1, "label": {value}}}]'), ("C",)) == [b"1," + cell]


def test_values_are_taken_by_name(answering: Answering) -> None:
    url = answering(200, '\n[{"label":"a","key":"k","score":1,"input":"C"},{"score":2,"label":"b","input":"CC"}]\n')
    assert asked(url) == [b"1,a", b"2,b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"score":1,"label":"a"}]', "the server answered 1 rows for 2 molecules"),
        ('[{"score":1,"label":"a"},{"score":1,"label":"a"},{"score":1,"label":"a"}]', "answered 3 rows for 2"),
        ("[]", "answered 0 rows for 2"),
        ('[{"score":1,"label":"a","input":"CC"},{"score":1,"label":"a","input":"C"}]', "for other molecules"),
        ('[{"score":1,"label":"a"},{"sco', "not a list of rows"),
        ('[{"score":1,"label":"a"}', "not a list of rows"),
        ("[null]", "not a list of rows"),
        ('{"result": 1}', "not a list of rows"),
        ("", "not a list of rows"),
    ],
)
def test_an_answer_without_one_row_per_molecule_is_refused(answering: Answering, text: str, reason: str) -> None:
    with pytest.raises(BatchError, match=reason):
        asked(answering(200, text))


@pytest.mark.parametrize("text", ['[{"score":1}]', '[{"score":1,"label":"a","more":2}]'])
def test_undeclared_columns_are_the_model_s_fault(answering: Answering, text: str) -> None:
    with pytest.raises(ColumnsError):
        asked(answering(200, text), ("C",))


@pytest.mark.parametrize(
    ("row", "record"), [('{"score":1}', b""), ('{"score":2,"label":"b","more":3}', b",,"), ("{}", b"")], ids=str
)
@pytest.mark.parametrize("first", [True, False])
def test_a_row_of_other_columns_fails_alone(answering: Answering, row: str, record: bytes, *, first: bool) -> None:
    good = '{"score":1,"label":"a"}'
    records = asked(answering(200, f"[{row},{good}]" if first else f"[{good},{row}]"))
    assert records == ([record, b"1,a"] if first else [b"1,a", record])
    assert list(read_records(records, COLUMNS).misshapen) == [0 if first else 1]


def test_a_declared_input_column_is_an_output(answering: Answering) -> None:
    columns = tuple(Column(public_name(name), "string", "", "") for name in ("input", "key"))
    url = answering(200, '[{"key":"k","smiles":"C","input":"x"}]')
    assert ask(url, "eos9abc", columns, ["C"], 10.0) == [b"x,k"]
    with pytest.raises(BatchError, match="other molecules"):
        ask(url, "eos9abc", columns, ["N"], 10.0)


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (500, '{"detail": "cannot parse C1CC", "traceback": "…"}', "the server answered 500: cannot parse C1CC"),
        (500, "Internal\x1b[31m Server\nError", "the server answered 500: Internal .31m Server Error"),
        (500, "", "the server answered 500: nothing else"),
        (422, '{"detail": [{"msg": "too short"}]}', "422: .*too short"),
        (500, "x" * 1000, "x{300}$"),
        (0, "", "connection to the server failed"),
    ],
)
def test_a_failure_has_the_server_s_message(answering: Answering, status: int, text: str, reason: str) -> None:
    with pytest.raises(BatchError, match=reason):
        asked(answering(status, text))


def test_an_open_circuit_breaker_is_its_own_error(answering: Answering) -> None:
    with pytest.raises(BreakerOpenError):
        asked(answering(503, '{"detail": "temporarily unavailable"}'))


def test_a_server_that_is_gone_answers_no_batch() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert not is_up(url)
        with pytest.raises(BatchError, match="ConnectionRefusedError"):
            asked(url)


def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        asked(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)


def test_no_proxy_comes_between(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    url = answering(200, '[{"score":1,"label":"a"}]')
    assert is_up(url)
    assert asked(url, ("C",)) == [b"1,a"]


def test_rows_are_found_wherever_an_answer_is_cut(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    url = answering(200, '[ {"score": 1.25, "label": "ä, ]"},\n {"score": 2, "label": "{"} ] ')
    for size in range(1, 60):
        monkeypatch.setattr(server, "_PIECE", size)
        assert asked(url) == ['1.25,"ä, ]"'.encode(), b"2,{"]


def test_a_wide_answer_takes_little_more_memory_than_its_text(answering: Answering) -> None:
    columns = tuple(Column(f"column_{i:04d}", "float", "", "") for i in range(2_048))
    row = "{" + ",".join(f'"{column.name}":0.{i:017d}' for i, column in enumerate(columns)) + "}"
    text = f"[{','.join([row] * 100)}]"
    url = answering(200, text)
    tracemalloc.start()
    try:
        assert len(ask(url, "eos9abc", columns, ["C"] * 100, 30.0)) == 100
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text)  # the answering server's copy, records, and a piece
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    ['[{"score":' + "[" * 100_000, '[{"score":"' + "x" * (4 << 20), '{"score":1,"label":"a"},' * 3],
    ids=["deep", "an endless cell", "no list"],
)
def test_an_answer_without_bounds_is_refused(answering: Answering, text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BatchError, match="the server's answer is"):
            asked(answering(200, text))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_server_that_dribbles_is_cut_off_in_time() -> None:
    def dribble() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n[")
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=dribble, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            asked(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - started < 5
