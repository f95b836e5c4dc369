"""The forms of requests and answers: parameters, a class for each JSON body, and predictions as JSON or CSV."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_json as to_json_bytes
from starlette.requests import Request

from precalc.csv_cells import csv_cell, spreadsheet_cell
from precalc.identifiers import INCHIKEY
from precalc.source import ColumnType, Distribution
from precalc.statuses import Match, Status, compare_forms
from precalc_assets.adoption_record import Adoption
from precalc_assets.api.problems import bad_query, malformed_inchikey, not_acceptable, shortened
from precalc_assets.api.served import Predictions
from precalc_assets.cards.model_card import ModelCard
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.emptied_cells import EmptiedColumn
from precalc_assets.tables import Value
from precalc_assets.tables.reader import Row

JSON = "application/json"
CSV = "text/csv"

MAX_MOLECULES = 1_000
"""Molecules in one request, of a model with few columns."""

_NO_DIGIT = b"x"
_DIGITS = b"0123456789" + _NO_DIGIT * 246
"""The digit of each byte, for `bytes.translate`."""

MAX_MODELS = 500
"""Models that one request may name; the hub has 240."""

_MODEL = "eos[0-9][a-z0-9]{3}(-v[0-9]+)?"

# The patterns are for the document. The routes answer an id or a key that does not match with a problem of its own.
ModelId = Annotated[
    str,
    Path(
        description="A model id, with a version if it is not the only one.",
        json_schema_extra={"pattern": f"^{_MODEL}$"},
        examples=["eos3b5e"],
    ),
]
# In JSON Schema, `$` is the end of the text.
INCHIKEY_SCHEMA: dict[str, str | int] = {
    "pattern": INCHIKEY.pattern.replace(r"\Z", "$"),
    "minLength": 27,
    "maxLength": 27,
}
InChIKey = Annotated[str, Field(json_schema_extra={**INCHIKEY_SCHEMA})]
MoleculeKey = Annotated[
    str,
    Path(
        description="A molecule, by its InChIKey.",
        json_schema_extra={**INCHIKEY_SCHEMA},
        examples=["BSYNRYMUTXBXSQ-UHFFFAOYSA-N"],
    ),
]
Include = Annotated[Literal["smiles"] | SkipJsonSchema[None], Query(description="`smiles`: the molecules' SMILES too.")]
AnswerFormat = Annotated[
    Literal["spreadsheet"] | SkipJsonSchema[None],
    Query(alias="format", description="`spreadsheet`: CSV of which a spreadsheet runs no text as a formula."),
]
ColumnNames = Annotated[
    str | SkipJsonSchema[None],
    Query(
        description="The columns to answer with, with commas between them, in this order; all by default. A name with a"
        " comma is in double quotes.",
        examples=["mol_weight"],
    ),
]
ModelIds = Annotated[
    str | SkipJsonSchema[None],
    Query(
        description=f"The requested models, up to {MAX_MODELS}, with commas between them; all by default.",
        json_schema_extra={"pattern": f"^{_MODEL}(,{_MODEL})*$"},
        examples=["eos3b5e,eos4e40"],
    ),
]


class Health(BaseModel):
    """The API is up. This tells nothing about the tables."""

    status: Literal["ok"] = "ok"


class ColumnAnswer(BaseModel):
    """A column of predictions: its values are null or of this type."""

    name: str
    type: ColumnType


class DescribedColumn(ColumnAnswer):
    """A column with its meaning. `direction` is "high" or "low" if that end has more of the property, else empty."""

    direction: str
    description: str


class ModelSummary(BaseModel):
    """A model in the list. Fields are null until the model is published."""

    model: str
    title: str | None = None
    description: str | None = None
    tags: tuple[str, ...] | None = None
    n_columns: int | None = None
    n_shards: int | None = None
    shards: int | None = None
    molecules: int | None = None
    releases: tuple[str, ...] | None = None
    deterministic: bool | None = None
    updated: str | None = None

    @classmethod
    def of(cls, model: str, card: ModelCard | None) -> "ModelSummary":
        """Return a model's summary, from its card where it has one."""
        if card is None:
            return cls(model=model)
        shared = set(cls.model_fields) - {"shards", "updated"}
        said = card.metadata.model_dump(include=shared) | card.model_dump(include=shared)
        updated = card.updated.isoformat(timespec="seconds")
        return cls(**said, n_columns=len(card.columns), shards=len(card.shards), updated=updated)


class ModelList(BaseModel):
    """All models that are served, by id."""

    models: list[ModelSummary]


class ModelAnswer(BaseModel):
    """One model: columns, coverage and counts from its table, the rest from its card, null without one.

    `shards` are those that are loaded, of `n_shards`. `library_digest` names the version of the reference library, null
    while shards are missing. `quarantined` molecules have no value; `emptied` counts by column the other nulls that
    stand for a cell that is not of the column's type. `deterministic` is false when the model predicts something else
    every time, in the columns of `varying`, or answers other molecules, with none there. `example` says whether it
    reproduces its own. `adopted` tells which earlier release computed the predictions, if this one was shown to print
    the same. The model ran for `runner_hours`, which cost `dollars`, with a `peak_memory` in bytes. `updated` is when a
    shard was last loaded.
    """

    model: str
    title: str | None
    description: str | None
    interpretation: str | None
    tags: tuple[str, ...] | None
    license: str | None
    publication: str | None
    source_code: str | None
    columns: list[DescribedColumn]
    n_shards: int
    shards: list[str]
    molecules: int
    quarantined: int | None
    emptied: tuple[EmptiedColumn, ...] | None
    releases: list[str]
    library_digest: str | None
    deterministic: bool | None
    varying: tuple[str, ...] | None
    example: str | None
    adopted: Adoption | None
    runner_hours: float | None
    dollars: float | None
    peak_memory: int | None
    updated: str | None

    @classmethod
    def of(cls, entry: CatalogueEntry) -> "ModelAnswer":
        """Return the description of a model from its table and its card."""
        from_table = {
            "model": entry.model,
            "columns": [asdict(column) for column in entry.reader.columns],
            "n_shards": entry.reader.n_shards,
            "shards": list(entry.directories),
            "molecules": entry.molecules,
            "releases": entry.releases,
            "library_digest": entry.library_digest,
            "updated": entry.updated,
        }
        answer = dict.fromkeys(cls.model_fields)
        if entry.card:
            shared = set(cls.model_fields)
            answer |= entry.card.metadata.model_dump(include=shared) | entry.card.model_dump(include=shared)
        return cls.model_validate(answer | from_table)


class DistributionsAnswer(BaseModel):
    """How the values of a model's columns are distributed; those that are not known are left out."""

    model: str
    releases: list[str]
    distributions: list[Distribution]


class MoleculeAnswer(BaseModel):
    """One molecule's predictions by column, and the release that made them.

    `status` is "found", or "model_failed" if all values are null. `smiles` is there if the request includes it, null
    if the library's table does not have the molecule.
    """

    model: str
    inchikey: InChIKey
    smiles: str | None = None
    status: Status
    release: str
    library_digest: str | None
    deterministic: bool | None
    columns: list[ColumnAnswer]
    predictions: dict[str, Value]


class OneModelAnswer(BaseModel):
    """One model's predictions of a molecule, null if it has none; `release` is null if the shard is not loaded."""

    model: str
    status: Status
    release: str | None
    library_digest: str | None
    deterministic: bool | None
    columns: list[ColumnAnswer]
    predictions: dict[str, Value] | None


class AllModelsAnswer(BaseModel):
    """One molecule's predictions by many models."""

    inchikey: InChIKey
    smiles: str | None = None
    library_digest: Annotated[
        str | None, Field(description="The version of the library that all these models predicted, null if they differ")
    ]
    models: list[OneModelAnswer]


class MoleculesRequest(BaseModel):
    """The requested molecules, by InChIKey; one that is named twice is answered twice.

    `columns` are the names of those to answer with, in this order, each once; by default all. `forms` are what `POST
    /inchikeys` returns, null for a molecule of which only the InChIKey is known, as for all beyond the end of the list;
    with these, the answer has `matches`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    inchikeys: Annotated[list[str], Field(json_schema_extra={"maxItems": MAX_MOLECULES})]
    columns: list[str] = Field(default_factory=list, min_length=1)
    forms: Annotated[list[str | None], Field(json_schema_extra={"maxItems": MAX_MOLECULES})] = []


class MoleculesAnswer(BaseModel):
    """Predictions in the order of the request: a list of values in the order of `columns`, null for a missing one.

    `statuses` say what came of each molecule: "found"; "model_failed", all values are null; "not_predicted_yet", it is
    in the library; "not_in_library"; or "unreadable", the text is no InChIKey. `counts` has their numbers. `releases`
    are those of the molecules that were found.

    `matches` is there if the request has `forms`. It says what a prediction is for: "same", this form; "other_form",
    another form of the same InChIKey, which is in `smiles`; "key", only the keys were compared; null without one.
    `smiles` is there if the request includes it or has forms, null where it is not known.
    """

    model: str
    releases: list[str]
    library_digest: str | None
    deterministic: bool | None
    counts: dict[Status, int]
    columns: list[ColumnAnswer]
    inchikeys: list[str]
    statuses: list[Status]
    matches: list[Match | None] = Field(default_factory=list)
    smiles: list[str | None] = Field(default_factory=list)
    predictions: list[list[Value] | None]


def molecule_json(predictions: Predictions, *, smiles: bool) -> bytes:
    """Return a `MoleculeAnswer` for the one molecule that was requested, and that is there."""
    one = _one_model(predictions)
    head = {"model": one["model"], "inchikey": predictions.inchikeys[0]}
    return dump(head | ({"smiles": predictions.smiles[0]} if smiles else {}) | one)


def all_models_json(inchikey: str, smiles: dict[str, str | None], models: Sequence[Predictions]) -> bytes:
    """Return an `AllModelsAnswer` for a molecule; `smiles` has its SMILES, if that was requested."""
    digests = {predictions.library_digest for predictions in models}
    return dump(
        {
            "inchikey": inchikey,
            **smiles,
            "library_digest": digests.pop() if len(digests) == 1 else None,
            "models": [_one_model(predictions) for predictions in models],
        }
    )


def provenance(predictions: Predictions) -> dict[str, object]:
    """Return the provenance of an answer for many molecules, with the number of each status."""
    return {
        "model": predictions.entry.model,
        "releases": predictions.releases,
        "library_digest": predictions.library_digest,
        "deterministic": predictions.entry.deterministic,
        "counts": Counter(predictions.statuses),
    }


def to_json(predictions: Predictions, about: dict[str, Sequence[str | None]]) -> bytes:
    """Return a `MoleculesAnswer`; `about` are lists that it has beside the predictions."""
    head = dump(
        {
            **provenance(predictions),
            "columns": _columns(predictions),
            "inchikeys": predictions.inchikeys,
            "statuses": predictions.statuses,
            **about,
        }
    )
    return b'%b,"predictions":%b}' % (head.removesuffix(b"}"), rows_json(predictions.rows))


def rows_json(rows: Sequence[Row | None]) -> bytes:
    """Return rows as JSON."""
    if any(isinstance(row, bytes) for row in rows):
        return b"[%b]" % b",".join(map(_row_json, rows))
    return to_json_bytes(rows, inf_nan_mode="null")


def _row_json(row: Row | None) -> bytes:
    """Return a row as JSON; one of bytes in a small part of the time if all have one digit, as most counts have."""
    if not isinstance(row, bytes):
        return to_json_bytes(row, inf_nan_mode="null")
    digits = row.translate(_DIGITS)
    if _NO_DIGIT in digits:
        return to_json_bytes(list(row))
    text = bytearray(b"[" + b"," * (2 * len(digits) - 1) + b"]")
    text[1::2] = digits
    return bytes(text)


def to_csv(predictions: Predictions, about: dict[str, Sequence[str | None]], *, spreadsheet: bool = False) -> str:
    """Return CSV: a header, and a line for each requested InChIKey, with empty cells for a missing one."""
    cell = spreadsheet_cell if spreadsheet else csv_cell
    names = [cell(column.name) for column in predictions.columns]
    absent = "," * len(names)
    leading: dict[str, Sequence[str | None]] = {"inchikey": predictions.inchikeys, "status": predictions.statuses}
    leading |= {_CSV_NAMES.get(name, name): values for name, values in about.items()}
    heads = [",".join(map(cell, values)) for values in zip(*leading.values(), strict=True)]
    lines = [",".join((*leading, *names))]
    for head, row in zip(heads, predictions.rows, strict=True):
        lines.append(head + absent if row is None else ",".join((head, *map(cell, row))))
    return "\n".join([*lines, ""])


def lists_about(
    predictions: Predictions, forms: Sequence[str | None], *, smiles: bool
) -> dict[str, Sequence[str | None]]:
    """Return the lists of an answer that a request chooses: `matches` if it has forms, `smiles` then and by itself."""
    known = predictions.smiles
    n = len(known)
    matches = {"matches": compare_forms([*forms, *[None] * n][:n], known, predictions.rows)} if forms else {}
    return matches | ({"smiles": known} if forms or smiles else {})


_CSV_NAMES = {"matches": "match"}
"""The column of a list, where its name is another one."""


def dump(answer: dict[str, object]) -> bytes:
    """Return an answer as JSON. Floats are written with as many digits as it takes to read the same ones."""
    # Tables hold no value that is not finite: validation makes it null.
    return to_json_bytes(answer, inf_nan_mode="null")


def _one_model(predictions: Predictions) -> dict[str, object]:
    """Return a `OneModelAnswer` for the one molecule that was requested."""
    entry, (inchikey,), (row,) = predictions.entry, predictions.inchikeys, predictions.rows
    names = [column.name for column in predictions.columns]
    return {
        "model": entry.model,
        "status": predictions.statuses[0],
        "release": predictions.release_of(inchikey),
        "library_digest": predictions.library_digest,
        "deterministic": entry.deterministic,
        "columns": _columns(predictions),
        "predictions": None if row is None else dict(zip(names, row, strict=True)),
    }


def _columns(predictions: Predictions) -> list[dict[str, str]]:
    return [{"name": column.name, "type": column.type} for column in predictions.columns]


def best_type(accept: str) -> str | None:
    """Return the media type that an `Accept` header prefers, JSON without a preference, None if it takes neither.

    The rules are those of RFC 9110, section 12.5.1; malformed parts of the header are ignored.
    """
    wanted: dict[str, float] = {}
    for part in (accept or "*/*").split(","):
        media_range, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((p for p in parameters if p.startswith("q=")), "q=1").removeprefix("q=")
        if _QUALITY.fullmatch(quality):
            wanted[media_range] = float(quality)
    qualities = {
        kind: next((wanted[r] for r in (kind, f"{kind.split('/')[0]}/*", "*/*") if r in wanted), 0.0)
        for kind in (JSON, CSV)
    }
    best = max(qualities, key=qualities.__getitem__)
    return best if qualities[best] else None


def media_type(request: Request, answer_format: str | None) -> str:
    """Return what a request wants predictions as. Raises Problem for what there is not."""
    kind = CSV if answer_format else best_type(request.headers.get("accept", ""))
    if kind is None:
        raise not_acceptable()
    return kind


_QUALITY = re.compile(r"[01](\.\d{0,3})?")


def named_models(models: str) -> list[str]:
    """Return the models that a query names, each once, in its order. Raises Problem."""
    names = list(dict.fromkeys(models.split(",")))
    if "" in names:
        raise bad_query("models= names models with commas between them: models=eos3b5e,eos4e40")
    if len(names) > MAX_MODELS:
        raise bad_query(f"models= names {len(names):,} models; name up to {MAX_MODELS:,} at a time")
    return names


def check_inchikey(inchikey: str) -> None:
    """Raise Problem for a text that is no InChIKey."""
    if not INCHIKEY.match(inchikey):
        raise malformed_inchikey(shortened(inchikey))
