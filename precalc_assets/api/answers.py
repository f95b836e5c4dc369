"""What answers look like: the JSON of each route, and predictions of many molecules as JSON or CSV."""

import json
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from precalc_assets.api.served import ServedModel
from precalc_assets.cards import ModelCard
from precalc_assets.columns import ColumnType
from precalc_assets.tables import Value
from precalc_assets.tables.reader import Row

JSON = "application/json"
CSV = "text/csv"


class Health(BaseModel):
    """The API is up; nothing is said of the tables."""

    status: Literal["ok"] = "ok"


class ColumnAnswer(BaseModel):
    """A column of predictions: a value is null or of this type."""

    name: str
    type: ColumnType


class DescribedColumn(ColumnAnswer):
    """A column with what it means; `direction` is "high", "low" or empty: which way is more of the property."""

    direction: str
    description: str


class ModelSummary(BaseModel):
    """A model in the list. What is null is not known before the model is published."""

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
        return cls(
            model=model,
            title=card.title,
            description=card.description,
            tags=card.tags,
            n_columns=len(card.columns),
            n_shards=card.n_shards,
            shards=len(card.shards),
            molecules=card.molecules,
            releases=card.releases,
            deterministic=card.deterministic,
            updated=card.updated.isoformat(timespec="seconds"),
        )


class ModelList(BaseModel):
    """All models that are served, by id."""

    models: list[ModelSummary]


class ModelAnswer(BaseModel):
    """One model: columns, coverage and counts are its table's; what only its card says is null without one.

    `shards` are those that are loaded, of `n_shards`. `library_digest` names the version of the reference library, null
    while shards are missing. `deterministic` is false when the model predicts something else every time, in the
    columns of `varying`, or answers other molecules, with none there. `updated` is when a shard was last loaded.
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
    releases: list[str]
    library_digest: str | None
    deterministic: bool | None
    varying: tuple[str, ...] | None
    updated: str | None

    @classmethod
    def of(cls, served: ServedModel) -> "ModelAnswer":
        """Return what is known of a model."""
        card = served.card
        return cls(
            model=served.model,
            title=card and card.title,
            description=card and card.description,
            interpretation=card and card.interpretation,
            tags=card and card.tags,
            license=card and card.license,
            publication=card and card.publication,
            source_code=card and card.source_code,
            columns=[
                DescribedColumn(name=c.name, type=c.type, direction=c.direction, description=c.description)
                for c in served.reader.columns
            ],
            n_shards=served.reader.n_shards,
            shards=list(served.releases),
            molecules=served.molecules,
            quarantined=card and card.quarantined,
            releases=sorted(set(served.releases.values())),
            library_digest=served.library_digest,
            deterministic=served.deterministic,
            varying=card and card.varying,
            updated=served.updated,
        )


class MoleculeAnswer(BaseModel):
    """One molecule's predictions by column, the release that made them, and whether it would make the same again."""

    model: str
    inchikey: str
    release: str | None
    library_digest: str | None
    deterministic: bool | None
    columns: list[ColumnAnswer]
    predictions: dict[str, Value]

    @classmethod
    def of(cls, served: ServedModel, inchikey: str, row: Row) -> "MoleculeAnswer":
        """Return a molecule's predictions."""
        columns = served.reader.columns
        return cls(
            model=served.model,
            inchikey=inchikey,
            release=served.release_of(inchikey),
            library_digest=served.library_digest,
            deterministic=served.deterministic,
            columns=[ColumnAnswer(name=c.name, type=c.type) for c in columns],
            predictions={c.name: value for c, value in zip(columns, row, strict=True)},
        )


class MoleculesQuestion(BaseModel):
    """The molecules whose predictions are wanted; one that is named twice is answered twice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inchikeys: list[str]


def provenance(served: ServedModel, inchikeys: Sequence[str], rows: Sequence[Row | None]) -> dict[str, object]:
    """Return what an answer for many molecules says of its predictions as a whole."""
    missing = sum(row is None for row in rows)
    releases = {served.release_of(inchikey) for inchikey, row in zip(inchikeys, rows, strict=True) if row}
    return {
        "model": served.model,
        "releases": sorted(filter(None, releases)),
        "library_digest": served.library_digest,
        "deterministic": served.deterministic,
        "found": len(rows) - missing,
        "missing": missing,
    }


def to_json(served: ServedModel, inchikeys: Sequence[str], rows: Sequence[Row | None]) -> str:
    """Return the provenance, the columns, the InChIKeys as asked, and a list of values for each, null where missing."""
    answer = {
        **provenance(served, inchikeys, rows),
        "columns": [{"name": column.name, "type": column.type} for column in served.reader.columns],
        "inchikeys": inchikeys,
        "predictions": rows,
    }
    # A float is written as `repr` does, so that it is read as the same one.
    return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_csv(served: ServedModel, inchikeys: Sequence[str], rows: Sequence[Row | None]) -> str:
    """Return a line of CSV for each InChIKey as asked, the cells of a missing one empty.

    A null is an empty cell, an empty string a quoted one. A text that a spreadsheet would run as a formula has an
    apostrophe before it.
    """
    names = [_cell(column.name) for column in served.reader.columns]
    absent = "," * len(names)
    lines = [",".join(("inchikey", *names))]
    for inchikey, row in zip(inchikeys, rows, strict=True):
        lines.append(inchikey + absent if row is None else ",".join((inchikey, *map(_cell, row))))
    return "\n".join([*lines, ""])


def best_type(accept: str) -> str | None:
    """Return the type of answer that an `Accept` header prefers, JSON if it does not mind, None if it wants neither.

    The rules are those of RFC 9110, section 12.5.1; what is not well formed in the header is passed over.
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


_QUALITY = re.compile(r"[01](\.\d{0,3})?")
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
"""How a text begins that a spreadsheet may run (OWASP, "CSV Injection")."""
_NEEDS_QUOTES = re.compile(r'[,"\r\n]|^$')


def _cell(value: Value) -> str:
    if not isinstance(value, str):
        return "" if value is None else repr(value)
    text = f"'{value}" if _FORMULA.match(value) else value
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
