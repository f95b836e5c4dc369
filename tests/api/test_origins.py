"""Web pages of other origins: they read answers if a setting names them, and not otherwise."""

import pytest
from gateway_events import event
from made_up import MODEL, serve
from serving import KEYS, Api, predictions

ORIGIN = "https://lab.example"
ONE = f"/models/{MODEL}/predictions/{KEYS[0]}"
PREFLIGHT = {"origin": ORIGIN, "access_control_request_method": "POST"}


@pytest.fixture
def open_api(tables):
    serve(tables, predictions(KEYS))
    return Api(tables, origins=[ORIGIN])


def test_no_origin_is_allowed_by_default(api):
    assert "access-control-allow-origin" not in api.get(ONE, origin=ORIGIN).headers
    assert api.send(event("OPTIONS", ONE, None, PREFLIGHT)).error == (405, "method_not_allowed")


@pytest.mark.parametrize("url", [ONE, "/models/eos9zzz", "/nothing", "/health\n"])
def test_named_origin_reads_answers_and_errors(open_api, url):
    answer = open_api.get(url, origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Origin" in answer.headers["vary"]
    assert "precalc-provenance" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in open_api.get(url, origin="https://other.example").headers


def test_preflight_of_a_named_origin_allows_what_pages_send(open_api):
    asked = PREFLIGHT | {"access_control_request_headers": "content-type,x-api-key"}
    answer = open_api.send(event("OPTIONS", f"/models/{MODEL}/predictions", None, asked))
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert {"content-type", "x-api-key"} <= set(answer.headers["access-control-allow-headers"].lower().split(", "))


@pytest.mark.parametrize(
    "other",
    [
        {"origin": "https://other.example"},
        {"access_control_request_method": "DELETE"},
        {"access_control_request_headers": "x-secret"},
    ],
)
def test_preflight_for_anything_else_is_refused(open_api, other):
    answer = open_api.send(event("OPTIONS", ONE, None, PREFLIGHT | other))
    assert answer.error == (400, "bad_preflight")
