"""Reading through the API: what the table holds, in the order asked, with where it comes from."""

import csv
import io
import json
from datetime import UTC, datetime
from hashlib import sha256

import pyarrow.parquet as pq
import pytest
from gateway_events import event
from hypothesis import given
from hypothesis import strategies as st
from made_up import COLUMNS, MODEL, serve
from serving import KEYS, UNKNOWN, Api, card, predictions

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.api.answers import best_type, dump, rows_json
from precalc_assets.cards.model_card import publish_card
from precalc_assets.columns import Column
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.sharding import key_hash, shard_of
from precalc_assets.tables import REGISTRY, Item

ROWS = predictions(KEYS)
OTHER = "eos4e40"


def as_lists(keys):
    return [list(ROWS[key]) if key in ROWS else None for key in keys]


def test_values_equal_the_tables_in_value_and_type(api):
    answered = api.predictions(KEYS).json["predictions"]
    assert repr(answered) == repr(as_lists(KEYS))
    for key, row in ROWS.items():
        values = api.get(f"/models/{MODEL}/predictions/{key}").json["predictions"]
        assert repr(list(values.items())) == repr([(c.name, v) for c, v in zip(COLUMNS, row, strict=True)])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1) | st.none()))
def test_json_is_read_as_the_same_values(values):
    assert repr(json.loads(dump({"row": values}))["row"]) == repr(values)


COUNTS = st.lists(st.integers(0, 9) | st.integers(0, 12) | st.just(255), min_size=1, max_size=8)


@given(
    st.lists(st.none() | COUNTS.map(bytes) | st.lists(st.none() | st.floats(-1, 1), min_size=1).map(tuple), max_size=4)
)
def test_rows_of_bytes_are_written_as_other_numbers_are(rows):
    expected = [row and list(row) for row in rows]
    assert json.loads(rows_json(rows)) == expected
    assert rows_json([row and tuple(row) for row in rows]) == rows_json(rows)


def test_bytes_are_numbers_in_every_kind_of_answer(tables):
    wide = [Column(f"c{at}", "integer", "", "") for at in range(3)]
    rows = {KEYS[0]: (0, 7, 255), KEYS[1]: (None,) * 3, KEYS[2]: (9, 9, 9)}
    serve(tables, rows, model="eos5axz", columns=wide)
    api = Api(tables)
    asked = list(rows)
    assert api.predictions(asked, "eos5axz").json["predictions"] == [list(rows[key]) for key in asked]
    lines = api.predictions(asked, "eos5axz", accept="text/csv").text.splitlines()[1:]
    assert [line.split(",")[2:] for line in lines] == [["0", "7", "255"], ["", "", ""], ["9", "9", "9"]]
    assert api.get(f"/models/eos5axz/predictions/{KEYS[0]}").json["predictions"] == {"c0": 0, "c1": 7, "c2": 255}
    by_all = api.get(f"/molecules/{KEYS[0]}?models=eos5axz").json["models"]
    assert by_all[0]["predictions"] == {"c0": 0, "c1": 7, "c2": 255}
    before = api.post("/predictions", {"modelId": "eos5axz", "inputKeyArray": [KEYS[0]]}).json
    assert before["output"][0]["value"] == [0, 7, 255]


def test_answer_equals_the_files_of_a_real_run(served):
    rows = [
        tuple(row.values())
        for shard in ("00", "01", "02", "03")
        for row in pq.read_table(served.path(storage.predictions("eos9abc", shard))).to_pylist()
    ]
    keys = [row[0] for row in rows]
    answer = Api(served.tables).predictions(keys, "eos9abc").json
    assert repr(answer["predictions"]) == repr([list(row[-3:]) for row in rows])
    assert answer["releases"] == ["v1.0.0"]
    assert answer["library_digest"] == read_manifest(served.store).digest


def test_rows_keep_the_order_of_the_request(api):
    asked = [KEYS[7], UNKNOWN, KEYS[0], KEYS[7], KEYS[3], UNKNOWN]
    answer = api.predictions(asked).json
    assert answer["inchikeys"] == asked
    assert answer["predictions"] == as_lists(asked)
    assert answer["counts"] == {"found": 4, "not_in_library": 2}
    assert answer["columns"] == [{"name": c.name, "type": c.type} for c in COLUMNS]
    assert api.predictions([]).json["predictions"] == []


@pytest.mark.parametrize("names", [["label"], ["count", "score"], ["label", "score", "label", "count"]], ids=str)
def test_some_columns_come_in_the_order_asked(api, names):
    places = [[c.name for c in COLUMNS].index(name) for name in dict.fromkeys(names)]
    asked = {"inchikeys": [KEYS[7], UNKNOWN, *KEYS], "columns": names}
    answer = api.post(f"/models/{MODEL}/predictions", asked)
    rows = [None if row is None else [row[at] for at in places] for row in as_lists(asked["inchikeys"])]
    assert repr(answer.json["predictions"]) == repr(rows)
    assert answer.json["columns"] == [{"name": COLUMNS[at].name, "type": COLUMNS[at].type} for at in places]
    text = api.post(f"/models/{MODEL}/predictions", asked, accept="text/csv").text
    header, *lines = csv.reader(io.StringIO(text))
    assert header == ["inchikey", "status", *dict.fromkeys(names)]
    assert [len(line) for line in lines] == [len(header)] * len(rows)
    one = api.get(f"/models/{MODEL}/predictions/{KEYS[7]}?columns={','.join(names)}").json
    assert repr(list(one["predictions"].items())) == repr(list(zip(dict.fromkeys(names), rows[0], strict=True)))
    assert one["columns"] == answer.json["columns"]


def test_an_unknown_column_is_refused_with_the_nearest_name(api):
    for answer in (
        api.get(f"/models/{MODEL}/predictions/{KEYS[0]}?columns=score,cuont"),
        api.post(f"/models/{MODEL}/predictions", {"inchikeys": [KEYS[0]], "columns": ["score", "cuont"]}),
    ):
        assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_column")
        assert answer.json["error"]["message"] == f"{MODEL} has no column 'cuont'; the nearest name is 'count'"
    for text in ("", "%0A%C3%84", "a" * 200_000):
        answer = api.get(f"/models/{MODEL}/predictions/{KEYS[0]}?columns={text}")
        assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_column")
    for wrong in ([], None):
        assert api.post(f"/models/{MODEL}/predictions", {"inchikeys": [KEYS[0]], "columns": wrong}).status == 400


def test_csv_has_the_same_rows(api):
    asked = [KEYS[7], UNKNOWN, KEYS[3], KEYS[7], KEYS[1]]
    answer = api.predictions(asked, accept="text/csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{MODEL}.csv"'
    header, *rows = csv.reader(io.StringIO(answer.text))
    assert header == ["inchikey", "status", "score", "count", "label"]
    statuses = ["found", "not_in_library", *["found"] * 3]
    expected = [(key, status, *ROWS.get(key, [None] * 3)) for key, status in zip(asked, statuses, strict=True)]
    assert rows == [["" if cell is None else str(cell) for cell in row] for row in expected]
    assert json.loads(answer.headers["Precalc-Provenance"]) == {
        "model": MODEL,
        "releases": ["v1.0.0"],
        "library_digest": api.predictions(asked).json["library_digest"],
        "deterministic": None,
        "counts": {"found": 4, "not_in_library": 1},
    }


def test_csv_tells_an_empty_text_from_a_null(tables):
    serve(tables, {KEYS[0]: (0.5, 1, ""), KEYS[1]: (0.5, 1, None)})
    lines = Api(tables).predictions(KEYS[:2], accept="text/csv").text.splitlines()
    assert lines[1:] == [f'{KEYS[0]},found,0.5,1,""', f"{KEYS[1]},found,0.5,1,"]


def test_csv_is_exact_and_for_spreadsheets_runs_no_formula(tables):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("x")', "=C", "'=1", "'quoted'", "it's"]
    columns = [Column("=name", "string", "", ""), Column("value", "float", "", "")]
    serve(tables, {key: (text, -1.5) for key, text in zip(KEYS, texts, strict=False)}, columns=columns)
    keys = KEYS[: len(texts)]
    exact = Api(tables).predictions(keys, accept="text/csv").text
    header, *rows = csv.reader(io.StringIO(exact, newline=""))
    assert header == ["inchikey", "status", "=name", "value"]
    assert [row[2:] for row in rows] == [[text, "-1.5"] for text in texts]
    answer = Api(tables).predictions(keys, query="?format=spreadsheet")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == ["inchikey", "status", "'=name", "value"]
    marked = [text if text in ("+1", "-1") or text[0] in "'i" else f"'{text}" for text in texts]
    assert [row[2:] for row in rows] == [[text, "-1.5"] for text in marked]
    assert [row[0] for row in Api(tables).predictions(keys).json["predictions"]] == texts


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV;q=0.5, application/json;q=0.4", "text/csv"),
        ("text/*", "text/csv"),
        ("text/html, */*;q=0.1", "application/json"),
        ("text/csv;q=0, */*", "application/json"),
        ("application/json;q=0, */*", "text/csv"),
        ("image/png", None),
        ("application/json;q=0", None),
        (";;;,,q=,text/csv;q=nan", None),
    ],
)
def test_accept_header_chooses_the_media_type(accept, kind):
    assert best_type(accept) == kind


def test_large_answers_are_compressed_if_the_client_accepts_gzip(api):
    plain, packed = api.predictions(KEYS), api.predictions(KEYS, accept_encoding="br, GZIP")
    assert (plain.compressed, packed.compressed) == (False, True)
    assert packed.text == plain.text
    assert packed.headers["Vary"] == "Accept, Accept-Encoding"
    assert not api.get("/health", accept_encoding="gzip").compressed


ADOPTION = Adoption(
    computed_by=("v1.0.0",), molecules=600, different=0, example="", compared_at=datetime(2026, 11, 28, tzinfo=UTC)
)


def test_model_is_described_by_its_table_and_card(tables, api):
    publish_card(tables, card(deterministic=False, varying=("score",), molecules=1, example="equal", adopted=ADOPTION))
    answer = api.get(f"/models/{MODEL}").json
    ordered = sorted(KEYS, key=key_hash)
    shards = [[key for key in ordered if shard_of(key, 4) == shard] for shard in ("00", "01", "02", "03")]
    digests = [sha256("".join(keys).encode()).hexdigest() for keys in shards]
    assert answer.pop("updated").startswith("20")
    assert answer == {
        "model": MODEL,
        "title": "A title",
        "description": "What it does",
        "interpretation": "How to read it",
        "tags": ["tag"],
        "license": "MIT",
        "publication": "https://example.org/paper",
        "source_code": "https://example.org/code",
        "columns": [
            {"name": c.name, "type": c.type, "direction": c.direction, "description": c.description} for c in COLUMNS
        ],
        "n_shards": 4,
        "shards": ["00", "01", "02", "03"],
        "molecules": len(KEYS),
        "quarantined": 1,
        "emptied": [{"column": "score", "cells": 2, "example": "inf", "smiles": "CCO"}],
        "releases": ["v1.0.0"],
        "library_digest": sha256("".join(digests).encode()).hexdigest(),
        "deterministic": False,
        "varying": ["score"],
        "example": "equal",
        "runner_hours": 1.25,
        "dollars": 0.5,
        "peak_memory": 350 << 20,
        "adopted": {**ADOPTION.model_dump(), "computed_by": ["v1.0.0"], "compared_at": "2026-11-28T00:00:00Z"},
    }


@pytest.mark.parametrize("damaged", [False, True])
def test_model_with_missing_or_damaged_card_is_served(tables, api, damaged):
    if damaged:
        tables.create_table(REGISTRY)
        tables.put_many(REGISTRY, [Item(MODEL, b"{]")])
    described = api.get(f"/models/{MODEL}").json
    assert (described["title"], described["deterministic"], described["molecules"]) == (None, None, len(KEYS))
    assert api.predictions(KEYS[:1]).json["predictions"] == as_lists(KEYS[:1])
    (listed,) = api.get("/models").json["models"]
    assert {name: value for name, value in listed.items() if value is not None} == {"model": MODEL}


def test_models_are_listed_by_id_without_other_tables(tables, api):
    serve(tables, ROWS, model=OTHER, shards=["01"])
    publish_card(tables, card())
    publish_card(tables, card("eos9zzz"))
    tables.create_table("library")
    listed = api.get("/models").json["models"]
    assert [entry["model"] for entry in listed] == [MODEL, OTHER]
    assert listed[0] == {
        "model": MODEL,
        "title": "A title",
        "description": "What it does",
        "tags": ["tag"],
        "n_columns": 3,
        "n_shards": 4,
        "shards": 4,
        "molecules": len(KEYS),
        "releases": ["v1.0.0"],
        "deterministic": True,
        "updated": "2026-11-01T12:00:00+00:00",
    }


def test_every_answer_marks_a_nondeterministic_model(tables):
    serve(tables, ROWS)
    publish_card(tables, card(deterministic=False, varying=("score",)))
    api = Api(tables)
    assert api.get(f"/models/{MODEL}/predictions/{KEYS[0]}").json["deterministic"] is False
    assert api.predictions(KEYS).json["deterministic"] is False
    assert json.loads(api.predictions(KEYS, accept="text/csv").headers["Precalc-Provenance"])["deterministic"] is False


def test_releases_are_those_of_the_found_molecules(tables):
    serve(tables, ROWS, shards=["00", "01"])
    serve(tables, ROWS, release="v2.0.0", shards=["02", "03"])
    api = Api(tables)
    old = next(key for key in KEYS if shard_of(key, 4) == "00")
    new = next(key for key in KEYS if shard_of(key, 4) == "03")
    assert api.predictions([old, UNKNOWN]).json["releases"] == ["v1.0.0"]
    assert api.predictions([old, new]).json["releases"] == ["v1.0.0", "v2.0.0"]
    assert api.get(f"/models/{MODEL}/predictions/{new}").json["release"] == "v2.0.0"
    assert api.get(f"/models/{MODEL}").json["releases"] == ["v1.0.0", "v2.0.0"]


def test_library_digest_is_null_while_shards_are_missing(tables):
    serve(tables, ROWS, shards=["00"])
    answer = Api(tables).get(f"/models/{MODEL}").json
    assert (answer["library_digest"], answer["shards"]) == (None, ["00"])


def test_event_may_have_base64_body_and_headers_in_any_case(api):
    asked = event("POST", f"/models/{MODEL}/predictions", "eyJpbmNoaWtleXMiOiBbXX0=", {})
    for headers in (None, {}, {"CONTENT-TYPE": "application/json; charset=UTF-8", "accept": "application/json"}):
        answer = api.send({**asked, "isBase64Encoded": True, "headers": headers})
        assert answer.json["predictions"] == []


def test_health_needs_no_tables(tables):
    assert Api(tables).get("/health").json == {"status": "ok"}
