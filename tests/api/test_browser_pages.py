"""The pages in a real browser, on a real `precalc api` with predictions of a built-in model: as a chemist uses them."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pyarrow.parquet as pq
import pytest
from gateway_events import event
from made_up import serve
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright
from rdkit import RDConfig
from serving import KEYS, Api, card
from spreadsheet import write_workbook

from precalc_assets.api.drawings import add_drawing_route
from precalc_assets.api.inchikeys import add_inchikey_routes
from precalc_assets.api.row_reading import add_row_reading
from precalc_assets.api.screens import Screen, add_screen_routes
from precalc_assets.cards.model_card import publish_card
from precalc_assets.cards.publishing import make_card
from precalc_assets.columns import Column
from precalc_assets.screening.engine import open_engine
from precalc_assets.settings import Settings
from precalc_assets.storage import open_store
from precalc_assets.tables import KeyValueStore, open_tables

pytestmark = pytest.mark.slow

MODEL = "eos0aaa"
N_MOLECULES = 300
SIZES = ((1280, 900), (390, 844))
WEIGHT = 100_000
PRECALC = str(Path(sys.executable).parent / "precalc")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

UNKNOWN = "C" * 60
HEADER = ("name", "Canonical SMILES", "batch")


class Served:
    """Stores with the model's predictions of some molecules of the NCI's, and the server of them."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.settings = {
            "PRECALC_STORE_URL": f"file://{root / 'store'}",
            "PRECALC_TABLES_URL": f"sqlite:///{root / 'tables.db'}",
            "PRECALC_CACHE_DIR": str(cache),
            "PRECALC_N_SHARDS": "4",
        }
        source = root / "library.smi"
        with (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").open() as file:
            lines = [line.split()[0] for line, _ in zip(file, range(N_MOLECULES), strict=False)]
        source.write_text("\n".join(lines) + "\n")
        for arguments in (["library", "build", str(source)], ["predict", MODEL], ["load", MODEL]):
            subprocess.run([PRECALC, *arguments], env=self.environment, cwd=root, check=True, capture_output=True)
        store = open_store(self.settings["PRECALC_STORE_URL"])
        publish_card(self.tables, make_card(store, self.tables, MODEL, Settings(n_shards=4, cache_dir=cache)))

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRECALC_")}
        return {**inherited, **self.settings}

    @property
    def tables(self) -> KeyValueStore:
        return open_tables(self.settings["PRECALC_TABLES_URL"])

    def rows(self) -> dict[str, dict]:
        """Return the rows of the Parquet files, by InChIKey."""
        folder = self.root / "store" / "predictions" / f"model={MODEL}"
        rows = [row for path in sorted(folder.iterdir()) for row in pq.ParquetFile(path).read().to_pylist()]
        return {row["inchikey"]: row for row in rows}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Served:
    return Served(tmp_path_factory.mktemp("served"), models_cache)


@pytest.fixture(scope="module")
def url(served: Served) -> Iterator[str]:
    command = [PRECALC, "api", "--port", "0"]
    with subprocess.Popen(
        command, env=served.environment, cwd=served.root, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield re.search(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(f"there is no {', '.join(BROWSERS)} on the PATH; `apt-get install chromium` installs one")
    with sync_playwright() as playwright:
        # A container's root may not make the sandbox; what is opened are our own pages.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a page in a context of its own; errors in its console fail the test."""
    contexts, wrong = [], []

    def listen(page: Page, allowed: str) -> None:
        def note(message) -> None:
            if message.type in {"error", "warning"} and not (allowed and re.search(allowed, message.text)):
                wrong.append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: wrong.append(str(error)))

    def start(address: str = "", size: tuple[int, int] = SIZES[0], *, allowed: str = "", **options) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        listen(page, allowed)
        if address:
            page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert wrong == []


def spreadsheet(served: Served) -> tuple[list[tuple[str, str, str]], list[dict | None]]:
    """Return the cells of a spreadsheet with ten molecules, and the predictions of each; None for those without."""
    rows = list(served.rows().values())[:: N_MOLECULES // 9][:8]
    texts = [row["inchikey"] if at in (2, 5) else row["smiles"] for at, row in enumerate(rows)]
    texts[3:3], texts[7:7] = ["not-a-molecule"], [UNKNOWN]
    order = [*rows[:3], None, *rows[3:6], None, *rows[6:]]
    notes = ["=1+1", 'say "a, b"', " 007 ", "", "-0.97", "é", "x", "", "1e5", "@"]
    return [(f"compound {at}", text, note) for at, (text, note) in enumerate(zip(texts, notes, strict=True))], order


def as_pasted(rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in [HEADER, *rows])


def look_up(page: Page, text: str | None = None) -> Locator:
    if text is not None:
        page.get_by_label("Molecules", exact=True).fill(text)
    page.get_by_role("button", name="Look up").click()
    page.locator("#result").wait_for()
    return page.locator("#table tbody tr")


def read_download(page: Page, name: str) -> list[list[str]]:
    with page.expect_download() as download:
        page.get_by_role("link", name=name).click()
    return list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"), newline="")))


@pytest.mark.parametrize(("size", "way"), [(SIZES[0], "pasted"), (SIZES[1], "file")])
def test_spreadsheet_comes_back_with_its_predictions(served, url, open_page, size, way, tmp_path):
    page = open_page(url, size)
    page.get_by_label("Search").fill("drug-likeness logp")
    page.get_by_text("1 of 1 models match").wait_for()
    page.get_by_role("link", name=MODEL).click()
    page.get_by_role("heading", name="Physicochemical properties by RDKit").wait_for()

    own, order = spreadsheet(served)
    if way == "file":
        write_workbook(tmp_path / "compounds.xlsx", {"Sheet1": [HEADER, *own]})
        page.get_by_label("Choose a file").set_input_files(tmp_path / "compounds.xlsx")
        shown = look_up(page)
    else:
        shown = look_up(page, as_pasted(own))

    assert page.locator("#status").inner_text() == "8 of 10 molecules found, 1 not read, 1 not in the library."
    assert page.evaluate("document.activeElement.id") == "result"
    # All but the text that is no molecule are drawn, those that are given by InChIKey too.
    page.locator("tr:last-child .picture img").wait_for()
    assert [row.locator("img").count() for row in shown.all()] == [
        known is not None or at == 7 for at, known in enumerate(order)
    ]
    assert page.locator(".picture img").evaluate_all("all => all.every((one) => one.naturalWidth === 150)")
    columns = [name for name in order[0] if name not in ("inchikey", "smiles")]
    cells = [row.locator("th, td").evaluate_all(TEXT_AND_TITLE) for row in shown.all()]
    assert [[text for text, _ in row[2:5]] for row in cells] == [[cell.strip() for cell in row] for row in own]
    assert cells[3][5][0].startswith("not read\nSMILES Parse Error")
    for row, known in zip(cells, order, strict=True):
        for (cell, title), name in zip(row[6:], columns, strict=True):
            text, _, percentile = cell.partition("\n")
            assert (title or text) == ("" if known is None else repr(known[name]))
            assert len(re.sub(r"e.*|\D", "", text).strip("0")) <= 6
            assert re.fullmatch("" if known is None else r"P(\d|\d\d|100)", percentile)

    header, *rows = read_download(page, "Download CSV")
    leading = ["inchikey", "status", "reason", "match", "library_smiles"]
    assert header == [*HEADER, *leading, *columns]
    assert [tuple(row[:3]) for row in rows] == own
    assert [row[6] for row in rows] == ["same", "same", "key", "", "same", "same", "key", "", "same", "same"]
    for row, known in zip(rows, order, strict=True):
        assert row[8:] == ([""] * len(columns) if known is None else [repr(known[name]) for name in columns])
    formulas = {"=1+1": "'=1+1", "@": "'@"}
    safe = [[*row[:2], formulas.get(row[2], row[2]), *row[3:]] for row in rows]
    assert read_download(page, "CSV for spreadsheets") == [header, *safe]
    assert read_download(page, "Missing molecules") == [["smiles"], [UNKNOWN]]


TEXT_AND_TITLE = "cells => cells.map((cell) => [cell.innerText, cell.title])"


def test_download_is_the_file_that_get_writes(served, url, open_page, tmp_path):
    path = tmp_path / "compounds.tsv"
    path.write_text(as_pasted(spreadsheet(served)[0]))
    command = [PRECALC, "get", MODEL, "-i", str(path), "-o", str(tmp_path / "answers.csv")]
    subprocess.run(command, env=served.environment, cwd=served.root, check=True, capture_output=True)
    page = open_page(f"{url}/browse/{MODEL}")
    page.get_by_label("Choose a file").set_input_files(path)
    look_up(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    assert Path(download.value.path()).read_text() == (tmp_path / "answers.csv").read_text()


def test_example_of_the_page_is_found(url, open_page):
    page = open_page(f"{url}/browse/{MODEL}")
    page.get_by_role("button", name="Try an example").click()
    page.get_by_label("Molecules", exact=True).press("Control+Enter")
    page.get_by_text("3 of 3 molecules found.").wait_for()


def test_command_is_copied_as_it_stands(url, open_page):
    page = open_page(f"{url}/browse/{MODEL}", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy curl").click()
    page.get_by_role("button", name="Copied curl").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout.startswith('{"model"')


def test_unknown_column_is_asked_for(served, url, open_page):
    page = open_page(f"{url}/browse/{MODEL}", allowed="400")
    smiles = next(iter(served.rows().values()))["smiles"]
    page.get_by_label("Molecules", exact=True).fill(f"a\tb\n1\t{smiles}\n")
    page.get_by_role("button", name="Look up").click()
    page.get_by_text("the second column looks like SMILES").wait_for()
    assert page.evaluate("document.activeElement.id") == "column"
    page.keyboard.type("b")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 1 molecule found.").wait_for()


def test_rows_are_shown_by_the_hundred_and_by_status(served, url, open_page):
    page = open_page(f"{url}/browse/{MODEL}")
    rows = [row["inchikey"] for row in served.rows().values()][:120]
    shown = look_up(page, "\n".join([*rows, UNKNOWN]))
    assert shown.count() == 100
    page.get_by_role("button", name="Next").click()
    page.get_by_text("101 to 121 of 121").wait_for()
    assert shown.first.locator("td").first.inner_text() == "101"
    page.get_by_label("Show", exact=True).select_option("not in the library")
    page.get_by_text("1 to 1 of 1").wait_for()
    assert shown.locator("th").all_inner_texts() == [UNKNOWN]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/", f"/browse/{MODEL}", "/screen"])
def test_page_is_one_small_answer_that_fits_its_screen(url, open_page, path, size):
    page = open_page(size=size)
    answers = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(url + path)
    assert [urlsplit(answer.url).path for answer in answers] == [path]
    plots = page.evaluate("[...document.querySelectorAll('figure')].map((f) => f.outerHTML.length)")
    assert len(answers[0].body()) - sum(plots) < WEIGHT
    assert answers[0].headers["content-encoding"] == "gzip"
    # What is wider than the screen scrolls in a box of its own.
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


CONTRASTS = """() => {
  const parse = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const texts = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!texts.length || !element.checkVisibility() || element.closest("svg, script, style")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.push(element.tagName + " " + texts[0].textContent.trim() + " " + ratio);
  }
  return faint;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_scheme(served, url, open_page, scheme):
    """Contrast of WCAG 2.2, AA: 4.5 to 1, and 3 to 1 for large text."""
    page = open_page(f"{url}/browse/{MODEL}", color_scheme=scheme, reduced_motion="reduce")
    look_up(page, as_pasted(spreadsheet(served)[0]))
    assert page.evaluate(CONTRASTS) == []
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"


def test_pages_work_by_keyboard_with_visible_focus(served, url, open_page):
    page = open_page(url)
    row = next(iter(served.rows().values()))

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            # A field for a file is hidden, and shows that it has the focus on its label.
            shown = "(e => e.matches('.sr') ? e.nextElementSibling : e)(document.activeElement)"
            outline = f"getComputedStyle({shown}).outlineStyle"
            assert page.evaluate(f"document.activeElement === document.body || {outline} !== 'none'")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        pytest.fail(f"{selector} is not reached by Tab")

    tab_to(".skip")
    tab_to("#molecules")
    page.keyboard.insert_text(row["inchikey"])
    tab_to("#file")
    tab_to("#model")
    page.keyboard.type(MODEL)
    tab_to("#lookup [type=submit]")
    page.keyboard.press("Enter")
    page.locator("#result").wait_for()
    tab_to("#download")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == f"{MODEL}.csv"
    assert repr(row["molecular_weight"]) in Path(download.value.path()).read_text()
    tab_to(".scroll:has(#table)")
    tab_to("#q")
    page.keyboard.type("properties")
    tab_to(".models a")
    # The answer to the search takes the table's place, and the focus with it.
    page.get_by_text("match “properties”").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/browse/{MODEL}")


def test_search_works_without_javascript_but_the_box_does_not(url, open_page):
    page = open_page(url, java_script_enabled=False)
    assert page.get_by_text("This box needs JavaScript").is_visible()
    assert not page.get_by_label("Molecules", exact=True).is_visible()
    page.get_by_label("Search").fill("zebrafish")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("0 of 1 models match").wait_for()
    page.get_by_role("link", name="see all models").click()
    page.get_by_role("link", name=MODEL).click()
    page.get_by_role("img", name=re.compile("Histogram of logp")).wait_for()


class Gateway:
    """API Gateway's stage v1 before the Lambda's own code, for a browser that knows `https://precalc.test/v1` alone."""

    def __init__(self, page: Page, tables: KeyValueStore, key: str | None = None, screen: Screen | None = None) -> None:
        self.posts: list[tuple[str, str | None, dict]] = []
        self._key = key
        self._api = Api(tables)
        self._thread = ThreadPoolExecutor(1)
        add_inchikey_routes(self._api.app)
        add_row_reading(self._api.app)
        add_drawing_route(self._api.app)
        if screen:
            add_screen_routes(self._api.app, screen)
        page.route("https://precalc.test/**", self._answer)

    def _answer(self, route: Route) -> None:
        request = route.request
        address = urlsplit(request.url)
        path = address.path.removeprefix("/v1")
        assert path != address.path
        if request.method == "POST" or path == "/screens":
            given = request.headers.get("x-api-key")
            is_json = request.method == "POST" and path != "/rows"
            self.posts.append((path, given, json.loads(request.post_data) if is_json else {}))
            # Pages are for all, and the rest for those with a key.
            if given != self._key:
                problem = {"error": {"code": "invalid_api_key", "message": "send a key that is valid"}}
                route.fulfill(status=403, json=problem)
                return
        asked = event(request.method, f"{path}?{address.query}", request.post_data, {**request.headers})
        # Playwright's own event loop runs in this thread.
        found = self._thread.submit(self._api.send, asked).result()
        # `found.text` is not compressed any more.
        headers = {n: value for n, value in found.headers.items() if n not in {"content-encoding", "content-length"}}
        route.fulfill(status=found.status, headers=headers, body=found.text)


def test_page_behind_a_stage_asks_for_the_key_once(served, open_page):
    page = open_page(allowed="403")
    gateway = Gateway(page, served.tables, "right")
    page.goto("https://precalc.test/v1/")
    rows = list(served.rows().values())
    page.get_by_label("Molecules", exact=True).fill(f"{rows[0]['smiles']}\n{rows[1]['inchikey']}")
    page.get_by_label("Model", exact=True).select_option(MODEL)
    page.get_by_role("button", name="Look up").click()
    page.get_by_text("A key is needed: send a key that is valid").wait_for()
    for key in ("wrong", "right"):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use key").click()
        if key == "wrong":
            page.get_by_text("The key was refused").wait_for()
    page.get_by_text("2 of 2 molecules found.").wait_for()

    page.get_by_role("link", name=MODEL).click()
    page.wait_for_url(f"**/v1/browse/{MODEL}")
    look_up(page, rows[2]["inchikey"])
    assert (f"/models/{MODEL}/rows/shown", "right") in [post[:2] for post in gateway.posts[-2:]]
    assert not page.get_by_label("API key").is_visible()


def test_wide_model_is_asked_in_batches_and_keeps_64_bit_values(tmp_path, open_page):
    """1,001 columns let 99 keys through at a time; integers are of 64 bits, texts have quotes and line feeds."""
    names = [f"c{at}" for at in range(1_001)]
    columns = [Column(name, "integer", "", "") for name in names[:-1]] + [Column(names[-1], "string", "", "")]
    largest = 2**63 - 1
    texts = ['a "b",\nc', "=1+1", "", None]
    rows = {key: (largest - at, *[None] * 999, texts[at % 4]) for at, key in enumerate(KEYS[:30])}
    rows[KEYS[3]] = (None,) * 1_001
    tables = open_tables(f"sqlite:///{tmp_path / 'wide.db'}")
    serve(tables, rows, columns=columns)
    publish_card(tables, card(columns=columns))

    page = open_page()
    gateway = Gateway(page, tables)
    page.goto("https://precalc.test/v1/browse/eos3b5e")
    asked = [*KEYS[:30], KEYS[35]] * 10
    look_up(page, "\n".join(asked))

    sizes = [len(body["inchikeys"]) for path, _, body in gateway.posts if path.endswith("/rows") and body]
    assert sizes == [99, 99, 99, 13]
    told = "290 of 310 molecules found, 10 the model gave no value, 10 not in the library."
    assert page.locator("#status").inner_text() == told
    header, *found = read_download(page, "Download CSV")
    assert header[-1] == names[-1]
    first = header.index("c0")
    assert [row[first] for row in found[:5]] == [str(largest), str(largest - 1), str(largest - 2), "", str(largest - 4)]
    assert [row[-1] for row in found[:4]] == ['a "b",\nc', "=1+1", "", ""]
    assert len(found) == 310


def drag(page: Page, column: str, start: float, end: float) -> None:
    """Drag over a histogram, between two places in shares of its width."""
    area = page.locator(f"[data-label={column}] .area")
    area.evaluate("area => area.scrollIntoView({block: 'center'})")
    box = area.bounding_box()
    assert box
    for share in (start, (start + end) / 2, end):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        if share == start:
            page.mouse.down()
    page.mouse.up()


@pytest.mark.parametrize("size", SIZES)
def test_range_is_dragged_and_answers_as_the_command(served, url, open_page, size):
    page = open_page(url, size)
    page.get_by_role("link", name="find molecules by their predicted values").click()
    page.get_by_text(f"{len(served.rows())} of {len(served.rows())} molecules match").wait_for()
    drag(page, "logp", 0.3, 0.6)
    chip = page.get_by_role("button", name=re.compile("Remove the range logp"))
    chip.wait_for()
    page.locator("#answer:not([aria-busy]) .picture img").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    # In front of the library's bars are those of the molecules that match, and none of those outside the range.
    heights = page.locator("[data-label=logp] .match").evaluate_all("all => all.map((bar) => bar.height.baseVal.value)")
    n = len(heights)
    assert max(heights) == 100
    assert heights[: int(0.3 * n)] == [0] * int(0.3 * n)
    assert heights[int(0.6 * n) + 1 :] == [0] * (n - int(0.6 * n) - 1)

    question = dict(parse_qsl(urlsplit(page.url).query))
    low, high = map(float, re.fullmatch(rf"{MODEL}.logp between (\S+) and (\S+)", question["where"]).groups())
    options = [word for name, text in question.items() for word in (f"--{name}", text)]
    done = subprocess.run(
        [PRECALC, "screen", *options],
        env=served.environment,
        cwd=served.root,
        check=True,
        capture_output=True,
        text=True,
    )
    matched = sum(low <= row["logp"] <= high for row in served.rows().values())
    assert 0 < matched < len(served.rows())
    assert page.locator("#matched").inner_text() == f"{matched} of {len(served.rows())} molecules match"
    header, *rows = csv.reader(io.StringIO(done.stdout))
    assert page.locator("#table tbody th").evaluate_all("all => all.map((th) => th.title)") == [row[0] for row in rows]
    assert read_download(page, "Download CSV") == [header, *rows]

    page.reload()
    assert page.locator("#matched").inner_text() == f"{matched} of {len(served.rows())} molecules match"
    chip.click()
    page.get_by_text(f"{len(served.rows())} of {len(served.rows())} molecules match").wait_for()
    assert "where" not in page.url


def test_range_is_chosen_by_keyboard(served, url, open_page):
    page = open_page(f"{url}/screen?select={MODEL}.logp")
    page.get_by_role("slider", name="logp, to").focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
    page.get_by_role("button", name=re.compile("Remove the range logp ≤")).wait_for()
    high = float(page.locator("[name=to]").input_value())
    page.locator("[name=from]").fill("1.5")
    matched = sum(1.5 <= row["logp"] <= high for row in served.rows().values())
    page.get_by_text(f"{matched} of {len(served.rows())} molecules match").wait_for()
    page.locator("#order").select_option(f"{MODEL}.logp desc")
    page.wait_for_url("**order=*")
    top = max(row["logp"] for row in served.rows().values() if row["logp"] <= high)
    page.locator(f"#table tr:first-child td.n:is([title='{top}'], :has-text('{top}'))").wait_for()
    assert page.locator("#table tr:first-child td.n small").inner_text().startswith("P")
    assert page.evaluate(CONTRASTS) == []


def test_mistake_is_shown_at_its_place_until_it_is_mended(served, url, open_page):
    page = open_page(f"{url}/screen?select={MODEL}.logp", allowed="400")
    page.get_by_label("Other conditions").fill(f"{MODEL}.logp is nul")
    page.get_by_text("character 17: `null` is expected").wait_for()
    page.get_by_label("Other conditions").fill(f"{MODEL}.logp is null")
    page.get_by_text("No molecule meets all conditions").wait_for()
    assert page.locator("#problem").inner_text() == ""


def test_screens_work_without_javascript(served, url, open_page):
    page = open_page(f"{url}/screen?select={MODEL}.logp", java_script_enabled=False)
    page.locator("[name=from]").fill("2")
    page.locator("[name=from]").press("Enter")
    matched = sum(row["logp"] >= 2 for row in served.rows().values())
    page.get_by_text(f"{matched} of {len(served.rows())} molecules match").first.wait_for()
    assert dict(parse_qsl(urlsplit(page.url).query))["where"] == f"{MODEL}.logp >= 2"
    page.locator("#add").select_option(f"{MODEL}.qed")
    page.get_by_role("button", name="Show molecules").click()
    page.get_by_role("img", name=re.compile("Histogram of qed")).wait_for()
    page.get_by_role("button", name=f"Remove {MODEL}.logp").click()
    page.get_by_text(f"{len(served.rows())} of {len(served.rows())} molecules match").first.wait_for()


def test_screens_of_another_lambda_ask_for_the_key(served, open_page):
    page = open_page(allowed="403")
    store = open_store(served.settings["PRECALC_STORE_URL"])
    gateway = Gateway(page, served.tables, "right", open_engine(store, served.tables).answer)
    page.goto(f"https://precalc.test/v1/screen?where={MODEL}.logp+>=+2&select={MODEL}.logp")
    page.get_by_text("A key is needed: send a key that is valid").wait_for()
    page.get_by_label("API key").fill("right")
    page.get_by_role("button", name="Use key").click()
    matched = sum(row["logp"] >= 2 for row in served.rows().values())
    page.get_by_text(f"{matched} of {len(served.rows())} molecules match").wait_for()
    page.locator("#answer .picture img").first.wait_for()
    assert len(read_download(page, "Download CSV")) == min(100, matched) + 1
    assert {post[:2] for post in gateway.posts[1:]} == {(path, "right") for path in ("/screens", "/hits", "/drawings")}
