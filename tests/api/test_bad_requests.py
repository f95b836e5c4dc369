"""Errors have a status, a code and one sentence, and tell nothing about the inside of the server."""

import json

import pytest
from gateway_events import event
from made_up import COLUMNS, MODEL, serve
from serving import KEYS, UNKNOWN, Api, predictions

from precalc_assets.api import handler as handler_module
from precalc_assets.api.handler import handler
from precalc_assets.api.middleware import MAX_ANSWER_BYTES
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_of
from precalc_assets.tables import TableReader

PREDICTIONS = f"/models/{MODEL}/predictions"


class BrokenStore:
    """A store in which each call ends the same way."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        def fail(*_arguments, **_options):
            raise self.error

        return fail


def test_unknown_molecule_differs_from_unknown_model(api):
    molecule = api.get(f"{PREDICTIONS}/{UNKNOWN}")
    assert molecule.error == (404, "not_in_library")
    assert UNKNOWN in molecule.message
    model = api.get(f"/models/eos9zzz/predictions/{KEYS[0]}")
    assert model.error == (404, "unknown_model")
    assert "eos9zzz" in model.message


def test_molecule_of_a_missing_shard_is_not_unknown(tables):
    rows = predictions(KEYS)
    serve(tables, rows, shards=["00"])
    key = next(key for key in KEYS if shard_of(key, 4) == "02")
    answer = Api(tables).get(f"{PREDICTIONS}/{key}")
    assert answer.error == (404, "not_predicted_yet")
    assert "shard 02" in answer.message


@pytest.mark.parametrize(
    "model", ["eos9zzz", "library", "models", "eos3b5e-v", "EOS3B5E", "..", "*", "eos3b5e'--", "é", "x" * 5_000]
)
def test_model_that_is_not_served_is_unknown_on_every_route(api, tables, model):
    tables.create_table("library")
    tables.create_table("models")
    assert api.get(f"/models/{model}").error == (404, "unknown_model")
    assert api.get(f"/models/{model}/predictions/{KEYS[0]}").error == (404, "unknown_model")
    assert api.predictions(KEYS, model).error == (404, "unknown_model")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/model"),
        ("GET", "/models/eos3b5e/../library"),
        ("GET", "/models/a/b/c/d"),
        ("GET", "//models"),
        ("GET", "/health\n"),
        ("GET", f"/models/{MODEL}\n"),
        ("GET", "/models/eos3b5e\0"),
        ("POST", f"/models/{MODEL}/files/../../x"),
        ("GET", "/" + "models/" * 5_000),
    ],
)
def test_there_are_no_other_routes(api, method, path):
    assert api.send(event(method, path, None, {})).error == (404, "unknown_route")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/models", "GET, HEAD"),
        ("DELETE", f"/models/{MODEL}", "GET, HEAD"),
        ("GET", PREDICTIONS, "POST"),
        ("PUT", "/predictions", "GET, HEAD, POST"),
        ("HEAD", PREDICTIONS, "POST"),
        ("OPTIONS", f"/molecules/{KEYS[0]}", "GET, HEAD"),
        ("TRACE", "/health", "GET, HEAD"),
        ("NONSENSE", "/openapi.json", "GET, HEAD"),
    ],
)
def test_wrong_method_is_told_the_allowed_ones(api, method, path, allowed):
    answer = api.send(event(method, path, None, {}))
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed
    assert method == "HEAD" or answer.error == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "bad", ["aspirin", KEYS[0].lower(), KEYS[0][:-1], f"{KEYS[0]}\n", "", "é" * 27, "=cmd()", "A" * 100_000]
)
def test_malformed_inchikey_is_an_unreadable_row(api, bad):
    answer = api.predictions([KEYS[0], bad, KEYS[1]]).json
    assert answer["statuses"] == ["found", "unreadable", "found"]
    assert answer["inchikeys"] == [KEYS[0], bad, KEYS[1]]
    assert answer["predictions"][1] is None


def test_malformed_inchikey_in_the_path_is_a_bad_request(api):
    answer = api.get(f"{PREDICTIONS}/aspirin")
    assert answer.error == (400, "malformed_inchikey")
    assert answer.message.startswith("'aspirin' is not an InChIKey")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "nonsense",
        '{"inchikeys": [',
        '{"a": 1}}',
        "[" * 100_000,
        '{"inchikeys": ["\\ud800"]}',
        '{"inchikeys": ' + "1" * 5_000 + "}",
    ],
)
def test_body_that_is_not_json_is_refused(api, body):
    assert api.post(PREDICTIONS, body).error == (400, "invalid_json")


@pytest.mark.parametrize("body", ["not base64!", "a", "//79", "eyJpbmNo"])
def test_undecodable_body_is_refused(api, body):
    broken = {**event("POST", PREDICTIONS, body, {"content_type": "application/json"}), "isBase64Encoded": True}
    assert api.send(broken).error == (400, "invalid_json")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{}", "inchikeys"),
        ("null", "body"),
        ("[]", "body"),
        ('"text"', "body"),
        ("3", "body"),
        ('{"inchikeys": null}', "inchikeys"),
        ('{"inchikeys": "text"}', "inchikeys"),
        ('{"inchikeys": {"a": 1}}', "inchikeys"),
        ('{"inchikeys": [1]}', "inchikeys.0"),
        ('{"inchikeys": ["a", null]}', "inchikeys.1"),
        ('{"inchikeys": [["a"]]}', "inchikeys.0"),
        ('{"inchikeys": [], "inchikey": []}', "inchikey"),
        ('{"inchikeys": [], "%s": []}' % ("k" * 100_000), "kkk"),
    ],
)
def test_malformed_field_is_named(api, body, told):
    answer = api.post(PREDICTIONS, body)
    assert answer.error == (400, "bad_request")
    assert told in answer.message


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_body_of_another_media_type_is_refused(api, kind):
    answer = api.post(PREDICTIONS, f"inchikeys={KEYS[0]}", content_type=kind)
    assert answer.error == (415, "unsupported_media_type")


def test_unknown_media_type_is_not_acceptable(api):
    assert api.predictions(KEYS, accept="application/parquet").error == (406, "not_acceptable")


def test_request_has_a_thousand_molecules_or_fewer_if_wide(tables):
    serve(tables, predictions(KEYS))
    wide = [Column(f"c{at}", "integer", "", "") for at in range(2_048)]
    serve(tables, {KEYS[0]: tuple(range(2_048))}, model="eos5axz", columns=wide)
    api = Api(tables)
    assert api.predictions([KEYS[0]] * 1_000).json["counts"] == {"found": 1_000}
    answer = api.predictions([KEYS[0]] * 1_001)
    assert answer.error == (413, "too_many_inchikeys")
    assert "up to 1,000 at a time" in answer.message
    assert api.predictions([KEYS[0]] * 97, "eos5axz").json["predictions"] == [list(range(2_048))] * 97
    answer = api.predictions([KEYS[0]] * 98, "eos5axz")
    assert answer.error == (413, "too_many_inchikeys")
    assert "answers up to 97 at a time with 2,048 columns" in answer.message
    some = {"inchikeys": [KEYS[0]] * 1_000, "columns": ["c7", "c5"]}
    assert api.post("/models/eos5axz/predictions", some).json["predictions"] == [[7, 5]] * 1_000


def test_widest_answer_of_numbers_fits_into_a_lambdas_limit(tables):
    columns = [Column(f"a_column_{at}", "float", "", "") for at in range(200)]
    serve(tables, dict.fromkeys(KEYS, (-2.2250738585072014e-308,) * 200), columns=columns)
    answer = Api(tables).predictions([KEYS[0]] * 1_000)
    assert answer.status == 200
    assert 5_000_000 < len(json.dumps(answer.text)) <= MAX_ANSWER_BYTES


def test_answer_too_large_for_a_lambda_may_fit_compressed(tables):
    serve(tables, dict.fromkeys(KEYS, (0.0, 0, "☃" * 4_000)), columns=COLUMNS)
    api = Api(tables)
    asked = [KEYS[0]] * 600
    answer = api.predictions(asked)
    assert answer.error == (413, "answer_too_large")
    assert "gzip" in answer.message
    assert api.predictions(asked, accept_encoding="gzip").json["counts"] == {"found": 600}


def test_broken_store_is_reported_without_its_secrets(caplog):
    api = Api(BrokenStore(TableError("/secret/tables.db: disk I/O error; run `precalc`")))
    for answer in (api.get("/models"), api.get(f"/models/{MODEL}"), api.predictions(KEYS)):
        assert answer.error == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert "secret" not in answer.text
    page = api.get("/")
    assert (page.status, int(page.headers["Retry-After"]) > 0) == (503, True)
    assert "/secret/tables.db" in caplog.text


def test_lost_page_is_an_error_and_not_a_null(tables, api):
    api.get(f"/models/{MODEL}")
    tables.delete_many(MODEL, page_keys(tables))
    assert api.predictions(KEYS).error == (503, "unavailable")


def page_keys(tables):
    directories = TableReader(tables, MODEL).directories()
    return [key for shard, directory in directories.items() for key in directory.pages.keys(shard)]


def test_defect_is_logged_and_not_shown(caplog, capsys):
    api = Api(BrokenStore(ZeroDivisionError("secret")))
    for answer in (api.get("/models"), api.get(f"/models/{MODEL}"), api.predictions(KEYS)):
        assert answer.error == (500, "internal_error")
        assert "secret" not in answer.text
    assert "ZeroDivisionError: secret" in caplog.text
    assert capsys.readouterr().out == ""


def test_handler_answers_any_event(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PRECALC_TABLES_URL", f"sqlite:///{tmp_path / 'tables.db'}")
    handler_module._app.cache_clear()
    assert handler(event("GET", "/health", None, {}), None)["statusCode"] == 200
    assert handler({}, None)["statusCode"] == 500
    monkeypatch.delenv("PRECALC_TABLES_URL")
    handler_module._app.cache_clear()
    answer = handler(event("GET", "/health", None, {}), None)
    assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (500, "internal_error")
    assert "PRECALC_TABLES_URL is not set" in caplog.text
