"""The page of screens: histograms of columns, over which a reader drags ranges, and the molecules that meet them.

Its address is the question, in expressions. The page is a form, and the server merges its fields into such an address;
a script asks `/screens` while one drags. Where this process has an engine, the page comes with the answer.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from shlex import quote
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from precalc.expressions import parse_conditions, parse_names, parse_order, write_conditions, write_name
from precalc.source import Distribution, ScreenAnswer
from precalc_assets.api.html_pages import HTML, render_page, templates, unavailable_page
from precalc_assets.api.problems import Problem, shortened
from precalc_assets.api.screens import Screen, answer_screen, read_expressions
from precalc_assets.api.served import ServedModels
from precalc_assets.cards.plots import draw, is_whole
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.screening.query import MOST_ROWS, split

_FIRST_COLUMNS = 3
"""Columns of a model with which a screen begins."""
_MOST_PLOTS = 12
"""Columns of a screen that have plots."""
_MOST_OFFERED = 500
"""Columns of a model in the list to choose from."""
_SHOWN_ROWS = 100
"""Rows in the page's table. Their structures are drawn by one request."""
_LIMITS = ("100", "1000", str(MOST_ROWS))


@dataclass(frozen=True, slots=True)
class Question:
    """A screen in expressions, as in the address of the page."""

    where: str = ""
    order: str = ""
    select: str = ""
    limit: str = _LIMITS[0]
    allow_mixed: str = ""
    """`true`, or nothing."""

    @property
    def address(self) -> str:
        """The query of an address, without what is the default."""
        return urlencode({name: text for name, text in asdict(self).items() if text != getattr(_DEFAULT, name)})


_DEFAULT = Question()


@dataclass(frozen=True, slots=True)
class _Range:
    """The ends of a range as its fields have them. `open` has the signs of the ends that do not belong to it."""

    low: str = ""
    high: str = ""
    open: str = ""

    def write(self, name: str) -> str:
        """Return the range as conditions."""
        if self.low and self.high and not self.open:
            return f"{name} between {self.low} and {self.high}"
        ends = ((">", self.low), ("<", self.high))
        signs = (f"{name} {sign if sign in self.open else f'{sign}='} {end}" for sign, end in ends if end)
        return " and ".join(signs)


class Answered(BaseModel):
    """A question and the answer of `/screens` to it, to be shown."""

    model_config = ConfigDict(extra="forbid")

    question: Question
    answer: ScreenAnswer


@dataclass(frozen=True, slots=True)
class _Figure:
    """A column of the screen: its plot, the ends of a range over it, and the ends of the plot's axis."""

    entry: CatalogueEntry
    column: Column
    name: str
    """As an expression writes it."""
    distribution: Distribution | None

    @property
    def key(self) -> str:
        """The column as the data of a screen have it."""
        return f"{self.entry.model}.{self.column.name}"

    @property
    def plot(self) -> Any:  # noqa: ANN401 - for the template
        """The plot, None without a distribution."""
        return draw(self.distribution) if self.distribution else None

    @property
    def axis(self) -> tuple[float, float, bool] | None:
        """The ends of the axis, and whether the values are whole numbers; None where no range can be chosen."""
        found = self.distribution
        if self.column.type == "string" or found is None or not found.counts:
            return None
        if found.edges:
            return (found.edges[0], found.edges[-1], is_whole(found)) if found.edges[0] < found.edges[-1] else None
        return float(found.values[0]), float(found.values[-1]) + 1, True


def add_screen_page(app: FastAPI, models: ServedModels, screen: Screen | None) -> None:
    """Add the page. `screen` answers screens in this process, if it can."""

    @app.get("/screen", include_in_schema=False)
    def show_screen(request: Request) -> Response:
        root, asked = request.scope["root_path"], request.query_params
        if "column" in asked or "add" in asked:
            return RedirectResponse(f"{root}/screen?{_merge(asked)}", HTTPStatus.SEE_OTHER)
        try:
            shown = _describe(models, screen, request)
        except TableError as error:
            return unavailable_page(root, error)
        scripts, styles = ("page.js", "screen.js"), ("site.css", "screen.css")
        return render_page("screen.html", root, shown, scripts=scripts, styles=styles)

    @app.post("/hits", include_in_schema=False)
    def show_molecules(request: Request, body: Answered) -> Response:
        shown = _show_answer(models, request, body.question, body.answer)
        return Response(templates().get_template("hits.html").render(shown), media_type=HTML)


def _merge(form: QueryParams) -> str:
    """Return the query of the address that says what the fields of the form do."""
    removed = form.get("remove")
    fields = zip(*map(form.getlist, ("column", "from", "to", "open")), strict=False)
    ranges = [_Range(*map(str.strip, ends)).write(name) for name, *ends in fields if name != removed]
    named = [*form.getlist("select"), form.get("add", "")]
    order = form.get("order", "")
    question = Question(
        where=" and ".join(filter(None, [form.get("where", "").strip(), *ranges])),
        order="" if removed and order.startswith(f"{removed} ") else order,
        select=", ".join(dict.fromkeys(name for name in named if name and name != removed)),
        limit=form.get("limit", _DEFAULT.limit),
        allow_mixed=form.get("allow_mixed", ""),
    )
    chosen = form.get("model")
    return question.address + (f"&{urlencode({'model': chosen})}" if chosen and not form.get("add") else "")


def _describe(models: ServedModels, screen: Screen | None, request: Request) -> dict[str, Any]:
    """Return what the page of a question shows."""
    asked = request.query_params
    # A page cannot hold a null character; browsers show another in its place, too.
    texts = {name: asked.get(name, text).replace("\0", "\ufffd") for name, text in asdict(_DEFAULT).items()}
    question = Question(**texts)
    cards = models.cards()
    chosen = asked.get("model") or next((model for model, card in cards.items() if card), "")
    ranges: dict[str, _Range] = {}
    problem, others = "", question.where
    figures: list[_Figure] = []
    try:
        if not question.select and not question.where and not question.order:
            question = replace(question, select=_first_columns(models, chosen))
        where, order = parse_conditions(question.where), parse_order(question.order)
        named = [*parse_names(question.select), *(one["column"] for one in order), *_columns_of(where)]
        figures = _find_figures(models, list(dict.fromkeys(named))[:_MOST_PLOTS])
        ranges, others = _split_ranges(where, {figure.key for figure in figures if figure.column.type != "string"})
        answer = _answer(screen, question) if named else None
    except (UsageError, Problem) as error:
        problem, answer = str(error), None
    entry = models.find(chosen)
    shown = {
        "question": question,
        "others": others,
        "figures": figures,
        "ranges": {figure.key: ranges.get(figure.key, _Range()) for figure in figures},
        "n_models": len({figure.entry.model for figure in figures}),
        "problem": problem,
        "answered": answer is not None,
        "engine": screen is not None,
        "cards": cards,
        "model": chosen,
        "offered": _offer(entry, figures),
        "most_offered": _MOST_OFFERED,
        "n_columns": len(entry.reader.columns) if entry else 0,
        "orders": _orders(figures, question.order),
        "limits": list(dict.fromkeys([*_LIMITS, question.limit])),
    }
    return shown | (_show_answer(models, request, question, answer) if answer else {})


def _answer(screen: Screen | None, question: Question) -> ScreenAnswer | None:
    expressions = (question.where, question.order, question.select, question.limit)
    query = read_expressions(*expressions, allow_mixed=question.allow_mixed == "true")
    return answer_screen(screen, query) if screen else None


def _first_columns(models: ServedModels, model: str) -> str:
    """Return the columns with which a screen of a model begins, numbers first."""
    entry = models.find(model)
    columns = sorted(entry.reader.columns, key=lambda column: column.type == "string") if entry else []
    return ", ".join(write_name(f"{model}.{column.name}") for column in columns[:_FIRST_COLUMNS])


def _columns_of(where: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["column"] for entry in where for one in entry.get("any", [entry])]


def _split_ranges(where: Sequence[Mapping[str, Any]], columns: Collection[str]) -> tuple[dict[str, _Range], str]:
    """Return the ranges of these columns, which have fields for one, and the other conditions as an expression."""
    ranges: dict[str, _Range] = {}
    others = []
    for entry in where:
        column, known = entry.get("column", ""), ranges.get(entry.get("column", ""), _Range())
        added = _read_range(entry) if column in columns else None
        if added is None or (added.low and known.low) or (added.high and known.high):
            others.append(entry)
        else:
            ranges[column] = _Range(known.low + added.low, known.high + added.high, known.open + added.open)
    return ranges, write_conditions(others)


def _read_range(entry: Mapping[str, Any]) -> _Range | None:
    """Return the range that a condition is, None if it is another one."""
    op, value = entry.get("op", ""), entry.get("value")
    if op == "between":
        return _Range(str(entry["value"][0]), str(entry["value"][1]))
    if op in ("ge", "gt"):
        return _Range(low=str(value), open=">" * (op == "gt"))
    return _Range(high=str(value), open="<" * (op == "lt")) if op in ("le", "lt") else None


def _find_figures(models: ServedModels, names: Sequence[str]) -> list[_Figure]:
    """Return the columns of a screen. Raises UsageError for an unknown model or column."""
    by_model: dict[str, list[str]] = defaultdict(list)
    for name in names:
        model, column = split(name)
        by_model[model].append(column)
    figures: dict[str, _Figure] = {}
    for model, wanted in by_model.items():
        entry = models.find(model)
        if entry is None:
            raise UsageError(f"{shortened(model)} has no predictions; the front page lists the models that have")
        distributions = models.distributions(entry, wanted)
        for column, place in zip(wanted, entry.find_columns(wanted) or (), strict=True):
            name = f"{model}.{column}"
            figures[name] = _Figure(
                entry,
                entry.reader.columns[place],
                write_name(name),
                distributions.get(column),
            )
    return [figures[name] for name in names]


def _find_percentiles(models: ServedModels, names: Sequence[str]) -> list[Sequence[float | int]]:
    """Return the percentiles of columns over the library, none for those that are not known, as in an old answer."""
    try:
        figures = _find_figures(models, names)
    except UsageError:
        return [()] * len(names)
    return [each.distribution.percentiles if each.distribution else () for each in figures]


def _offer(entry: CatalogueEntry | None, figures: Sequence[_Figure]) -> list[tuple[str, Column]]:
    """Return the columns of a model that are not in the screen, by the names that expressions write."""
    taken = {figure.name for figure in figures}
    named = ((write_name(f"{entry.model}.{column.name}"), column) for column in entry.reader.columns) if entry else ()
    return [(name, column) for name, column in named if name not in taken][:_MOST_OFFERED]


def _orders(figures: Sequence[_Figure], asked: str) -> dict[str, str]:
    """Return the orders to choose from, in words."""
    orders = {"": "InChIKey"}
    for figure in figures:
        falling, rising = ("Z to A", "A to Z") if figure.column.type == "string" else ("highest first", "lowest first")
        orders |= {f"{figure.name} desc": f"{figure.name}, {falling}", f"{figure.name} asc": f"{figure.name}, {rising}"}
    known = asked.removesuffix(" asc") + " asc"
    return orders if asked in orders else {known if known in orders else asked: asked} | orders


def _show_answer(models: ServedModels, request: Request, question: Question, answer: ScreenAnswer) -> dict[str, Any]:
    """Return what the page shows of an answer."""
    notes = [
        f"Screened are {one.shards:,} of the {one.n_shards:,} shards of {one.model}: the others are not loaded"
        f"{' of every model' if len(answer.models) > 1 else ' yet'}, so their molecules are not among these."
        for one in answer.models
        if one.shards < one.n_shards
    ]
    url = str(request.base_url).rstrip("/")
    options = {name: text for name, text in asdict(question).items() if text and text != getattr(_DEFAULT, name)}
    mixed = options.pop("allow_mixed", "")
    written = [f"--{name} {quote(text)}" for name, text in options.items()] + ["--allow-mixed"] * bool(mixed)
    return {
        "answer": answer,
        "rows": answer.rows[:_SHOWN_ROWS],
        "percentiles": _find_percentiles(models, [column.name for column in answer.columns[2:]]),
        "notes": notes,
        "download": f"{request.scope['root_path']}/screens?{question.address}",
        "command": " \\\n  ".join(["precalc screen", *written, f"-o hits.csv --api {url}"]),
        "arguments": [f"{name}={int(text) if name == 'limit' else repr(text)}," for name, text in options.items()]
        + ["allow_mixed=True,"] * bool(mixed),
        "url": url,
        "citation": f"{url}/screen?{question.address}\nScreen {answer.id} of {answer.citation}.",
    }
