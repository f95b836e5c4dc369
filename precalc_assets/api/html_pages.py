"""The pages for people: all models with a search, one model with its plots, and the box for pasted molecules.

They are jinja2 templates and work without a script; a script of a few KB looks molecules up through the other routes
and searches while one types. `screen_page` has the page of screens. Pages load nothing from elsewhere, and their
content policy allows only their own style and script.
"""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from precalc.expressions import write_name
from precalc.percentiles import find_percentile
from precalc.source import cite, name_variation
from precalc_assets.api.answers import MAX_MOLECULES
from precalc_assets.api.inchikeys import MAX_SMILES
from precalc_assets.api.problems import shortened, unavailable
from precalc_assets.api.routes import MAX_VALUES
from precalc_assets.api.row_reading import MAX_FILE_BYTES
from precalc_assets.api.served import ServedModels
from precalc_assets.cards.model_card import Example
from precalc_assets.cards.plots import draw
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_keys

if TYPE_CHECKING:
    # jinja2 takes 40 ms to load, and a Lambda that is asked for predictions needs none of it.
    import jinja2

HTML = "text/html; charset=utf-8"

COLUMNS_PER_PAGE = 24
"""Columns of a model that a page shows; there may be thousands."""

_ANY_KEY = "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
_SHOWN_ROWS = 100
"""Rows of a file that the page shows at a time."""

_LONGEST_SEARCH = 100
_LONGEST_DESCRIPTION = 300
"""Shown characters of a column's description, so that a page of them is less than 20 KB."""
_MOST_SHARDS = 1_000
"""Shards that are drawn one by one."""

_TEMPLATES = Path(__file__).parent / "templates"


def add_pages(app: FastAPI, models: ServedModels) -> None:
    """Add the pages for these models."""

    @app.get("/", include_in_schema=False)
    def show_models(request: Request) -> Response:
        root = request.scope["root_path"]  # A stage of API Gateway, or nothing.
        try:
            cards = models.cards()
        except TableError as error:
            return unavailable_page(root, error)
        searched = _searched(request, "q")
        shown = {
            model: card
            for model, card in cards.items()
            if _has_words(
                searched,
                model,
                *((card.metadata.title, *card.metadata.tags, card.metadata.description) if card else ()),
            )
        }
        molecules = max((card.molecules for card in cards.values() if card), default=0)
        examples = next((_table_of(card.examples) for card in cards.values() if card and card.examples), "")
        content = {"q": searched, "cards": cards, "shown": shown, "molecules": molecules, "examples": examples}
        return render_page("index.html", root, content)

    @app.get("/browse/{model}", include_in_schema=False)
    def show_model(request: Request, model: str) -> Response:
        root = request.scope["root_path"]
        try:
            entry = models.find(model)
            shown = _describe(models, entry, root, request) if entry else None
        except TableError as error:
            return unavailable_page(root, error)
        if shown is None:
            shown = {"heading": "No such model", "message": f"No predictions of {shortened(model)} are served."}
            return render_page("message.html", root, shown, HTTPStatus.NOT_FOUND)
        return render_page("model.html", root, shown)


def _describe(models: ServedModels, entry: CatalogueEntry, root: str, request: Request) -> dict[str, Any]:
    """Return what the page of a model shows."""
    card, columns = entry.card, entry.reader.columns
    find, first = _searched(request, "find"), _searched(request, "from")
    matching = [at for at, column in enumerate(columns) if _has_words(find, column.name, column.description)]
    start = min(int(first), len(matching)) if re.fullmatch(r"[1-9][0-9]{0,5}", first) else 1
    places = matching[start - 1 : start - 1 + COLUMNS_PER_PAGE]
    distributions = models.distributions(entry, [columns[at].name for at in places])
    plots = {name: draw(distribution) for name, distribution in distributions.items()}
    by_release: dict[str, list[str]] = defaultdict(list)
    for shard, directory in entry.directories.items():
        by_release[directory.release].append(shard)
    n_shards = entry.reader.n_shards

    def page_link(at: int) -> str:
        asked = {name: str(value) for name, value in (("find", find), ("from", max(1, at))) if value}
        return f"{root}/browse/{entry.model}?{urlencode(asked)}#columns-title"

    return {
        "model": entry.model,
        "entry": entry,
        "card": card,
        "n_columns": len(columns),
        "by_release": by_release,
        "url": str(request.base_url).rstrip("/"),
        "key": card.examples[0].inchikey if card and card.examples else _ANY_KEY,
        "citation": _citation(entry),
        "examples": _table_of(card.examples) if card and card.examples else "",
        "variation": name_variation(card.varying) if card else "",
        "columns": [(columns[at], plots.get(columns[at].name)) for at in places],
        "matching": len(matching),
        "first": start,
        "find": find,
        "per_page": COLUMNS_PER_PAGE,
        "page_link": page_link,
        "screen_link": lambda column: screen_link(root, entry.model, column),
        "n_shards": n_shards,
        "shards": shard_keys(n_shards) if n_shards <= _MOST_SHARDS else [],
    }


def screen_link(root: str, model: str, column: Column) -> str:
    """Return the address of the screen by a column, the highest numbers first."""
    name = write_name(f"{model}.{column.name}")
    order = {} if column.type == "string" else {"order": f"{name} desc"}
    return f"{root}/screen?{urlencode({'select': name} | order)}"


def _citation(entry: CatalogueEntry) -> str:
    said = entry.card.metadata if entry.card else None
    title = f"{said.title}. " if said and said.title else ""
    paper = f" Model: {said.publication}" if said and said.publication else ""
    return f"{title}Ersilia Model Hub, {cite(entry.model, entry.releases, entry.library_digest)}.{paper}"


def _table_of(examples: Sequence[Example]) -> str:
    """Return molecules as they are copied from a spreadsheet: with names."""
    rows = [("name", "smiles"), *((f"example {at}", each.smiles) for at, each in enumerate(examples, start=1))]
    return "\n".join(map("\t".join, rows))


def _has_words(searched: str, *texts: str) -> bool:
    """Return whether the texts have all words that are searched for, in any case."""
    text = " ".join(texts).casefold()
    return all(word in text for word in searched.casefold().split())


def render_page(
    template: str,
    root: str,
    shown: dict[str, Any],
    status: HTTPStatus = HTTPStatus.OK,
    *,
    scripts: Sequence[str] = ("page.js", "lookup.js"),
    styles: Sequence[str] = ("site.css",),
) -> Response:
    """Return a page with these of our scripts and styles."""
    js, css = "\n".join(map(_squeezed, scripts)), "\n".join(map(_squeezed, styles))
    from markupsafe import Markup

    text = (
        templates()
        .get_template(template)
        .render(
            root=root,
            # These are ours, and the policy has the digest of each as it stands between its tags.
            js=Markup(js),  # noqa: S704
            css=Markup(css),  # noqa: S704
            max_keys=MAX_MOLECULES,
            max_values=MAX_VALUES,
            max_smiles=MAX_SMILES,
            max_bytes=MAX_FILE_BYTES,
            shown_rows=_SHOWN_ROWS,
            wide=MAX_VALUES // MAX_MOLECULES,
            longest_search=_LONGEST_SEARCH,
            longest_description=_LONGEST_DESCRIPTION,
            **shown,
        )
    )
    # A page is asked for again each time, and comes again only if it is another one: the tag is made where answers are.
    headers = {
        "Cache-Control": "no-cache" if status == HTTPStatus.OK else "no-store",
        "Content-Security-Policy": content_policy(js, style=_digest(css), forms="'self'"),
        "Referrer-Policy": "no-referrer",
    }
    return Response(text, status, headers, HTML)


def short_value(value: str | float | None) -> str:
    """Return a value with at most six significant digits."""
    if value is None or isinstance(value, str):
        return value or ""
    short = f"{value:.6g}"
    return repr(value) if len(repr(value)) <= len(short) or float(short) == value else short


def unavailable_page(root: str, error: TableError) -> Response:
    """Return the page that says that the tables cannot be read."""
    problem = unavailable(error)
    shown = {"heading": "Not available", "message": "The predictions cannot be read at the moment; try again later."}
    page = render_page("message.html", root, shown, problem.status)
    page.headers["Retry-After"] = problem.headers["Retry-After"]
    return page


def _searched(request: Request, name: str) -> str:
    """Return a parameter of the address, cut to what makes sense; empty if there is none."""
    text = next(iter(request.query_params.getlist(name)), "")
    return " ".join("".join(letter for letter in text if letter.isprintable()).split())[:_LONGEST_SEARCH]


@cache
def templates() -> "jinja2.Environment":
    """Return the environment of our templates."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "thousands": lambda number: f"{number:,}",
        "day": lambda time: str(time)[:10],
        "paragraphs": lambda text: [part for part in re.split(r"\n\s*\n", text) if part.strip()],
        "short": short_value,
        "percentile": find_percentile,
        "is_link": lambda text: text.startswith(("https://", "http://")),
    }
    return made


@cache
def _squeezed(name: str) -> str:
    """Return a file without indentation and comments; no text in them goes over lines."""
    lines = map(str.strip, (_TEMPLATES / name).read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def content_policy(*scripts: str, style: str = "'unsafe-inline'", forms: str = "'none'") -> str:
    """Return a page's content policy: the browser may run these scripts and call this API, and loads nothing else."""
    return (
        f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; style-src {style}; img-src data:;"
        f" connect-src 'self'; form-action {forms}; base-uri 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    """Return a script or a style as a policy names it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
