"""Faults between the client and an API: retried where that helps, an error where it does not."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from made_up import MODEL
from served_model import KEYS, ROWS, URL, Faulty, cut, dropped, impatient, refused, remote

from precalc.errors import ApiError
from precalc.getting import Request, get_to_file, read_predictions
from precalc.molecules.molecule_input import read_list
from precalc.remote import RemoteSource, retries
from precalc_assets.platform_errors import UsageError

WAITS = "throttled for a second"
FAULTS = {
    "throttled": refused(429),
    WAITS: refused(429, Retry_After="1"),
    "a gateway without its server": refused(502),
    "starting again": refused(503),
    "too slow": refused(504),
    "no answer": dropped,
    "cut off": cut,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == WAITS else []) for name in FAULTS]
)
def test_passing_faults_are_retried_and_rows_arrive_once(tables, tmp_path, name: str) -> None:
    fault = FAULTS[name]
    whole, faulty = remote(tables), remote(tables, [fault, None, fault, fault, None, None, fault])
    started = time.monotonic()
    for source in (whole, faulty):
        model = source.open(MODEL)
        model.batch_size = 7
        get_to_file(Request(model, read_list(KEYS)), tmp_path / f"{id(source)}.csv")
    assert len(faulty.transport.requests) == len(whole.transport.requests) + 4
    assert (tmp_path / f"{id(faulty)}.csv").read_bytes() == (tmp_path / f"{id(whole)}.csv").read_bytes()
    # The API asks for a second of patience four times; some of these requests run side by side.
    assert name != WAITS or time.monotonic() - started > 2


def test_permanent_fault_ends_after_some_retries_with_one_line(tables) -> None:
    source = remote(tables, [dropped] * 50)
    with pytest.raises(ApiError, match=rf"^{URL} does not answer: Server disconnected.*; check the URL"):
        source.open(MODEL)
    assert len(source.transport.requests) == 4
    source = remote(tables, [None, *[refused(503)] * 50])
    model = source.open(MODEL)
    with pytest.raises(ApiError, match="503 Service Unavailable; wait, then run the same command to continue"):
        model.read(KEYS)
    assert len(source.transport.requests) == 1 + 11


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_refusal_is_not_repeated(tables, status: int) -> None:
    source = remote(tables, [refused(status)])
    with pytest.raises(ApiError) as error:
        source.open(MODEL)
    assert error.value.status == status
    assert len(source.transport.requests) == 1
    assert "\n" not in str(error.value)


def test_message_of_the_api_is_shown(tables) -> None:
    with pytest.raises(ApiError, match="no predictions of 'eos9zzz' are served") as error:
        remote(tables).open("eos9zzz")
    assert (error.value.status, error.value.code) == (404, "unknown_model")


ANSWERS = {
    "a page": b"<html>hello</html>",
    "a list": b"[]",
    "nothing": b"",
    "another object": b'{"hello": 1}',
    "columns of another form": b'{"columns": 3, "releases": [], "library_digest": null}',
    "models of another form": b'{"models": ["eos3b5e"], "files": 7}',
    "a column of a type to come": json.dumps(
        {"columns": [{"name": "x", "type": "complex"}], "releases": [], "library_digest": None}
        | {"deterministic": None, "varying": None, "updated": None, "molecules": 0}
    ).encode(),
}


@pytest.mark.parametrize("content", ANSWERS.values(), ids=ANSWERS)
def test_server_that_is_no_precalc_api_is_recognised(content: bytes) -> None:
    source = RemoteSource(URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, content=content)))
    for ask in (lambda: source.open(MODEL), source.models, lambda: source.files(MODEL)):
        with pytest.raises(ApiError, match="is it the URL of a precalc API") as error:
            ask()
        assert "\n" not in str(error.value)


def test_badly_compressed_answer_is_an_error_naming_the_api() -> None:
    def packed(_request):
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))

    with pytest.raises(ApiError, match=f"^{URL} does not answer: .*; check the URL"):
        RemoteSource(URL, transport=httpx.MockTransport(packed), retry=impatient()).open(MODEL)


@pytest.mark.parametrize("broken", [{"predictions": [[1.0, 2]]}, {"predictions": []}, {"predictions": None}], ids=str)
def test_answer_with_other_rows_than_requested_is_refused(tables, broken: dict[str, object]) -> None:
    def break_it(_request, answer):
        found = json.loads(httpx.Response(200, content=b"".join(answer().stream)).content)
        return httpx.Response(200, json=found | broken)

    source = remote(tables, [None, lambda request, answer: break_it(request, answer)])
    model = source.open(MODEL)
    with pytest.raises(ApiError, match="answers with"):
        model.read(KEYS[:1])


def test_the_key_goes_to_the_api_and_is_in_no_message(tables) -> None:
    source = remote(tables)
    source.close()
    seen = Faulty(httpx.MockTransport(lambda _: httpx.Response(403, json={"message": "Forbidden"})))
    source = RemoteSource(URL, "s3cret", transport=seen, retry=impatient())
    with pytest.raises(ApiError, match="Forbidden; it does not take the key") as error:
        source.open(MODEL)
    assert seen.requests[0].headers["x-api-key"] == "s3cret"
    assert "s3cret" not in str(error.value)
    source = RemoteSource(URL, transport=seen, retry=impatient())
    with pytest.raises(ApiError, match=rf"it wants a key: set PRECALC_API_KEY, or run `precalc login {URL}`"):
        source.open(MODEL)
    assert "x-api-key" not in seen.requests[1].headers


def test_a_redirect_is_not_followed_with_the_key() -> None:
    seen = Faulty(httpx.MockTransport(lambda _: httpx.Response(307, headers={"location": "https://elsewhere.example"})))
    with pytest.raises(ApiError, match=r"307 Temporary Redirect to 'https://elsewhere\.example'; is it the URL"):
        RemoteSource(URL, "s3cret", transport=seen, retry=impatient()).open(MODEL)
    assert [request.url.host for request in seen.requests] == ["127.0.0.1"]


URLS = ["", "host", "ftp://host", "https://", "https://user:pass@host", "https://host/?a=b", "https://host:x", "-"]


@pytest.mark.parametrize("url", URLS)
def test_malformed_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="write https://host/path"):
        RemoteSource(url)


def test_a_few_batches_are_read_at_the_same_time(tables) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def slow(_request, answer):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        return answer()

    source = remote(tables, [None, *[slow] * 60])
    model = source.open(MODEL)
    model.batch_size = 2
    request = Request(model, read_list(KEYS))
    answers = read_predictions(request, find_smiles=False)
    rows = [row and tuple(row) for answered in answers for row in answered.block.rows]
    assert repr(rows) == repr([ROWS[key] for key in KEYS])
    assert 1 < most <= model.parallel
    source.close()


def test_real_connection_cut_within_a_body_is_retried(tables, tmp_path) -> None:
    """What a mock cannot promise: that it is our retries that read the body."""
    whole = remote(tables)
    described = whole.get(f"/models/{MODEL}")
    answers = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal answers
            answers += 1
            content = json.dumps(described).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: 10 if answers < 3 else None])

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        source = RemoteSource(url, retry=retries().copy_with(backoff_factor=0.0))
        assert source.open(MODEL).info.provenance == whole.open(MODEL).info.provenance
        server.shutdown()
    assert answers == 3
