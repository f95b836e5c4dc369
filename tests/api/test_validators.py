"""ETags, 304, HEAD and compression: the headers that all answers share."""

import pytest
from made_up import MODEL, serve
from serving import KEYS, UNKNOWN, Api, card, predictions

from precalc_assets.cards.model_card import publish_card

ONE = f"/models/{MODEL}/predictions/{KEYS[0]}"
KEPT = ["/models", f"/models/{MODEL}", ONE, f"/molecules/{KEYS[0]}", "/openapi.json", "/docs", "/"]


@pytest.mark.parametrize("url", KEPT)
def test_known_etag_is_answered_by_304(api, url):
    first = api.get(url)
    tag = first.headers["ETag"]
    assert tag.startswith('"')
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = api.get(url, if_none_match=known)
        assert (again.status, again.text) == (304, "")
        assert again.headers["ETag"] == tag
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
        assert again.headers["Vary"] == first.headers["Vary"]
        assert again.headers["X-Content-Type-Options"] == "nosniff"
    assert api.get(url, if_none_match='"other"').text == first.text
    assert api.get(url, if_none_match=tag.strip('"')).status == 200


def test_compressed_answer_has_its_own_etag(api):
    plain, packed = api.get("/openapi.json"), api.get("/openapi.json", accept_encoding="gzip")
    assert packed.compressed
    assert packed.headers["ETag"] != plain.headers["ETag"]
    for tag in (plain.headers["ETag"], packed.headers["ETag"]):
        again = api.get("/openapi.json", accept_encoding="gzip", if_none_match=tag)
        assert (again.status, again.headers["ETag"]) == (304, tag)


def test_etag_changes_with_the_answer(tables):
    serve(tables, predictions(KEYS))
    tags = {Api(tables).get(ONE).headers["ETag"] for _ in range(2)}
    assert len(tags) == 1
    tags.add(Api(tables).get(f"{ONE}?include=smiles").headers["ETag"])
    publish_card(tables, card(deterministic=False))
    tags.add(Api(tables).get(ONE).headers["ETag"])
    serve(tables, predictions(KEYS), release="v2.0.0")
    tags.add(Api(tables).get(ONE).headers["ETag"])
    assert len(tags) == 4


@pytest.mark.parametrize("url", ["/health", f"/models/{MODEL}/predictions/{UNKNOWN}", "/nothing", "/models/eos9zzz"])
def test_volatile_answers_have_no_validators(api, url):
    answer = api.get(url, if_none_match="*")
    assert answer.status != 304
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("url", [*KEPT, "/health", "/nothing", f"/models/{MODEL}/predictions/x", "/models/\n"])
def test_head_has_the_status_and_headers_of_get(api, url):
    got, head = api.get(url, accept_encoding="gzip"), api.get(url, "HEAD", accept_encoding="gzip")
    assert head.text == ""
    assert (head.status, head.headers) == (got.status, got.headers)
    assert got.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, identity", False),
        ("br", False),
        ("notgzip", False),
        ("", False),
    ],
)
def test_only_clients_that_accept_gzip_get_it(api, accepted, compressed):
    answer = api.get("/openapi.json", accept_encoding=accepted)
    assert answer.compressed is compressed
    assert "Accept-Encoding" in answer.headers["Vary"]
