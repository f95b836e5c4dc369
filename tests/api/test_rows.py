"""Rows of a file: what is read of it, what is refused, and what comes back with predictions."""

import base64
import dataclasses
import gzip
import re
from urllib.parse import urlencode

import pytest
from gateway_events import event
from made_up import COLUMNS, FLOATS, MODEL, serve
from serving import KEYS, Answer, Api, card
from test_pages import distributions

from precalc_assets.api import row_process, row_reading
from precalc_assets.api.drawings import MAX_DRAWINGS, add_drawing_route
from precalc_assets.api.html_pages import short_value
from precalc_assets.api.row_reading import add_row_reading
from precalc_assets.cards.model_card import publish_card
from precalc_assets.columns import Column
from precalc_assets.tables import LIBRARY


@pytest.fixture
def reading(api: Api) -> Api:
    add_row_reading(api.app)
    return api


def read(api: Api, text: str, query: str = "") -> Answer:
    return api.send(event("POST", f"/rows{query}", text, {}))


def send(api: Api, query: dict[str, str], content: bytes) -> Answer:
    sent = event("POST", f"/rows?{urlencode(query)}", base64.b64encode(content).decode(), {})
    return api.send(sent | {"isBase64Encoded": True})


def rows(keys, **changes) -> dict:
    n = len(keys)
    lists = {"texts": list(keys), "cells": [[key] for key in keys], "inchikeys": list(keys), "forms": [None] * n}
    return {"names": ["input"], "numbers": list(range(n)), "reasons": [None] * n, **lists, **changes}


def test_rows_keep_their_cells_and_their_lines(reading):
    answer = read(reading, f"name\tSMILES\n\n x \tCCO\ny\t{KEYS[0].lower()}\n\tnothing\n").json
    assert answer["names"] == ["name", "SMILES"]
    assert answer["numbers"] == [3, 4, 5]
    assert answer["cells"] == [[" x ", "CCO"], ["y", KEYS[0].lower()], ["", "nothing"]]
    assert answer["inchikeys"] == [None, KEYS[0], None]


def test_pasted_words_are_a_molecule_and_its_name(reading):
    answer = read(reading, "CCO\nCCC two words\n").json
    assert (answer["texts"], answer["cells"][1]) == (["CCO", "CCC"], ["CCC", "two words"])


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "-x", "a\x00b\n.csv", "ü" * 300, "/"])
def test_name_of_a_file_leads_nowhere(reading, name):
    answer = send(reading, {"name": name}, b"CCO\n")
    assert answer.json["texts"] == ["CCO"]


def test_too_large_a_file_is_refused_with_a_way_out(reading):
    answer = read(reading, "C" * (row_reading.MAX_FILE_BYTES + 1))
    assert answer.error == (413, "file_too_large")
    assert "precalc get" in answer.message
    packed = gzip.compress(b"smiles,note\n" + b"CCO,xxxxxxxxxxxxxxxxxx\n" * 5_000_000, 1)
    answer = send(reading, {"name": "many.csv.gz"}, packed)
    assert answer.error == (400, "unreadable_file")
    assert f"up to {row_process.MAX_ROWS:,} rows" in answer.message


def test_field_takes_the_place_of_the_option(reading):
    answer = read(reading, "a\tb\nx\tCCO\n")
    assert answer.error == (400, "unreadable_file")
    assert answer.message.endswith("looks like SMILES: read it with 2 in the field Column")
    assert read(reading, "a\tb\nx\tCCO\n", "?column=b").json["texts"] == ["CCO"]


def test_form_is_compared_as_this_rdkit_writes_it(tables, api):
    library = {KEYS[0]: ("old form",), KEYS[1]: ("tautomer",)}
    serve(tables, library, model=LIBRARY, columns=[Column("smiles", "string", "", "")])
    body = rows(KEYS[:2], forms=["new form", "other"])
    first = api.post(f"/models/{MODEL}/rows", body).json
    assert (first["matches"], first["other_forms"]) == (["other_form"] * 2, ["old form", "tautomer"])
    body["library_forms"] = {"old form": "new form", "tautomer": "tautomer"}
    again = api.post(f"/models/{MODEL}/rows", body).json
    assert (again["matches"], again["other_forms"]) == (["same", "other_form"], [])
    assert "predicted: tautomer" in api.post(f"/models/{MODEL}/rows/shown", body).text


def test_header_stands_above_the_first_rows_alone(api):
    whole = api.post(f"/models/{MODEL}/rows", rows(KEYS, first=True)).json["csv"]
    parts = [
        api.post(f"/models/{MODEL}/rows", rows(part, first=not at)).json for at, part in enumerate((KEYS[:7], KEYS[7:]))
    ]
    assert "".join(part["csv"] for part in parts) == whole
    assert whole.startswith(f"input,inchikey,status,reason,match,library_smiles,{','.join(c.name for c in COLUMNS)}\n")


@pytest.mark.parametrize("change", [{"texts": []}, {"cells": [[]]}, {"names": ["a", "b"]}])
def test_rows_of_unequal_lengths_are_refused(api, change):
    for path in ("rows", "rows/shown"):
        assert api.post(f"/models/{MODEL}/{path}", rows(KEYS[:1], **change)).error == (400, "bad_request")


def test_own_cells_are_shown_as_text(api):
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    shown = api.post(
        f"/models/{MODEL}/rows/shown", rows(KEYS[:1], names=[hostile], cells=[[hostile]], reasons=[hostile])
    ).text
    assert "<script" not in shown
    assert "<img" not in shown


def test_numbers_say_where_they_stand_in_the_library(tables, api):
    ranked = dataclasses.replace(distributions()[0], percentiles=(*range(-99, 1), 2.0))
    publish_card(tables, card(distributions=(ranked,)))
    shown = api.post(f"/models/{MODEL}/rows/shown", rows(KEYS[:6])).text
    assert FLOATS == (2.0, 1 / 3, -0.0, 5e-324, -1.7976931348623157e308, None)
    assert re.findall(r"<small>P(\d+)</small>", shown) == ["100", "99", "99", "99", "0"]
    assert 'data-ranked="1"' in shown


def test_so_many_molecules_are_drawn_at_a_time(api):
    add_drawing_route(api.app)
    drawn = api.post("/drawings", {"smiles": ["OCC", "<b>", "CC"]}).json["drawings"]
    assert [drawing and drawing[:5] for drawing in drawn] == ["<svg ", None, "<svg "]
    assert api.post("/drawings", {"smiles": ["C"] * (MAX_DRAWINGS + 1)}).error == (413, "too_many_smiles")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2.0"),
        (0.30000000000000004, "0.3"),
        (180.15900000000002, "180.159"),
        (2**53 + 1, "9.0072e+15"),
        (1_000_000, "1000000"),
        (-0.0, "-0.0"),
        (5e-324, "5e-324"),
        (None, ""),
        ("1.23456789", "1.23456789"),
    ],
)
def test_number_is_shown_with_six_digits(value, text):
    assert short_value(value) == text
