"""Hostile requests: each gets a 4xx in our form or the right answer, and the server keeps running.

They are sent to `precalc api` as bytes, since a client library would not send most of them.
"""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus

import psutil
import pytest
from made_up import MODEL
from schema_server import PARQUET, WIDE, Server, run_server
from serving import KEYS

from precalc_assets.api.limits import ALL_BODIES_BYTES, HEADER_SECONDS

pytestmark = pytest.mark.slow

KEY = KEYS[0]
PREDICTIONS = f"/models/{MODEL}/predictions"
FILE = f"/models/{MODEL}/files/shard=00.parquet"
ASKED = json.dumps({"inchikeys": [KEY]})
BY_PROTOCOL = b"Invalid HTTP request received."
"""What uvicorn answers to bytes that are no request of HTTP, which no code of ours gets to see."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("attacks")) as running:
        yield running


@pytest.fixture(autouse=True)
def _goes_on(server: Server) -> Iterator[None]:
    """Whatever was asked, the server answers others, and has printed no stack trace."""
    before = len(server.log.read_text())
    yield
    assert status(server.send(get("/health"))) == 200
    printed = server.log.read_text()[before:]
    assert "Traceback" not in printed
    assert "Exception" not in printed


def get(path: str | bytes, *headers: str, method: str = "GET") -> bytes:
    target = path if isinstance(path, bytes) else path.encode()
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    return b"\r\n".join([*lines, *(header.encode("latin-1") for header in headers), b"", b""])


def post(path: str, body: str | bytes, *headers: str, kind: str = "Content-Type: application/json") -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    return get(path, *filter(None, [kind]), f"Content-Length: {len(content)}", *headers, method="POST") + content


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def error(answer: bytes) -> tuple[int, str]:
    """Return the status and the code; the sentence has bounded length, and nothing that only we should see."""
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"content-type: application/json" in head, answer[:500]
    said = json.loads(body(answer))
    assert said.keys() == {"error"}
    assert said["error"].keys() == {"code", "message"}
    assert 0 < len(said["error"]["message"]) < 400
    for word in ("Traceback", "precalc_assets", "sqlite", ".py", "secret"):
        assert word not in said["error"]["message"]
    return status(answer), said["error"]["code"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        (ASKED[:-1], "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"inchikeys": ' + "[" * 100_000, "invalid_json"),
        ('{"a": ' * 50_000, "invalid_json"),
        ('{"inchikeys": ["\\ud800"]}', "invalid_json"),
        (b'{"inchikeys": ["\xff\xfe"]}', "invalid_json"),
        (ASKED.encode("utf-16"), "invalid_json"),
        (gzip.compress(ASKED.encode(), mtime=0), "invalid_json"),
        (gzip.compress(b" " * (1 << 27), mtime=0), "invalid_json"),
        ("9" * 5_000_000, "invalid_json"),
        ("null", "bad_request"),
        ("NaN", "bad_request"),
        ('["x"]', "bad_request"),
        ('{"inchikeys": null}', "bad_request"),
        ('{"inchikeys": "x"}', "bad_request"),
        ('{"inchikeys": [[]]}', "bad_request"),
        ('{"inchikeys": [1e999999999]}', "bad_request"),
        ('{"inchikeys": [], "more": 1}', "bad_request"),
        ('{"inchikeys": [], "%s": 1}' % ("k" * 1_000_000), "bad_request"),
        ('{"inchikeys": [], "__proto__": {}}', "bad_request"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_malformed_body_is_refused(server, content, code):
    assert error(server.send(post(PREDICTIONS, content))) == (400, code)
    zipped = post(PREDICTIONS, content, "Content-Encoding: gzip")
    assert error(server.send(zipped)) == (400, code)


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", "\xff"],
)
def test_body_of_another_media_type_is_refused(server, kind):
    answer = server.send(post(PREDICTIONS, ASKED, kind=f"Content-Type: {kind}"))
    assert error(answer) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("model", "largest"), [(MODEL, 1_000), (WIDE, 666)])
def test_largest_request_is_answered_and_not_one_molecule_more(server, model, largest):
    asked = [KEYS[at % len(KEYS)] for at in range(largest + 1)]
    full = server.send(post(f"/models/{model}/predictions", json.dumps({"inchikeys": asked[:largest]})))
    assert status(full) == 200
    assert json.loads(body(full))["inchikeys"] == asked[:largest]
    more = server.send(post(f"/models/{model}/predictions", json.dumps({"inchikeys": asked})))
    assert error(more) == (413, "too_many_inchikeys")
    assert f"{largest:,}" in body(more).decode()


def test_large_body_is_refused_after_it_was_sent(server):
    assert error(server.send(post(PREDICTIONS, b" " * (11 << 20)))) == (413, "body_too_large")
    head = get(PREDICTIONS, "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    chunks = b"".join(b"100000\r\n" + b" " * 0x100000 + b"\r\n" for _ in range(11)) + b"0\r\n\r\n"
    assert error(server.send(head + chunks)) == (413, "body_too_large")


@pytest.mark.parametrize("rest", ["", f"/predictions/{KEY}", "/files", "/files/shard=00.parquet", "/quarantine"])
@pytest.mark.parametrize(
    "model",
    [
        "..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "..%5c..",
        "%252e%252e",
        "eos3b5e%00",
        "eos3b5e%0d%0aX-Evil:%20y",
        "eos3b5e'--",
        "eos3b5e%20",
        "EOS3B5E",
        "eos9zzz",
        "library",
        "models",
        "%ff%fe",
        "{{7*7}}",
        "%3Cscript%3Ealert(1)",
        "a" * 20_000,
    ],
    ids=lambda text: text[:20],
)
def test_unknown_model_is_not_found_on_any_path(server, model, rest):
    answer = server.send(get(f"/models/{model}{rest}"))
    code, _ = error(answer)
    assert code == 404
    assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize(
    "model", ["%3Cscript%3Ealert(1)", "%3Cimg%20src=x%20onerror=alert(1)%3E", "%22onload=alert(1)", "{{7*7}}", "<img"]
)
def test_page_shows_an_unknown_model_as_text(server, model):
    for path in (f"/browse/{model}", f"/?q={model}"):
        answer = server.send(get(path))
        assert status(answer) in {200, 404}
        for run in (b"<script>alert", b"<img", b'"onload', b"49"):
            assert run not in body(answer)


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2f..%2fsecret.txt",
        "%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "../../../secret.txt",
        "shard=00.parquet/../../../../secret.txt",
        "shard=00.parquet%00",
        "shard=99.parquet",
        "shard=00.parquet%2f..%2f..%2f..%2fsecret.txt",
        "%252e%252e%252f%252e%252e%252fsecret.txt",
        "..%5c..%5csecret.txt",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "shard%3D00.parquet%0a",
    ],
)
def test_only_loaded_files_are_sent(server, path):
    answer = server.send(get(f"/models/{MODEL}/files/{path}"))
    assert error(answer)[0] == 404
    assert body(server.send(get(FILE))) == PARQUET


@pytest.mark.parametrize(
    ("asked", "content"),
    [
        ("bytes=0-3", b"PAR1"),
        ("bytes=-4", b"PAR1"),
        ("bytes=0-99999999999999999999", PARQUET),
        ("bytes=5-2", None),
        ("bytes=99999999-", None),
        ("bytes=-0", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("\xff", None),
        ("bytes=" + "9" * 5_000 + "-", None),
        ("bytes=" + ",".join(["0-"] * 1_000), None),
        ("bytes=" + ",".join(f"{at}-{at}" for at in range(0, 5_000, 2)), None),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_range_gives_a_part_the_file_or_an_error(server, asked, content):
    answer = server.send(get(FILE, f"Range: {asked}"))
    if status(answer) == HTTPStatus.PARTIAL_CONTENT:
        assert content is not None
        assert body(answer) == content
    elif status(answer) == HTTPStatus.OK:
        assert body(answer) == PARQUET
    else:
        assert error(answer)[0] in {400, 416}


@pytest.mark.parametrize(
    "query",
    [
        "include=smiles&include=smiles",
        "include=smiles&include=x",
        "include=",
        "include=%00",
        "include=%ff",
        "include[]=smiles",
        "%",
        "=&=",
        "a=1&" * 5_000,
        "a" * 50_000,
    ],
    ids=lambda text: text[:20],
)
def test_unknown_query_is_refused(server, query):
    assert error(server.send(get(f"{PREDICTIONS}/{KEY}?{query}"))) == (400, "bad_query")


@pytest.mark.parametrize(
    "models",
    ["", ",", "..", "%00", "library", "eos9zzz", ",".join(f"eos1{at:03}" for at in range(501)), "a" * 50_000],
    ids=len,
)
def test_malformed_models_are_refused(server, models):
    assert error(server.send(get(f"/molecules/{KEY}?models={models}")))[0] in {400, 404}


@pytest.mark.parametrize(
    "accept", ["*/*;q=0", "image/png", "application/json;q=2", ",", "," * 5_000, "text/csv;q=nan", "\xff", "q="]
)
def test_accept_header_without_a_known_type_is_refused(server, accept):
    assert error(server.send(post(PREDICTIONS, ASKED, f"Accept: {accept}"))) == (406, "not_acceptable")


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "CONNECT"])
@pytest.mark.parametrize("path", ["/models", PREDICTIONS, "/"])
def test_unknown_method_is_refused_and_echoes_nothing(server, method, path):
    answer = server.send(get(path, "X-Secret: 12345", method=method))
    assert error(answer) == (405, "method_not_allowed")
    assert b"12345" not in answer


def test_head_is_answered_without_a_body(server):
    for path in ("/models", f"/models/{MODEL}", FILE, "/"):
        answer = server.send(get(path, method="HEAD"))
        assert status(answer) == 200
        assert body(answer) == b""


def test_websocket_handshake_is_no_server_error(server):
    headers = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    request = get("/models", *headers).replace(b"Connection: close", b"Connection: Upgrade")
    assert status(server.send(request, timeout=2)) < 500


@pytest.mark.parametrize(
    "request_",
    [
        get("/models/\u00e9"),
        get(b"/models/\xff\xfe"),
        get(b"/models?include=\xff"),
        get("/models", method="get"),
        get("/models/eos3b5e now"),
        get(f"/models/{'a' * 300_000}"),
        get("/models", "X: a\x00b"),
        b"POST /inchikeys HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}    ",
        b"POST /inchikeys HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /inchikeys HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
        b"POST /inchikeys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        bytes(range(256)) * 10,
        bytes.fromhex("16030100a5010000a10303"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_bytes_that_are_not_http_are_refused(server, request_):
    answer = server.send(request_)
    assert status(answer) in {400, 404}
    assert answer.count(b"HTTP/1.1 ") == 1
    assert body(answer) == BY_PROTOCOL or error(answer)


def test_forwarded_headers_change_nothing(server):
    plain = body(server.send(get("/openapi.json")))
    evil = ("X-Forwarded-Host: evil.example", "X-Forwarded-Proto: javascript", "X-Forwarded-Prefix: //evil.example")
    assert body(server.send(get("/openapi.json", *evil))) == plain
    for header in ("X: " + "a" * 50_000, "X-Api-Key: '\"\\\xff", "Cookie: " + "a=b; " * 5_000, "If-None-Match: \xff,,"):
        assert status(server.send(get("/models", header))) in {200, 431}
    assert b"x-evil" not in server.send(get(f"/models/{MODEL}", "If-None-Match: a\r\nX-Evil: b")).lower()


def test_pipelined_requests_are_answered_in_order(server):
    first = get("/health").replace(b"Connection: close\r\n", b"")
    answer = server.send(first * 20 + get(f"/models/{MODEL}"))
    assert answer.count(b"HTTP/1.1 200 OK") == 21
    assert answer.count(b'{"status":"ok"}') == 20
    assert f'"model":"{MODEL}"'.encode() in answer.rpartition(b"\r\n\r\n")[2]


def test_clients_that_never_finish_delay_nobody(server):
    beginnings = [get("/health")[:-4], post(PREDICTIONS, " " * 1_000)[:-900]]
    slow = [socket.create_connection(server.address) for _ in range(400)]
    try:
        for at, connection in enumerate(slow):
            connection.sendall(beginnings[at % 2])
        started = time.monotonic()
        assert status(server.send(post(PREDICTIONS, ASKED))) == 200
        assert time.monotonic() - started < 5
    finally:
        for connection in slow:
            connection.close()


def test_half_open_connections_are_closed(server):
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(server.address, HEADER_SECONDS + 20)) for _ in range(400)]
        for at, connection in enumerate(slow):
            connection.sendall(get("/health")[:-4] if at % 2 else b"")
        started = time.monotonic()
        assert {connection.recv(1) for connection in slow} == {b""}
        assert time.monotonic() - started < HEADER_SECONDS + 10


def test_stalled_bodies_take_little_memory(server):
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    head = post(PREDICTIONS, "", f"Content-Length: {10**7}").replace(b"Content-Length: 0\r\n", b"")
    with ExitStack() as stack:
        for _ in range(60):
            slow = stack.enter_context(socket.create_connection(server.address, 20))
            slow.sendall(head + b" " * (9 << 20))
        assert process.memory_info().rss - before < 3 * ALL_BODIES_BYTES
        refused = server.send(post(PREDICTIONS, b" " * (9 << 20)))
        assert error(refused) == (503, "unavailable")
        assert b"retry-after: " in refused
        assert status(server.send(get(f"{PREDICTIONS}/{KEY}"))) == 200


def test_clients_that_leave_early_do_no_harm(server):
    for _ in range(50):
        with socket.create_connection(server.address) as connection:
            connection.sendall(get("/docs"))


@pytest.mark.parametrize(
    "smiles",
    [
        "C" * 100_000,
        "(" * 50_000,
        "C1CC" * 3_000,
        "[2H]" * 3_000,
        "C\u0000C",
        "",
        " ",
        "=cmd|' /C calc'!A0",
        "é",
        # RDKit drops what is not ASCII, and this would be ethanol.
        "CCOé",
        "CC(=O)[O\u2212]",
        # What it says of this one ends within a character.
        "[" + "C" * 29 + "é" * 40,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_text_that_is_no_molecule_has_a_reason(server, smiles):
    answer = server.send(post("/inchikeys", json.dumps({"smiles": ["CCO", smiles, "CCO"]})), timeout=60)
    assert status(answer) == 200
    said = json.loads(body(answer))
    assert said["inchikeys"] == ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N", None, "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"]
    assert [failed["index"] for failed in said["errors"]] == [1]


def test_slow_smiles_do_not_delay_predictions(server):
    tangle = json.dumps({"smiles": ["C1CC2" * 100 + "C12"] * 1_000})
    slow = [socket.create_connection(server.address) for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(post("/inchikeys", tangle))
        started = time.monotonic()
        assert status(server.send(post(PREDICTIONS, ASKED))) == 200
        assert time.monotonic() - started < 10
    finally:
        for connection in slow:
            connection.close()
