"""The bodies of requests and answers: a class for each JSON body, and how predictions become JSON or CSV."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json as to_json_bytes

from precalc.csv_cells import csv_cell
from precalc_assets.adoption_record import Adoption
from precalc_assets.api.parameters import INCHIKEY_SCHEMA
from precalc_assets.api.served import Predictions
from precalc_assets.cards import ModelCard
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.columns import ColumnType
from precalc_assets.tables import Value

JSON = "application/json"
CSV = "text/csv"

MAX_MOLECULES = 1_000
"""Molecules in one request, of a model with few columns."""

InChIKey = Annotated[str, Field(json_schema_extra={**INCHIKEY_SCHEMA})]
"""The pattern is for the document. The routes check keys, and their message names the malformed one."""


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
    while shards are missing. `deterministic` is false when the model predicts something else every time, in the
    columns of `varying`, or answers other molecules, with none there. `example` says whether it reproduces its own.
    `adopted` tells which earlier release computed the predictions, if this one was shown to print the same. `updated`
    is when a shard was last loaded.
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
    example: str | None
    adopted: Adoption | None
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


class MoleculeAnswer(BaseModel):
    """One molecule's predictions by column, and the release that made them.

    `smiles` is there if the request includes it, null if the library's table does not have the molecule.
    """

    model: str
    inchikey: InChIKey
    smiles: str | None = None
    release: str
    library_digest: str | None
    deterministic: bool | None
    columns: list[ColumnAnswer]
    predictions: dict[str, Value]


class OneModelAnswer(BaseModel):
    """One model's predictions of a molecule, null if it has none; `release` is null if the shard is not loaded."""

    model: str
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
    """The requested molecules; one that is named twice is answered twice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inchikeys: Annotated[list[InChIKey], Field(json_schema_extra={"maxItems": MAX_MOLECULES})]


class MoleculesAnswer(BaseModel):
    """Predictions in the order of the request: a list of values in the order of `columns`, null for a missing one.

    `releases` are those of the molecules that were found. `smiles` is there if the request includes it.
    """

    model: str
    releases: list[str]
    library_digest: str | None
    deterministic: bool | None
    found: int
    missing: int
    columns: list[ColumnAnswer]
    inchikeys: list[InChIKey]
    smiles: list[str | None] = Field(default_factory=list)
    predictions: list[list[Value] | None]


def molecule_json(predictions: Predictions) -> bytes:
    """Return a `MoleculeAnswer` for the one molecule that was requested, and that is there."""
    one = _one_model(predictions)
    smiles = {} if predictions.smiles is None else {"smiles": predictions.smiles[0]}
    return dump({"model": one["model"], "inchikey": predictions.inchikeys[0], **smiles, **one})


def all_models_json(inchikey: str, smiles: list[str | None] | None, models: Sequence[Predictions]) -> bytes:
    """Return an `AllModelsAnswer` for a molecule, with its SMILES if it was requested."""
    digests = {predictions.library_digest for predictions in models}
    return dump(
        {
            "inchikey": inchikey,
            **({} if smiles is None else {"smiles": smiles[0]}),
            "library_digest": digests.pop() if len(digests) == 1 else None,
            "models": [_one_model(predictions) for predictions in models],
        }
    )


def provenance(predictions: Predictions) -> dict[str, object]:
    """Return the provenance of an answer for many molecules, with the counts of found and missing ones."""
    missing = sum(row is None for row in predictions.rows)
    return {
        "model": predictions.entry.model,
        "releases": predictions.releases,
        "library_digest": predictions.library_digest,
        "deterministic": predictions.entry.deterministic,
        "found": len(predictions.rows) - missing,
        "missing": missing,
    }


def to_json(predictions: Predictions) -> bytes:
    """Return a `MoleculesAnswer`."""
    return dump(
        {
            **provenance(predictions),
            "columns": _columns(predictions),
            "inchikeys": predictions.inchikeys,
            **({} if predictions.smiles is None else {"smiles": predictions.smiles}),
            "predictions": predictions.rows,
        }
    )


def to_csv(predictions: Predictions) -> str:
    """Return CSV: a header, and a line for each requested InChIKey, with empty cells for a missing one."""
    names = [csv_cell(column.name) for column in predictions.entry.reader.columns]
    absent = "," * len(names)
    smiles = predictions.smiles
    heads = predictions.inchikeys
    if smiles is not None:
        names.insert(0, "smiles")
        heads = [f"{inchikey},{csv_cell(text)}" for inchikey, text in zip(heads, smiles, strict=True)]
    lines = [",".join(("inchikey", *names))]
    for head, row in zip(heads, predictions.rows, strict=True):
        lines.append(head + absent if row is None else ",".join((head, *map(csv_cell, row))))
    return "\n".join([*lines, ""])


def dump(answer: dict[str, object]) -> bytes:
    """Return an answer as JSON. Floats are written with as many digits as it takes to read the same ones."""
    # Tables hold no value that is not finite: validation makes it null.
    return to_json_bytes(answer, inf_nan_mode="null")


def _one_model(predictions: Predictions) -> dict[str, object]:
    """Return a `OneModelAnswer` for the one molecule that was requested."""
    entry, (inchikey,), (row,) = predictions.entry, predictions.inchikeys, predictions.rows
    names = [column.name for column in entry.reader.columns]
    return {
        "model": entry.model,
        "release": predictions.release_of(inchikey),
        "library_digest": predictions.library_digest,
        "deterministic": entry.deterministic,
        "columns": _columns(predictions),
        "predictions": None if row is None else dict(zip(names, row, strict=True)),
    }


def _columns(predictions: Predictions) -> list[dict[str, str]]:
    return [{"name": column.name, "type": column.type} for column in predictions.entry.reader.columns]


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


_QUALITY = re.compile(r"[01](\.\d{0,3})?")
