"""The pages for people: all models with a search, one model with its plots, and the box for pasted molecules.

They are jinja2 templates and work without a script; a script of a few KB looks molecules up through the other routes
and searches while one types. Pages load nothing from elsewhere, and their content policy allows only their own style
and script.
"""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from precalc_assets.api.answers import MAX_MOLECULES
from precalc_assets.api.inchikeys import MAX_SMILES
from precalc_assets.api.problems import shortened, unavailable
from precalc_assets.api.routes import MAX_VALUES
from precalc_assets.api.served import ServedModels
from precalc_assets.cards import ModelCard, name_variation
from precalc_assets.cards.plots import draw
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import shard_keys

if TYPE_CHECKING:
    # jinja2 takes 40 ms to load, and a Lambda that is asked for predictions needs none of it.
    import jinja2

HTML = "text/html; charset=utf-8"

COLUMNS_PER_PAGE = 50
"""Columns of a model that a page shows; there may be thousands."""

_LONGEST_SEARCH = 100
_LONGEST_DESCRIPTION = 300
"""Shown characters of a column's description, so that a page of them is less than 20 KB."""
_MOST_SHARDS = 1_000
"""Shards that are drawn one by one."""

_WIDE = MAX_VALUES // MAX_MOLECULES
"""The largest number of columns for which `MAX_MOLECULES` is the limit of a request."""

_TEMPLATES = Path(__file__).parent / "templates"


class _Row(NamedTuple):
    """A model in the list."""

    model: str
    card: ModelCard | None


class _Option(NamedTuple):
    """A model to choose.

    `n` is its number of columns if that limits the molecules in a request, 0 if it is unknown, else None.
    """

    model: str
    n: int | None


def add_pages(app: FastAPI, models: ServedModels) -> None:
    """Add the pages for these models."""

    @app.get("/", include_in_schema=False)
    def show_models(request: Request) -> Response:
        root = request.scope["root_path"]  # A stage of API Gateway, or nothing.
        try:
            return _page("index.html", root, _index(models, _searched(request, "q")))
        except TableError as error:
            return _unavailable(root, error)

    @app.get("/browse/{model}", include_in_schema=False)
    def show_model(request: Request, model: str) -> Response:
        root = request.scope["root_path"]
        try:
            entry = models.find(model)
        except TableError as error:
            return _unavailable(root, error)
        if entry is None:
            message = f"No predictions of {shortened(model)} are served."
            return _message(root, HTTPStatus.NOT_FOUND, "No such model", message)
        return _page("model.html", root, _one(entry, root, _searched(request, "find"), _searched(request, "from")))


def _index(models: ServedModels, searched: str) -> dict[str, Any]:
    rows = [_Row(*entry) for entry in models.cards().items()]
    words = searched.casefold().split()
    return {
        "q": searched,
        "n_models": len(rows),
        "molecules": max((row.card.molecules for row in rows if row.card), default=0),
        "shown": [row for row in rows if _matches(words, row)],
        "options": [_option(row) for row in rows],
    }


def _matches(words: Sequence[str], row: _Row) -> bool:
    card = row.card
    text = " ".join(
        (row.model, card.metadata.title, *card.metadata.tags, card.metadata.description) if card else (row.model,)
    ).casefold()
    return all(word in text for word in words)


def _option(row: _Row) -> _Option:
    width = len(row.card.columns) if row.card else 0
    return _Option(row.model, width if row.card is None or width > _WIDE else None)


def _one(entry: CatalogueEntry, root: str, find: str, first: str) -> dict[str, Any]:
    card, columns = entry.card, entry.reader.columns
    matching = list(_found(columns, find))
    start = min(int(first), len(matching)) if re.fullmatch(r"[1-9][0-9]{0,5}", first) else 1
    by_release: dict[str, list[str]] = defaultdict(list)
    for shard, directory in entry.directories.items():
        by_release[directory.release].append(shard)
    n_shards = entry.reader.n_shards
    drawn = shard_keys(n_shards) if n_shards <= _MOST_SHARDS else []

    def page_link(at: int) -> str:
        asked = {name: str(value) for name, value in (("find", find), ("from", max(1, at))) if value}
        return f"{root}/browse/{entry.model}?{urlencode(asked)}#columns-title"

    return {
        "model": entry.model,
        "card": card,
        "molecules": entry.molecules,
        "n_columns": len(columns),
        "releases": entry.releases,
        "by_release": "; ".join(f"{release}: {_some(by_release[release])}" for release in entry.releases),
        "updated": entry.updated,
        "variation": name_variation(card.varying) if card else "",
        "sources": _sources(card),
        "plots": [draw(distribution) for distribution in card.distributions] if card else [],
        "columns": matching[start - 1 : start - 1 + COLUMNS_PER_PAGE],
        "matching": len(matching),
        "first": start,
        "find": find,
        "per_page": COLUMNS_PER_PAGE,
        "longest_description": _LONGEST_DESCRIPTION,
        "page_link": page_link,
        "n_shards": n_shards,
        "served_shards": len(entry.directories),
        "missing_shards": n_shards - len(entry.directories),
        "shards": [(shard, shard in entry.directories) for shard in drawn],
        "quarantined": _quarantined(card) if card else "",
    }


def _found(columns: Sequence[Column], find: str) -> Iterator[Column]:
    words = find.casefold().split()
    for column in columns:
        text = f"{column.name} {column.description}".casefold()
        if all(word in text for word in words):
            yield column


def _sources(card: ModelCard | None) -> list[tuple[str, str]]:
    if card is None:
        return []
    said = (
        ("Licence", card.metadata.license),
        ("Publication", card.metadata.publication),
        ("Source code", card.metadata.source_code),
    )
    return [(name, text) for name, text in said if text]


def _some(shards: Sequence[str]) -> str:
    """Return which shards these are, as long as they can be named."""
    return f"{len(shards)} shards" if len(shards) > 5 else ", ".join(shards)


def _quarantined(card: ModelCard) -> str:
    if not card.quarantined:
        return "The model answered every molecule."
    share = card.quarantined / max(1, card.molecules)
    return f"The model could not answer {card.quarantined:,} of {card.molecules:,} molecules ({share:.2%})."


def _page(template: str, root: str, shown: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    text = (
        templates()
        .get_template(template)
        .render(
            root=root,
            max_keys=MAX_MOLECULES,
            max_values=MAX_VALUES,
            max_smiles=MAX_SMILES,
            longest_search=_LONGEST_SEARCH,
            **shown,
        )
    )
    # A page is asked for again each time, and comes again only if it is another one: the tag is made where answers are.
    headers = {
        "Cache-Control": "no-cache" if status == HTTPStatus.OK else "no-store",
        "Content-Security-Policy": _policy(),
        "Referrer-Policy": "no-referrer",
    }
    return Response(text, status, headers, HTML)


def _message(root: str, status: HTTPStatus, heading: str, message: str) -> Response:
    return _page("message.html", root, {"heading": heading, "message": message}, status)


def _unavailable(root: str, error: TableError) -> Response:
    problem = unavailable(error)
    message = "The predictions cannot be read at the moment; try again later."
    page = _message(root, problem.status, "Not available", message)
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
    from markupsafe import Markup

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
        "day": _day,
        "paragraphs": _paragraphs,
        "is_link": lambda text: text.startswith(("https://", "http://")),
    }
    # These two are ours, and the policy has the digest of each as it stands between its tags.
    made.globals |= {"css": Markup(_squeezed("site.css")), "js": Markup(_squeezed("page.js"))}  # noqa: S704
    return made


def _day(time: datetime | str) -> str:
    return time[:10] if isinstance(time, str) else f"{time:%Y-%m-%d}"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


@cache
def _squeezed(name: str) -> str:
    """Return a file without indentation and comments; no text in them goes over lines."""
    lines = map(str.strip, (_TEMPLATES / name).read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


@cache
def _policy() -> str:
    style, script = (b64encode(sha256(_squeezed(name).encode()).digest()).decode() for name in ("site.css", "page.js"))
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{style}'",
            f"script-src 'sha256-{script}'",
            "connect-src 'self'",
            "img-src data:",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )
