"""The rows of a reader's file with their predictions, as `precalc get` writes them and as the page shows them.

The page sends what `POST /rows` and `POST /inchikeys` answered, some rows at a time, and gets back CSV or a table in
HTML. Nobody else asks for these routes, which change with the page.
"""

from collections.abc import Sequence, Sized
from typing import Self

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.responses import Response

from precalc.formats import Block, CsvFormat, Layout, SpreadsheetFormat
from precalc.statuses import (
    FOUND,
    MODEL_FAILED,
    NOT_IN_LIBRARY,
    NOT_PREDICTED_YET,
    OTHER_FORM,
    UNREADABLE,
    asked_forms,
    compare_forms,
)
from precalc_assets.api.answers import JSON, ModelId, dump
from precalc_assets.api.html_pages import HTML, templates
from precalc_assets.api.problems import unknown_model
from precalc_assets.api.routes import check_number
from precalc_assets.api.served import Predictions, ServedModels

_SHOWN_COLUMNS, _SHOWN_OWN = 50, 50
_SHOWN_CHARACTERS = 200
"""What the page shows of predictions, of a reader's own columns, and of one of their cells; the download has all."""

IN_WORDS = {
    FOUND: "found",
    MODEL_FAILED: "the model gave no value",
    NOT_PREDICTED_YET: "not predicted yet",
    NOT_IN_LIBRARY: "not in the library",
    UNREADABLE: "not read",
}


class Rows(BaseModel):
    """Rows of a file: the names of its columns, and lists with an entry for each row.

    `library_forms` are the library's SMILES as this service's RDKit writes them, where another version wrote them.
    `first` says that the rows are the first ones, above which CSV has a header.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    names: list[str]
    numbers: list[int]
    texts: list[str]
    cells: list[list[str]]
    inchikeys: list[str | None]
    forms: list[str | None]
    reasons: list[str | None]
    library_forms: dict[str, str | None] = {}
    first: bool = False

    @model_validator(mode="after")
    def _have_one_length(self) -> Self:
        lists: tuple[Sized, ...] = (self.numbers, self.texts, self.cells, self.inchikeys, self.forms, self.reasons)
        if len(set(map(len, lists))) > 1 or any(len(row) != len(self.names) for row in self.cells):
            raise ValueError("the lists have different lengths")
        return self


def add_predicted_rows(app: FastAPI, models: ServedModels) -> None:
    """Add the routes for these models."""

    @app.post("/models/{model}/rows", include_in_schema=False)
    def write_rows(model: ModelId, body: Rows) -> Response:
        predictions, block = _predict(models, model, body)
        layout = Layout(tuple(predictions.columns), tuple(body.names))
        exact, safe = (_csv(kind(layout, {}), block, header=body.first) for kind in (CsvFormat, SpreadsheetFormat))
        found = zip(block.statuses, block.matches, body.forms, predictions.smiles, strict=True)
        others, missing = [], []
        for status, match, form, smiles in found:
            if match == OTHER_FORM and smiles not in body.library_forms:
                others.append(smiles)
            if status in (NOT_IN_LIBRARY, NOT_PREDICTED_YET):
                missing.append(form or smiles)
        answer: dict[str, object] = {
            "csv": exact,
            "spreadsheet": None if safe == exact else safe,
            "statuses": [IN_WORDS[status] for status in predictions.statuses],
            "matches": block.matches,
            "other_forms": list(dict.fromkeys(others)),
            "missing": [*filter(None, missing)],
            "releases": predictions.releases,
            "deterministic": predictions.entry.deterministic,
        }
        return Response(dump(answer), media_type=JSON)

    @app.post("/models/{model}/rows/shown", include_in_schema=False)
    def show_rows(model: ModelId, body: Rows) -> Response:
        entry = models.find(model)
        columns = [column.name for column in entry.reader.columns[:_SHOWN_COLUMNS]] if entry else None
        predictions, block = _predict(models, model, body, columns)
        page = templates().get_template("rows.html")
        shown = {
            "names": body.names[:_SHOWN_OWN],
            "numbers": body.numbers,
            "block": block,
            "drawn": [form or smiles for form, smiles in zip(body.forms, predictions.smiles, strict=True)],
            "columns": predictions.columns,
            "percentiles": models.percentiles(predictions.entry, [column.name for column in predictions.columns]),
            "n_columns": len(predictions.entry.reader.columns),
            "words": IN_WORDS,
            "n_own": _SHOWN_OWN,
            "longest": _SHOWN_CHARACTERS,
        }
        return Response(page.render(shown), media_type=HTML)


def _predict(
    models: ServedModels, model: str, rows: Rows, columns: Sequence[str] | None = None
) -> tuple[Predictions, Block]:
    """Return the predictions of rows, of some columns or all, and the rows with them as formats write them."""
    keys = [key or "" for key in rows.inchikeys]
    entry = models.find(model)
    if entry:
        check_number(entry, keys, columns)
    predictions = models.read(model, keys, columns=columns, library=models.smiles(keys))
    if predictions is None:
        raise unknown_model(model)
    known = [rows.library_forms.get(smiles or "") or smiles for smiles in predictions.smiles]
    matches = compare_forms(asked_forms(rows.texts, rows.forms), known, predictions.rows)
    others = [s if match == OTHER_FORM else None for s, match in zip(predictions.smiles, matches, strict=True)]
    reasons = [reason or None for reason in rows.reasons]
    block = Block(
        rows.inchikeys, rows.texts, predictions.statuses, reasons, matches, others, predictions.rows, rows.cells
    )
    return predictions, block


def _csv(writer: CsvFormat, block: Block, *, header: bool) -> str:
    return ((writer.start() if header else b"") + writer.encode(block)).decode()
