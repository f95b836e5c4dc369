"""The pages in a real browser, on a real `precalc api` with predictions of a built-in model: as a chemist uses them."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from gateway_events import event
from made_up import serve
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright
from rdkit import RDConfig
from serving import KEYS, Api, card

from precalc_assets.api.inchikeys import add_inchikey_routes
from precalc_assets.cards import publish_card
from precalc_assets.cards.publishing import make_card
from precalc_assets.columns import Column
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
PASTED = "smiles\n{0} a name\n{1}; {2}\n\nnot-a-molecule\n{3}\r\n{4}\n{5}\n" + UNKNOWN + "\n{6}, {7}\n"


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


def pasted(served: Served) -> tuple[str, list[dict]]:
    """Return what is pasted, and the rows of ten molecules of it in order; None for the two that have none."""
    rows = list(served.rows().values())[:: N_MOLECULES // 9][:8]
    given = [row["inchikey"] if at in (2, 5) else row["smiles"] for at, row in enumerate(rows)]
    order = [*rows[:3], None, *rows[3:6], None, *rows[6:]]
    return PASTED.format(*given), order


def look_up(page: Page, text: str, model: str | None = None) -> Locator:
    page.get_by_label("Molecules", exact=True).fill(text)
    if model:
        page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_role("button", name="Look up").click()
    page.locator("#result").wait_for()
    return page.locator("#table tbody tr")


def read_download(page: Page, name: str) -> list[list[str]]:
    with page.expect_download() as download:
        page.get_by_role("link", name=name).click()
    return list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"), newline="")))


@pytest.mark.parametrize("size", SIZES)
def test_chemist_looks_up_ten_molecules_and_downloads_them(served, url, open_page, size, tmp_path):
    page = open_page(url, size)
    page.screenshot(path=tmp_path / f"models-{size[0]}.png", full_page=True)
    page.get_by_label("Search").fill("drug-likeness logp")
    page.get_by_text("1 of 1 models match").wait_for()
    page.get_by_role("link", name=MODEL).click()
    page.get_by_role("heading", name="Physicochemical properties by RDKit").wait_for()

    text, order = pasted(served)
    shown = look_up(page, text)
    page.screenshot(path=tmp_path / f"model-{size[0]}.png", full_page=True)

    assert page.locator("#status").inner_text() == "8 of 10 molecules found, 1 not precalculated, 1 not read."
    columns = [name for name in order[0] if name not in ("inchikey", "smiles")]
    expected = [[repr(row[name]) for name in columns] for row in order if row]
    cells = [row.locator("td").all_inner_texts() for row in shown.all()]
    assert [row[2:] for row in cells if row[2] != "not precalculated"] == expected
    assert page.locator("#unreadable li").all_inner_texts() == [
        "line 5: not-a-molecule (SMILES Parse Error: check for mistakes around position 3)"
    ]
    assert page.locator("#not-found li").all_inner_texts() == [f"line 9: {UNKNOWN}"]

    header, *rows = read_download(page, "Download CSV")
    assert header == ["input", "inchikey", "smiles", *columns]
    assert len(rows) == 10
    for row, known in zip(rows, order, strict=True):
        if known:
            assert row[1:] == [known["inchikey"], known["smiles"], *(repr(known[name]) for name in columns)]
        else:
            assert row[3:] == [""] * len(columns)
    assert [row[0] for row in rows] == [
        word for word in re.split(r"[\s,;]+", text) if word not in ("smiles", "a", "name", "")
    ]
    assert read_download(page, "Missing molecules") == [["smiles"], [UNKNOWN]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/", f"/browse/{MODEL}"])
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
def test_text_is_readable_in_light_and_dark_scheme(served, url, open_page, scheme, tmp_path):
    """Contrast of WCAG 2.2, AA: 4.5 to 1, and 3 to 1 for large text."""
    page = open_page(f"{url}/browse/{MODEL}", color_scheme=scheme, reduced_motion="reduce")
    look_up(page, pasted(served)[0])
    assert page.evaluate(CONTRASTS) == []
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)


def test_pages_work_by_keyboard_with_visible_focus(served, url, open_page):
    page = open_page(url)
    row = next(iter(served.rows().values()))

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(f"document.activeElement === document.body || {outline} !== 'none'")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        pytest.fail(f"{selector} is not reached by Tab")

    tab_to(".skip")
    tab_to("#molecules")
    page.keyboard.insert_text(row["inchikey"])
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

    def __init__(self, page: Page, tables: KeyValueStore, key: str | None = None) -> None:
        self.posts: list[tuple[str, str | None, dict]] = []
        self._key = key
        self._api = Api(tables)
        self._thread = ThreadPoolExecutor(1)
        add_inchikey_routes(self._api.app)
        page.route("https://precalc.test/**", self._answer)

    def _answer(self, route: Route) -> None:
        request = route.request
        address = urlsplit(request.url)
        path = address.path.removeprefix("/v1")
        assert path != address.path
        if request.method == "POST":
            given = request.headers.get("x-api-key")
            self.posts.append((path, given, {"accept": request.headers["accept"], **json.loads(request.post_data)}))
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
    assert gateway.posts[-1][:2] == (f"/models/{MODEL}/predictions", "right")
    assert not page.get_by_label("API key").is_visible()


def test_wide_model_is_asked_in_batches_and_keeps_64_bit_values(tmp_path, open_page):
    """1,001 columns let 199 keys through at a time; integers are of 64 bits, texts have quotes and line feeds."""
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

    assert [len(body["inchikeys"]) for _, _, body in gateway.posts if body["accept"] == "text/csv"] == [199, 111]
    # The molecule without any value is there; the one that is not precalculated is not.
    assert page.locator("#status").inner_text() == "300 of 310 molecules found, 10 not precalculated."
    header, *found = read_download(page, "Download CSV")
    assert header[-1] == names[-1]
    first = header.index("c0")
    assert [row[first] for row in found[:5]] == [str(largest), str(largest - 1), str(largest - 2), "", str(largest - 4)]
    assert [row[-1] for row in found[:4]] == ['a "b",\nc', "'=1+1", "", ""]
    assert len(found) == 310
