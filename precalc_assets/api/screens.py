"""`/screens`: molecules by the values of their predictions. The engine is given from outside, since Arrow is not small.

`POST` takes a question as data, `GET` the same as expressions in the URL, which can be cited.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from threading import Semaphore
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi import Query as Parameter
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from precalc.csv_cells import csv_cell, csv_text, spreadsheet_cell
from precalc.expressions import make_question, parse_names
from precalc.source import ScreenAnswer
from precalc_assets.api.answers import CSV, JSON, dump, media_type
from precalc_assets.api.problems import Problem, body_refusals, not_acceptable, refusals
from precalc_assets.api.routes import PROVENANCE
from precalc_assets.platform_errors import MissingTableError, PrecalcError, UsageError
from precalc_assets.screening.query import MOST_ROWS, Query, read_question

Screen = Callable[[Query], ScreenAnswer]
"""Answers a question; raises what `ScreeningEngine.answer` does."""

_AT_ONCE = 2
"""Screens that are answered concurrently: one by several columns of 1.4 million molecules takes 100 MB."""
_WAIT_SECONDS = 5.0
"""How long a screen waits for its turn; it blocks a thread of the server meanwhile."""
_free = Semaphore(_AT_ONCE)

_busy = partial(
    Problem,
    HTTPStatus.TOO_MANY_REQUESTS,
    "too_many_requests",
    "other screens are being answered; try again in a few seconds",
)
_bad_screen = partial(Problem, HTTPStatus.BAD_REQUEST, "bad_screen")
_UNKNOWN_COLUMN = _bad_screen("eos3b5e has no column 'mass'; the nearest name is 'mol_weight'")
_CSV_EXAMPLE = (
    "inchikey,smiles,eos4e40.score,eos3b5e.mol_weight\nBSYNRYMUTXBXSQ-UHFFFAOYSA-N,CC(=O)Oc1ccccc1C(=O)O,0.7,180.159\n"
)

_log = logging.getLogger(__name__)


ScreenFormat = Annotated[
    Literal["csv", "spreadsheet"] | SkipJsonSchema[None],
    Parameter(
        alias="format",
        description="`csv`: exact CSV, as by `Accept: text/csv`. `spreadsheet`: CSV of which a spreadsheet runs no "
        "text as a formula.",
    ),
]


def read_expressions(
    where: str, order: str, select: str, limit: str, distributions: str = "", **options: bool
) -> Query:
    """Return the query that expressions write. Raises Problem that shows the place of a mistake."""
    if not limit.isdecimal():
        raise _bad_screen(f"limit={limit[:40]!r} is no number; write limit=100")
    try:
        names = parse_names(distributions)
        question = make_question(where, order=order, select=select, limit=int(limit[:9]), distributions=names)
        return read_question(question | options)
    except UsageError as error:
        raise _bad_screen(str(error)) from None


def answer_screen(screen: Screen, query: Query) -> ScreenAnswer:
    """Answer a query when it is its turn. Raises Problem."""
    if not _free.acquire(timeout=_WAIT_SECONDS):
        raise _busy()
    try:
        return screen(query)
    except (UsageError, MissingTableError) as error:
        raise _bad_screen(str(error)) from None
    except PrecalcError as error:
        _log.error("%s", error)
        message = "some of the predictions cannot be read at the moment; try again later"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message) from None
    finally:
        _free.release()


def add_screen_routes(app: FastAPI | APIRouter, screen: Screen) -> None:
    """Add the routes that answer screens."""
    responses: dict[int | str, dict[str, Any]] = {
        200: {"content": {CSV: {"schema": {"type": "string"}, "example": _CSV_EXAMPLE}}}
    }
    problems = (_UNKNOWN_COLUMN, not_acceptable(), _busy())

    def respond(request: Request, query: Query, answer_format: str | None) -> Response:
        kind = media_type(request, answer_format)
        answer = answer_screen(screen, query)
        if kind == JSON:
            return Response(dump(asdict(answer)), media_type=JSON, headers={"Vary": "Accept"})
        cell = spreadsheet_cell if answer_format == "spreadsheet" else csv_cell
        text = csv_text([column.name for column in answer.columns], answer.rows, cell)
        headers = {"Content-Disposition": f'attachment; filename="{answer.id}.csv"', "Vary": "Accept"}
        return Response(text, media_type=CSV, headers=headers | {PROVENANCE: json.dumps(answer.provenance)})

    @app.post(
        "/screens",
        summary="Molecules by value",
        description="The molecules whose predictions meet all conditions, of one model or of several, which are joined "
        f"by InChIKey; up to {MOST_ROWS:,} of them, and the number of all. A column is a model, a dot and a name. A "
        "molecule without a value meets `is_null` alone, and comes last; equal ones are in the order of their "
        "InChIKeys. `distributions` are those of the named columns over all molecules that meet the conditions. `id` "
        "is the digest of the question and of the files that were read.",
        tags=["screens"],
        response_model=ScreenAnswer,
        responses=responses | body_refusals(*problems),
    )
    def post_screen(request: Request, query: Query, answer_format: ScreenFormat = None) -> Response:
        return respond(request, query, answer_format)

    @app.get(
        "/screens",
        summary="Molecules by value, with the question in the URL",
        description="As `POST /screens`, with expressions: `where=eos3b5e.mol_weight between 200 and 400 and "
        "(eos4e40.score > 0.5 or eos4e40.score is null)`, `order=eos4e40.score desc`, `select=eos3b5e.mol_weight`. A "
        "name that is not a plain word is in double quotes, a text in single quotes.",
        tags=["screens"],
        response_model=ScreenAnswer,
        responses=responses | refusals(*problems),
    )
    def get_screen(
        request: Request,
        where: Annotated[str, Parameter(description="Conditions, joined by `and`.")] = "",
        order: Annotated[str, Parameter(description="Columns to order by, each with `asc` or `desc`.")] = "",
        select: Annotated[str, Parameter(description="Columns to answer with; those of `order` and `where`.")] = "",
        distributions: Annotated[str, Parameter(description="Columns whose distributions are wanted.")] = "",
        library_bars: Annotated[
            bool, Parameter(description="Count `distributions` in the bars of the library's.")
        ] = False,
        allow_mixed: Annotated[bool, Parameter(description="Join models of different libraries.")] = False,
        limit: Annotated[str, Parameter(description=f"The most molecules, up to {MOST_ROWS:,}.")] = "100",
        answer_format: ScreenFormat = None,
    ) -> Response:
        options = {"library_bars": library_bars, "allow_mixed": allow_mixed}
        query = read_expressions(where, order, select, limit, distributions, **options)
        return respond(request, query, answer_format)
