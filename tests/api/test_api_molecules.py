"""SMILES beside predictions, one molecule of many models, and the contract of the earlier API."""

import csv
import io
import json

import pytest
from gateway_events import event
from made_up import COLUMNS, MODEL, serve
from serving import KEYS, UNKNOWN, Api, card, predictions

from precalc_assets.cards.model_card import publish_card
from precalc_assets.columns import Column
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, TableReader

ROWS = predictions(KEYS)
OTHER = "eos4e40-v2"
SMILES = {key: f"C{'C' * at}" for at, key in enumerate(KEYS[:-1])}
"""The last of the molecules is in no library."""
PREDICTIONS = f"/models/{MODEL}/predictions"


def serve_library(tables, smiles=SMILES, **options):
    rows = {key: (text,) for key, text in smiles.items()}
    serve(tables, rows, model=LIBRARY, columns=[Column("smiles", "string", "", "")], **options)


@pytest.fixture
def with_library(tables, api):
    serve_library(tables)
    return api


def test_smiles_are_included_only_on_request(with_library):
    asked = [KEYS[3], UNKNOWN, KEYS[-1], KEYS[3]]
    texts = [SMILES[KEYS[3]], None, None, SMILES[KEYS[3]]]
    answer = with_library.predictions(asked, query="?include=smiles").json
    assert answer["smiles"] == texts
    assert list(answer) == [*list(answer)[:6], "inchikeys", "statuses", "smiles", "predictions"]
    assert "smiles" not in with_library.predictions(asked).json
    one = with_library.get(f"{PREDICTIONS}/{KEYS[3]}?include=smiles").json
    assert one["smiles"] == texts[0]
    assert with_library.get(f"{PREDICTIONS}/{KEYS[-1]}?include=smiles").json["smiles"] is None
    assert "smiles" not in with_library.get(f"{PREDICTIONS}/{KEYS[3]}").json


def test_csv_has_smiles_after_the_statuses(tables, api):
    serve_library(tables, {KEYS[0]: "=CMD()", KEYS[1]: "C,C"})
    text = api.predictions([KEYS[0], UNKNOWN, KEYS[1]], query="?include=smiles", accept="text/csv").text
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["inchikey", "status", "smiles", *(c.name for c in COLUMNS)]
    found = [[KEYS[0], "found", "=CMD()"], [UNKNOWN, "not_in_library", ""], [KEYS[1], "found", "C,C"]]
    assert [row[:3] for row in rows] == found
    assert {len(row) for row in rows} == {6}


def test_smiles_are_null_until_a_library_is_loaded(tables, api):
    assert api.predictions(KEYS, query="?include=smiles").json["smiles"] == [None] * len(KEYS)
    serve_library(tables)
    answered = api.predictions(KEYS, query="?include=smiles").json
    assert answered["smiles"] == [SMILES.get(key) for key in KEYS]
    tables.drop_table(LIBRARY)
    serve_library(tables, {KEYS[0]: "N"}, n_shards=2, shards=["00", "01"])
    assert api.get(f"{PREDICTIONS}/{KEYS[0]}?include=smiles").json["smiles"] == "N"


def test_release_and_digest_belong_to_the_rows_generation(tables, api):
    key = KEYS[0]
    shard = shard_of(key, 4)
    before = Api(tables).get(f"{PREDICTIONS}/{key}")
    # The API knows the shard, and has a page of it with this column alone.
    api.get(f"{PREDICTIONS}/{key}?columns={COLUMNS[0].name}")
    whole = api.get(f"/models/{MODEL}").json["library_digest"]
    assert before.json["library_digest"] == whole
    # Loaded twice, so that what the API has read of this shard is gone from the table.
    for release in ("v2.0.0", "v3.0.0"):
        serve(tables, {k: row for k, row in ROWS.items() if k != KEYS[1]}, release=release, shards=[shard])
    after = api.get(f"{PREDICTIONS}/{key}")
    assert after.json["release"] == "v3.0.0"
    assert after.headers["ETag"] != before.headers["ETag"]
    others = [k for k in KEYS if shard_of(k, 4) != shard]
    assert api.predictions([key, others[0]]).json["releases"] == ["v1.0.0", "v3.0.0"]
    if shard_of(KEYS[1], 4) == shard:
        assert after.json["library_digest"] != whole


def test_molecule_is_read_from_all_or_from_named_models(tables, with_library):
    few = [key for key in KEYS if shard_of(key, 4) in {"00", "01"}]
    serve(tables, {key: (at,) for at, key in enumerate(few)}, model=OTHER, columns=COLUMNS[1:2], shards=["00", "01"])
    publish_card(tables, card(deterministic=False))
    key, unloaded = few[0], next(key for key in KEYS if key not in few)
    answer = with_library.get(f"/molecules/{key}?include=smiles").json
    one = with_library.get(f"{PREDICTIONS}/{key}").json
    assert answer == {
        "inchikey": key,
        "smiles": SMILES[key],
        "library_digest": None,
        "models": [
            {name: one[name] for name in one if name != "inchikey"},
            {
                "model": OTHER,
                "status": "found",
                "release": "v1.0.0",
                "library_digest": None,
                "deterministic": None,
                "columns": [{"name": "count", "type": "integer"}],
                "predictions": {"count": 0},
            },
        ],
    }
    named = with_library.get(f"/molecules/{unloaded}?models={OTHER},{MODEL},{OTHER}").json
    assert [(m["model"], m["status"], m["release"], m["predictions"] is None) for m in named["models"]] == [
        (OTHER, "not_predicted_yet", None, True),
        (MODEL, "found", "v1.0.0", False),
    ]
    alone = with_library.get(f"/molecules/{key}?models={MODEL}").json
    assert alone["library_digest"] == one["library_digest"] is not None


def test_molecule_that_nobody_knows_is_a_404(tables, with_library):
    unknown = with_library.get(f"/molecules/{UNKNOWN}")
    assert unknown.error == (404, "not_in_library")
    assert UNKNOWN in unknown.message
    assert with_library.get(f"/molecules/{UNKNOWN}?models={MODEL}").error == (404, "not_in_library")
    # A model has the one that is in no library, and no model the one that is.
    assert with_library.get(f"/molecules/{KEYS[-1]}").status == 200
    tables.drop_table(MODEL)
    models = Api(tables).get(f"/molecules/{KEYS[0]}").json
    assert models == {"inchikey": KEYS[0], "library_digest": None, "models": []}
    tables.drop_table(LIBRARY)
    assert Api(tables).get(f"/molecules/{KEYS[0]}").error == (404, "not_in_library")


def test_one_malformed_key_does_not_refuse_the_others(with_library):
    asked = [KEYS[3], "aspirin", UNKNOWN, "", KEYS[3].lower(), 'a,"b"', KEYS[-1]]
    statuses = ["found", "unreadable", "not_in_library", *["unreadable"] * 3, "found"]
    for query in ("", "?include=smiles"):
        answer = with_library.predictions(asked, query=query).json
        assert (answer["inchikeys"], answer["statuses"]) == (asked, statuses)
        assert answer["counts"] == {"found": 2, "unreadable": 4, "not_in_library": 1}
        assert [row is None for row in answer["predictions"]] == [status != "found" for status in statuses]
        header, *rows = csv.reader(io.StringIO(with_library.predictions(asked, query=query, accept="text/csv").text))
        assert [row[:2] for row in rows] == [list(pair) for pair in zip(asked, statuses, strict=True)]
        assert {len(row) for row in rows} == {len(header)}


def test_matches_compare_the_forms_of_a_request(with_library):
    asked = [KEYS[3], KEYS[4], KEYS[5], UNKNOWN, KEYS[-1]]
    forms = [SMILES[KEYS[3]], "[NH4+]", None, "C", "C"]
    answer = with_library.post(PREDICTIONS, {"inchikeys": asked, "forms": forms}).json
    assert answer["matches"] == ["same", "other_form", "key", None, "key"]
    assert answer["smiles"] == [SMILES[KEYS[3]], SMILES[KEYS[4]], None, None, None]
    text = with_library.post(PREDICTIONS, {"inchikeys": asked, "forms": forms}, accept="text/csv").text
    header, *rows = csv.reader(io.StringIO(text))
    assert header[:4] == ["inchikey", "status", "match", "smiles"]
    assert [row[2] for row in rows] == ["same", "other_form", "key", "", "key"]
    few = with_library.post(PREDICTIONS, {"inchikeys": asked, "forms": ["C"]}).json
    assert few["matches"] == ["other_form", "key", "key", None, "key"]


def test_molecule_that_the_model_failed_on_says_so(tables):
    serve(tables, {KEYS[0]: (None, None, None), KEYS[1]: (None, 0, None)})
    api = Api(tables)
    assert api.predictions(KEYS[:2]).json["statuses"] == ["model_failed", "found"]
    one = api.get(f"{PREDICTIONS}/{KEYS[0]}").json
    assert (one["status"], set(one["predictions"].values())) == ("model_failed", {None})


def test_unknown_models_are_named(api):
    one = api.get(f"/molecules/{KEYS[0]}?models={MODEL},eos9zzz")
    assert one.error == (404, "unknown_model")
    assert "'eos9zzz'" in one.message
    bad = ["library", "models", "../x", "é", "x" * 99]
    many = api.get(f"/molecules/{KEYS[0]}?models={','.join(bad)}")
    assert many.error == (404, "unknown_model")
    assert all(name[:9] in many.message for name in bad)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("include=inchi", "include=smiles"),
        ("include=", "include=smiles"),
        ("include=smiles&include=smiles", "2 times"),
        ("inclde=smiles", "'inclde'"),
        ("%0d%0aSet-Cookie:%20a=1", r"\r\n"),
        ("models=", "commas"),
        ("models=eos3b5e,,eos4e40", "commas"),
        ("models=" + ",".join(f"eos{i:04}" for i in range(501)), "up to 500"),
    ],
)
def test_malformed_query_is_refused(api, query, told):
    answer = api.get(f"/molecules/{KEYS[0]}?{query}")
    assert answer.error == (400, "bad_query")
    assert told in answer.message
    assert "Set-Cookie" not in answer.headers


def test_malformed_inchikey_of_many_models_is_refused(api):
    assert api.get("/molecules/aspirin").error == (400, "malformed_inchikey")


def test_too_many_columns_are_refused_before_reading(tables, monkeypatch):
    monkeypatch.setattr("precalc_assets.api.routes.MAX_COLUMNS", 5)
    serve(tables, ROWS)
    serve(tables, ROWS, model=OTHER)
    api = Api(tables)
    answer = api.get(f"/molecules/{KEYS[0]}")
    assert answer.error == (413, "too_many_columns")
    assert "models=" in answer.message
    assert api.get(f"/molecules/{KEYS[0]}?models={OTHER}").status == 200


def test_damaged_table_among_many_is_named(tables, api):
    serve(tables, ROWS, model=OTHER)
    directories = TableReader(tables, OTHER).directories()
    tables.delete_many(OTHER, [key for shard, found in directories.items() for key in found.pages.keys(shard)])
    answer = api.get(f"/molecules/{KEYS[0]}")
    assert answer.error == (503, "unavailable")
    assert OTHER in answer.message
    assert api.get(f"/molecules/{KEYS[0]}?models={MODEL}").status == 200


def test_earlier_contract_leaves_out_missing_molecules(with_library):
    asked = [KEYS[7], UNKNOWN, "not a key", KEYS[-1], KEYS[7]]
    body = {"modelId": MODEL, "inputKeyArray": asked, "something": "else"}
    sent = with_library.post("/predictions", body)
    provenance, answer = json.loads(sent.headers["Precalc-Provenance"]), sent.json
    assert (provenance["releases"], provenance["counts"]["found"]) == (["v1.0.0"], 3)
    seven = {"smiles": SMILES[KEYS[7]], "value": list(ROWS[KEYS[7]])}
    assert repr(answer) == repr(
        {"model_id": MODEL, "output": [seven, {"smiles": None, "value": list(ROWS[KEYS[-1]])}, seven]}
    )
    for model in ("eos9zzz", "library", ""):
        unknown = with_library.post("/predictions", {"modelId": model, "inputKeyArray": asked}).json
        assert unknown == {"model_id": model, "output": []}


def test_earlier_contract_answers_get(with_library):
    asked = json.dumps({"modelId": MODEL, "inputKeyArray": [KEYS[7], UNKNOWN]})
    by_get = with_library.send(event("GET", "/predictions", asked, {}))
    by_post = with_library.post("/predictions", asked)
    assert by_get.json == by_post.json
    assert by_get.headers["Precalc-Provenance"] == by_post.headers["Precalc-Provenance"]
    # Its URL does not say what it answers.
    assert by_get.headers["Cache-Control"] == "no-store"
    assert "ETag" not in by_get.headers
    assert with_library.send(event("GET", "/predictions", "[", {})).error == (400, "invalid_json")
    assert with_library.send(event("GET", "/predictions", "null", {})).error == (400, "bad_request")


@pytest.mark.parametrize("body", [None, ""])
def test_earlier_contract_answers_204_without_a_body(api, body):
    answer = api.send(event("GET", "/predictions", body, {}))
    assert (answer.status, answer.text) == (204, "")
    head = api.send(event("HEAD", "/predictions", body, {}))
    assert (head.status, head.text) == (204, "")


@pytest.mark.parametrize("body", [{}, {"modelId": 1, "inputKeyArray": []}, {"modelId": MODEL, "inputKeyArray": "x"}])
def test_earlier_contract_refuses_a_body_of_another_form(api, body):
    assert api.post("/predictions", body).error == (400, "bad_request")
    assert api.post("/predictions", "").error == (400, "invalid_json")


def test_earlier_contract_has_the_same_limits(api):
    answer = api.post("/predictions", {"modelId": MODEL, "inputKeyArray": ["x"] * 1_001})
    assert answer.error == (413, "too_many_inchikeys")


def test_headers_are_ascii_whatever_the_release(tables):
    serve(tables, ROWS, release="v1 naïve ☃\r\nX: y")
    header = Api(tables).predictions(KEYS, accept="text/csv").headers["Precalc-Provenance"]
    assert header.isascii()
    assert header.isprintable()
    assert json.loads(header)["releases"] == ["v1 naïve ☃\r\nX: y"]
