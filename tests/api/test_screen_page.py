"""The page of screens without an engine: its address, the fields of its form, and what it says."""

from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from made_up import MODEL, serve
from serving import KEYS, card
from test_pages import Page, distributions

from precalc.source import Distribution
from precalc_assets.cards.model_card import publish_card
from precalc_assets.columns import Column

SCORE, COUNT, LABEL = (f"{MODEL}.{name}" for name in ("score", "count", "label"))


@pytest.fixture
def page(tables, api):
    """A function that returns the page of a question."""
    publish_card(tables, card(distributions=distributions()))
    return lambda **question: Page(api.get(f"/screen?{urlencode(question)}").text)


def values(page: Page, name: str) -> list[str]:
    return [field["value"] for field in page.all("input") if field.get("name") == name]


def test_form_leads_to_the_address_of_its_question(api):
    fields = [
        ("select", SCORE), ("column", SCORE), ("from", "0.5"), ("to", ""), ("open", ""),
        ("select", COUNT), ("column", COUNT), ("from", "1"), ("to", "3"), ("open", "<"),
        ("select", LABEL),
        ("where", f"{LABEL} is null"), ("order", f"{COUNT} desc"), ("limit", "100"), ("add", "eos4e40.activity"),
    ]  # fmt: skip

    def address(**more: str) -> dict[str, list[str]]:
        answer = api.get(f"/screen?{urlencode([*fields, *more.items()])}")
        assert answer.status == 303
        assert urlsplit(answer.headers["Location"]).path == "/v1/screen"
        return parse_qs(urlsplit(answer.headers["Location"]).query)

    assert address() == {
        "where": [f"{LABEL} is null and {SCORE} >= 0.5 and {COUNT} >= 1 and {COUNT} < 3"],
        "order": [f"{COUNT} desc"],
        "select": [f"{SCORE}, {COUNT}, {LABEL}, eos4e40.activity"],
    }
    assert address(allow_mixed="true")["allow_mixed"] == ["true"]
    assert address(remove=COUNT) == {
        "where": [f"{LABEL} is null and {SCORE} >= 0.5"],
        "select": [f"{SCORE}, {LABEL}, eos4e40.activity"],
    }


def test_ranges_are_in_fields_and_the_rest_is_text(page):
    found = page(
        where=f"{SCORE} >= 0.5 and ({COUNT} = 1 or {COUNT} is null) and {COUNT} <= 3 and {SCORE} > 0.7",
        order=f"{SCORE} desc",
    )
    assert list(zip(values(found, "column"), values(found, "from"), values(found, "to"), strict=True)) == [
        (SCORE, "0.5", ""),
        (COUNT, "", "3"),
    ]
    assert found.texts[f"({COUNT} = 1 or {COUNT} is null) and {SCORE} > 0.7"] == 1
    assert [field["value"] for field in found.all("option") if "selected" in field] == [MODEL, "100", f"{SCORE} desc"]


def test_ends_that_do_not_belong_to_a_range_are_kept(page, api):
    found = page(where=f"{SCORE} > 0.5 and {SCORE} < 0.7 and {COUNT} between 1 and 3")
    ranges = [values(found, name) for name in ("column", "from", "to", "open")]
    assert ranges == [[SCORE, COUNT], ["0.5", "1"], ["0.7", "3"], ["><", ""]]
    fields = urlencode({"column": SCORE, "from": "0.5", "to": "0.7", "open": "><"})
    location = api.get(f"/screen?{fields}").headers["Location"]
    assert parse_qs(urlsplit(location).query) == {"where": [f"{SCORE} > 0.5 and {SCORE} < 0.7"]}


def test_mixed_libraries_are_a_choice_where_models_are_joined(tables, page):
    serve(tables, {KEYS[0]: ("a", 1.0)}, model="eos4e40", columns=[Column(n, k, "", "") for n, k in
          (("kind", "string"), ("a", "float"))])  # fmt: skip
    assert values(page(select=SCORE), "allow_mixed") == []
    assert values(page(select=f"{SCORE}, eos4e40.a"), "allow_mixed") == ["true"]


def test_empty_question_begins_with_columns_of_the_model(tables, page):
    serve(tables, {KEYS[0]: ("a", 1.0, 2.0, 3.0)}, model="eos4e40", columns=[
        Column("kind", "string", "", ""), *(Column(name, "float", "", "") for name in ("a", "the b", "c")),
    ])  # fmt: skip
    assert values(page(), "select") == [SCORE, COUNT, LABEL]
    assert values(page(model="eos4e40"), "select") == ["eos4e40.a", 'eos4e40."the b"', "eos4e40.c"]


def test_page_without_an_engine_links_to_the_answer(page):
    question = {"where": f"{SCORE} > 0.5", "order": f"{SCORE} desc", "select": SCORE}
    found = page(**question)
    assert found.texts["precalc screen"] == 1
    [link] = [a["href"] for a in found.all("a") if "/screens?" in a["href"]]
    assert dict(parse_qsl(urlsplit(link).query)) == question | {"format": "csv"}


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"where": f"{SCORE} is nul"}, "character 18: `null` is expected"),
        ({"select": f"{MODEL}.scor"}, f"{MODEL} has no column 'scor'; the nearest name is 'score'"),
        ({"select": "eos9zzz.a"}, "'eos9zzz' has no predictions"),
        ({"select": SCORE, "limit": "many"}, "limit='many' is no number"),
    ],
)
def test_mistake_is_shown_beside_the_question(page, question, words):
    found = page(**question)
    assert any(words in text for text in found.texts)
    if "where" in question:
        assert found.texts[question["where"]] == 1


def test_answer_is_shown_with_its_numbers_and_its_gaps(tables, api):
    ranked = Distribution("count", "values", 30, 0, counts=(30,), values=(7,), percentiles=(7,) * 101)
    publish_card(tables, card(distributions=(ranked,)))
    answer = {
        "id": "0" * 32,
        "matched": 2,
        "screened": 30,
        "models": [{"model": MODEL, "releases": ["v1"], "library_digest": None, "shards": 3, "n_shards": 4,
                    "molecules": 30}],
        "columns": [{"name": name, "type": kind} for name, kind in
                    (("inchikey", "string"), ("smiles", "string"), (COUNT, "integer"), (LABEL, "string"))],
        "rows": [[KEYS[0], "CCO", 2**63 - 1, "<b>"], [KEYS[1], "C", None, None]],
        "distributions": [],
    }  # fmt: skip
    question = {"where": f"{COUNT} > 1", "order": "", "select": "", "limit": "100"}
    shown = api.post("/hits", {"question": question, "answer": answer})
    assert shown.status == 200
    page = Page(shown.text)
    assert f'title="{2**63 - 1}"' in shown.text or page.texts[str(2**63 - 1)] == 1
    assert page.texts["<b>"] == 1
    assert page.texts["P100"] == 1
    assert any(text.startswith(f"Screened are 3 of the 4 shards of {MODEL}") for text in page.texts)
    assert any(f"Screen {'0' * 32} of {MODEL} v1, library incomplete." in text for text in page.texts)
