"""The pages are small, work without a script, load nothing, and escape any text."""

import base64
import gzip
import re
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import quote

import pytest
from gateway_events import event
from made_up import MODEL, serve
from serving import KEYS, Api, card, predictions

from precalc.source import Distribution
from precalc_assets.api import html_pages, inchikeys
from precalc_assets.cards.model_card import publish_card
from precalc_assets.cards.plots import draw
from precalc_assets.columns import Column

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
WEIGHT = 100_000


class Page(HTMLParser):
    """What a test asks of a page: its tags with their attributes and text, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: Counter[str] = Counter()
        self.scripts: dict[str, list[str]] = {"script": [], "style": []}
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._in = tag

    def handle_data(self, data):
        if self._in in self.scripts:
            self.scripts[self._in].append(data)
        elif data.strip():
            self.texts[" ".join(data.split())] += 1

    def handle_endtag(self, tag):
        self._in = ""

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag in names]


def distributions(columns=("score",)):
    return tuple(
        Distribution(
            column=name,
            kind="histogram",
            molecules=40,
            nulls=1,
            counts=(1, 30, 8),
            edges=(0.0, 0.5, 1.0, 1.5),
            minimum=-3.0,
            median=0.75,
            maximum=1.25,
        )
        for name in columns
    )


@pytest.fixture
def both(tables, api) -> list[Page]:
    """The page of all models, the page of one with everything on it, and the page of screens."""
    texts = Distribution(
        column="label", kind="values", molecules=40, nulls=0, counts=(9, 3), values=("CCO", HOSTILE), others=28
    )
    publish_card(tables, card(distributions=(*distributions(), texts)))
    return [Page(api.get(path).text) for path in ("/", f"/browse/{MODEL}", "/screen")]


def policy(answer) -> dict[str, str]:
    return dict(part.partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split("; "))


@pytest.mark.parametrize("path", ["/", "/?q=nothing-like-it", f"/browse/{MODEL}", "/browse/eos9zzz", "/screen"])
def test_page_allows_only_its_own_script_and_style(api, path):
    answer = api.get(path)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    allowed = policy(answer)
    assert allowed["default-src"] == allowed["base-uri"] == allowed["frame-ancestors"] == "'none'"
    for kind in ("script", "style"):
        [text] = Page(answer.text).scripts[kind]
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert allowed[f"{kind}-src"] == f"'sha256-{digest}'"


def test_pages_load_nothing_and_have_no_inline_handlers(both):
    for page in both:
        for tag, attrs in page.tags:
            assert "src" not in attrs
            assert "style" not in attrs
            assert not any(name.startswith("on") for name in attrs)
            if tag == "link":
                assert attrs["href"] == "data:,"
        assert not re.search(r"url\(|@import", "".join(page.scripts["style"]))


def test_pages_are_accessible(both):
    for page in both:
        labelled = {attrs["for"] for attrs in page.all("label")}
        fields = [f for f in page.all("input", "select", "textarea") if f.get("type") != "hidden"]
        assert {field["id"] for field in fields} == labelled
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert all("scope" in attrs for attrs in page.all("th"))
        assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in page.all("nav"))
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(set(ids)) == len(ids)
        pointers = [
            attrs[name] for _, attrs in page.tags for name in ("aria-labelledby", "aria-describedby") if name in attrs
        ]
        assert set(pointers) <= set(ids)
        assert {attrs["role"] for _, attrs in page.tags if "role" in attrs} >= {"status", "alert"}
        # What scrolls is reached by the keyboard.
        assert all("tabindex" in attrs for _, attrs in page.tags if attrs.get("class") == "scroll")


def test_page_of_a_model_says_what_it_took(both):
    assert "1.25 runner-hours, $0.50, 350 MB of memory." in both[1].texts


def test_plot_describes_itself_in_words(both):
    [plot] = [attrs for attrs in both[1].all("svg") if attrs.get("role") == "img"]
    assert plot["aria-label"] == (
        "Histogram of score: -3 to 1.25, median 0.75, 1 without a value; most molecules, 77%, at 0.5 to 1"
    )
    assert both[1].texts["up to 0.5: 1"] == both[1].texts["1 to 1.25: 8"] == 1
    assert both[1].texts["CCO"] == both[1].texts["any other"] == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": "values", "counts": ()},
        {"kind": "values", "counts": (3,), "values": (7,), "minimum": 7, "median": 7, "maximum": 7},
        {"kind": "histogram", "counts": (3,), "edges": (0.5, 0.5), "minimum": 0.5, "median": 0.5, "maximum": 0.5},
        {"kind": "histogram", "counts": (3, 2), "edges": (-1e308, 0.0, 1e308), "minimum": -1e308, "maximum": 1e308},
        {"kind": "values", "counts": (2, 1), "values": ("", HOSTILE)},
    ],
)
def test_every_distribution_is_drawn(tables, api, odd):
    distribution = Distribution(column="score", molecules=3, nulls=0, **odd)
    plot = draw(distribution)
    assert len(plot.bars) == len(odd["counts"])
    publish_card(tables, card(distributions=(distribution,)))
    assert api.get(f"/browse/{MODEL}").status == 200


def test_page_of_240_models_is_under_100_kilobytes(tables):
    for at in range(240):
        # SQLite alone knows which tables there are, so these are made without rows.
        model = f"eos{1 + at % 9}{at:03x}"
        tables.create_table(model)
        columns = [Column(f"column_{c}", "float", "high", "What it is") for c in range(1 + at % 300)]
        described = card(
            model,
            title=f"Antimicrobial activity against strain {at} by a graph network"[:70],
            description="A long description. " * 40,
            tags=("Antimicrobial activity", "Bioactivity profile", "ESKAPE"),
            columns=columns,
            molecules=1_998_302,
        )
        publish_card(tables, described)
    api = Api(tables)
    whole, packed = api.get("/"), api.get("/", accept_encoding="gzip")
    assert len(Page(whole.text).all("tr")) == 241
    assert len(whole.text.encode()) < WEIGHT
    assert len(packed.text) == len(whole.text)
    assert len(gzip.compress(whole.text.encode(), 5)) < WEIGHT / 5
    assert len(api.get("/?q=strain+17").text) < len(whole.text)


def test_thousands_of_columns_are_paged_and_searched(tables):
    columns = [Column(f"dim_{at:04}", "integer", "", f"Bit {at} of a fingerprint. " * 20) for at in range(2_048)]
    rows = {key: (1,) * len(columns) for key in KEYS[:2]}
    serve(tables, rows, columns=columns)
    publish_card(tables, card(columns=columns))
    api = Api(tables)

    def browse(query: str) -> tuple[Page, list[str]]:
        answer = api.get(f"/browse/{MODEL}{query}")
        assert len(answer.text.encode()) < WEIGHT
        page = Page(answer.text)
        return page, [text for text in page.texts if text.startswith("dim_")]

    def names(query: str) -> list[str]:
        return browse(query)[1]

    seen, query = [], ""
    while query is not None:
        page, shown = browse(query)
        seen += shown
        following = [a for a in page.all("a") if a.get("rel") == "next"]
        query = following[0]["href"].partition("#")[0].removeprefix(f"/v1/browse/{MODEL}") if following else None
    assert seen == [column.name for column in columns]
    assert names("?find=dim_0777") == ["dim_0777"]
    assert names("?find=nothing-like-it") == []
    assert names("?from=999999") == ["dim_2047"]
    assert names("?from=-3&find=") == names("?from=x") == names("")


def test_box_knows_the_apis_limits(tables, api):
    publish_card(tables, card())
    [form] = [attrs for attrs in Page(api.get("/").text).all("form") if attrs.get("id") == "lookup"]
    assert (form["data-keys"], form["data-values"]) == ("1000", "100000")  # CSV comes in two forms
    assert form["data-smiles"] == str(inchikeys.MAX_SMILES) == str(html_pages.MAX_SMILES)


def test_search_without_a_script_matches_all_words(tables, api):
    serve(tables, predictions(KEYS[:4]), model="eos4e40")
    publish_card(tables, card("eos4e40", title="Antibiotic activity", description="Against E. coli", tags=("ESKAPE",)))
    publish_card(tables, card())

    def found(query: str) -> list[str]:
        page = Page(api.get(f"/?q={query}").text)
        return [attrs["href"].rpartition("/")[2] for attrs in page.all("a") if "/browse/" in attrs["href"]]

    assert found("") == [MODEL, "eos4e40"]
    assert found("ANTIBIOTIC") == found("coli+eskape") == found("eos4e4") == ["eos4e40"]
    assert found("antibiotic+title") == []
    form = next(attrs for attrs in Page(api.get("/?q=coli").text).all("form") if attrs.get("role") == "search")
    assert (form["method"], form["action"]) == ("get", "/v1/")


@pytest.mark.parametrize("word", [HOSTILE, "{{ 7 * 7 }}", "</textarea><script>", "\x00\ufffd", "ü" * 300])
def test_search_text_is_shown_as_text(tables, api, word):
    publish_card(tables, card(columns=[Column(f"c{at}", "float", "", "") for at in range(200)]))
    for path in (f"/?q={quote(word)}", f"/browse/{MODEL}?find={quote(word)}", f"/screen?where={quote(word)}"):
        answer = api.get(path)
        assert answer.status == 200
        assert "<" not in word or word not in answer.text
        assert "\x00" not in answer.text
        page = Page(answer.text)
        assert len(page.all("script")) == 1
        assert not page.all("img")
        assert "49" not in page.texts


def test_metadata_is_shown_as_text_and_only_urls_are_links(tables):
    columns = [Column(HOSTILE, "string", HOSTILE, HOSTILE)]
    serve(tables, dict.fromkeys(KEYS[:4], (HOSTILE,)), columns=columns, release=HOSTILE)
    said = dict.fromkeys(("title", "description", "interpretation", "license"), HOSTILE)
    links = {"publication": "javascript:alert(1)", "source_code": "JavaScript:alert(1)//https://x.org"}
    publish_card(
        tables,
        card(
            **said,
            **links,
            tags=(HOSTILE,),
            columns=columns,
            releases=(HOSTILE,),
            distributions=distributions([HOSTILE]),
        ),
    )
    api = Api(tables)
    for path in ("/", f"/browse/{MODEL}", "/screen"):
        page = Page(api.get(path).text)
        assert len(page.all("script")) == 1
        assert not page.all("img")
        assert not [
            attrs for attrs in page.all("a") if ":" in attrs["href"] and not attrs["href"].startswith("https://")
        ]
    shown = Page(api.get(f"/browse/{MODEL}").text).texts
    assert shown["javascript:alert(1)"] == 1
    assert shown[HOSTILE] >= 5


@pytest.mark.parametrize(
    ("known", "root"),
    [
        ("/v1/", "/v1"),
        ("/v1", "/v1"),
        ("/", ""),
        ("/a/b-c/", "/a/b-c"),
        ("//evil.example/", ""),
        ('/"><b>/', ""),
        (None, ""),
    ],
)
def test_links_begin_with_the_stage(api, known, root):
    asked = event("GET", "/", None, {})
    asked["requestContext"]["path"] = known
    page = Page(api.send(asked).text)
    assert dict(page.tags)["body"] == {"data-root": root}
    assert {attrs["href"] for attrs in page.all("a") if "browse" in attrs["href"]} == {f"{root}/browse/{MODEL}"}


def test_page_of_an_unknown_model_knows_its_stage(api):
    asked = event("GET", "/browse/no model", None, {})
    asked["requestContext"]["path"] = "/v1/browse/no%20model"
    assert "/v1/" in {attrs["href"] for attrs in Page(api.send(asked).text).all("a")}


def test_page_is_sent_again_only_if_it_changed(tables, api):
    first = api.get(f"/browse/{MODEL}")
    assert first.headers["Cache-Control"] == "no-cache"
    assert api.get(f"/browse/{MODEL}", if_none_match=first.headers["ETag"]).status == 304
    assert api.get("/", if_none_match=first.headers["ETag"]).status == 200


def test_unknown_model_has_a_page_that_says_so(api):
    answer = api.get("/browse/eos9zzz")
    assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")
    assert Page(answer.text).texts["No such model"] == 1


def test_pages_work_without_models_or_cards(tables):
    assert "No model is served yet" in Api(tables).get("/").text
    serve(tables, predictions(KEYS), shards=["01"])
    api = Api(tables)
    assert Page(api.get("/").text).texts["not published yet"] == 1
    page = api.get(f"/browse/{MODEL}").text
    assert "1 of 4 shards" in page
    assert page.count('class="no"') == 3


def test_mixed_releases_are_named_with_their_shards(tables):
    serve(tables, predictions(KEYS), release="v1.0.0", shards=["00", "02", "03"])
    serve(tables, predictions(KEYS), release="v2.0.0", shards=["01"])
    assert "v1.0.0: 00, 02, 03; v2.0.0: 01" in Api(tables).get(f"/browse/{MODEL}").text
