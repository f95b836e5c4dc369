"""What predictions are read from, as the client sees it: the protocol that an API and the platform's tables both meet.

`remote` has the one for an API. The platform adds the one for its tables, see `plugins`. Standard library only: the
platform's Lambda imports this module.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, Self

from precalc.identifiers import find_columns
from precalc.statuses import Status

ColumnType = Literal["float", "integer", "string"]
Value = float | int | str | None
Row = Sequence[Value]


@dataclass(frozen=True, slots=True)
class Column:
    """One output of a model. `direction` is "high", "low" or empty: which way is more of the property."""

    name: str
    type: ColumnType
    direction: str
    description: str


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in the list. Fields are None until the model is published."""

    model: str
    title: str | None = None
    n_columns: int | None = None
    molecules: int | None = None
    shards: int | None = None
    n_shards: int | None = None
    releases: tuple[str, ...] | None = None
    deterministic: bool | None = None
    updated: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in the state in which it was opened; rows of another state are refused.

    `columns` are those that are read.
    `source` is the URL of the API or of the tables. `library_digest` names the version of the reference library, None
    while shards are missing. If the model is not `deterministic`, `varying` are the columns that differ between runs.
    `updated` is when a shard was last loaded. `molecules` are predicted, in `shards` of `n_shards`. The last fields are
    those of the model's card, None or empty without one; `runner_hours` and `dollars` are what was used so far, and
    `peak_memory` is in bytes.
    """

    source: str
    model: str
    columns: tuple[Column, ...]
    releases: tuple[str, ...]
    library_digest: str | None
    deterministic: bool | None
    varying: tuple[str, ...]
    updated: str | None
    molecules: int
    shards: int
    n_shards: int
    title: str | None = None
    description: str | None = None
    license: str | None = None
    publication: str | None = None
    quarantined: int | None = None
    runner_hours: float | None = None
    dollars: float | None = None
    peak_memory: int | None = None

    def with_columns(self, names: Sequence[str]) -> Self:
        """Return this with the columns of these names alone, in this order. Raises UsageError for an unknown name."""
        places = find_columns(self.model, [column.name for column in self.columns], names)
        return replace(self, columns=tuple(self.columns[at] for at in places))

    def row_without_prediction(self, status: str) -> Row | None:  # noqa: ARG002 - a wide table says it for each model
        """Return the row of a molecule that has this status and no prediction."""
        return None

    @property
    def citation(self) -> str:
        """The release and the library, as a person is to cite them."""
        return cite(self.model, self.releases, self.library_digest)

    @property
    def provenance(self) -> dict[str, object]:
        """What is stored with the predictions, as JSON."""
        return {
            "model": self.model,
            "releases": list(self.releases),
            "library_digest": self.library_digest,
            "deterministic": self.deterministic,
            "updated": self.updated,
        }

    @property
    def columns_digest(self) -> str:
        """A name for the columns: hex SHA-256 of their names and types, in order."""
        lines = [f"{column.name} {column.type}" for column in self.columns]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def variation(self) -> str:
        """Where runs of a model that is not deterministic differ, to be read after "in"."""
        return name_variation(self.varying)


class Answer(NamedTuple):
    """The rows of the molecules in the order of the request, None for one without predictions, and their statuses.

    `smiles` has those of the library, by InChIKey; None for a molecule that it does not have. `reasons` has those of
    failed molecules, if they were requested and are listed.
    """

    rows: list[Row | None]
    statuses: list[Status]
    smiles: Mapping[str, str | None]
    reasons: Mapping[str, str] = MappingProxyType({})


class OpenModel(Protocol):
    """A model in the state in which it was opened. It may be used by several threads at once."""

    info: ModelInfo

    batch_size: int
    """Molecules that are best read at a time."""

    parallel: int
    """Requests that are best made at the same time."""

    def read(self, inchikeys: Sequence[str], *, smiles: Collection[str] = (), reasons: bool = False) -> Answer:
        """Return the molecules' predictions, and at least the SMILES of those that are named.

        With `reasons`, the model's quarantine lists are read if it failed on some of the molecules.

        Raises ChangedError if the model no longer is what `info` says.
        """
        ...

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """Return the molecules' SMILES as the reference library writes them; None for one that it does not have."""
        ...


@dataclass(frozen=True, slots=True)
class ServedFile:
    """The Parquet file that a shard was loaded from; `sha256` is that of its content, in hexadecimal."""

    model: str
    shard: str
    name: str
    url: str
    bytes: int
    sha256: str
    rows: int
    release: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's files in their current state."""

    source: str
    model: str
    releases: tuple[str, ...]
    library_digest: str | None
    files: tuple[ServedFile, ...]


class Stream(NamedTuple):
    """The bytes of a file from `start` on, which is 0 if the source cannot start in the middle."""

    start: int
    chunks: Iterator[bytes]


class LinkExpiredError(Exception):
    """A download link has expired: list the files again."""


class CutOffError(Exception):
    """A download ended early or did not start; a retry may help. The message is the reason."""


Engine = Literal["athena"]
"""What answers a screen in place of the source's own engine."""

Question = Mapping[str, Any]
"""The data of a screen, as `POST /screens` takes it."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of a column's values over `molecules`, of which `nulls` have no value.

    A `histogram` has one more edge than counts. Its outermost bins also count values beyond their edges, down to
    `minimum` and up to `maximum`. The kind `values` has one count per entry of `values`, in order: every whole number
    in the range of a column with few of them, or the most frequent texts, shortened. `others` counts the molecules with
    other texts. `percentiles` of numbers are 101 values of the column, from the 0th to the 100th.
    """

    column: str
    kind: Literal["histogram", "values"]
    molecules: int
    nulls: int
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    values: tuple[int | str, ...] = ()
    others: int = 0
    minimum: float | int | None = None
    median: float | int | None = None
    maximum: float | int | None = None
    percentiles: tuple[float | int, ...] = ()


@dataclass(frozen=True, slots=True)
class ScreenedModel:
    """What was screened of a model: `molecules` in so many of its shards."""

    model: str
    releases: tuple[str, ...]
    library_digest: str | None
    shards: int
    n_shards: int
    molecules: int


@dataclass(frozen=True, slots=True)
class ScreenedColumn:
    """A column of an answer: its values are null or of this type."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class ScreenAnswer:
    """The answer to a screen.

    `id` is the digest of the question and of the files that were read. `matched` counts the molecules that meet the
    conditions, `screened` those that all models have. Each of `rows` has the values of `columns`, of which the first
    are `inchikey` and `smiles`.
    """

    id: str
    matched: int
    screened: int
    models: tuple[ScreenedModel, ...]
    columns: tuple[ScreenedColumn, ...]
    rows: tuple[tuple[Value, ...], ...]
    distributions: tuple[Distribution, ...]

    @property
    def citation(self) -> str:
        """The releases and the library, as a person is to cite them."""
        return "; ".join(cite(one.model, one.releases, one.library_digest) for one in self.models)

    @property
    def provenance(self) -> dict[str, object]:
        """What is stored with the rows, as JSON."""
        return {
            "screen": self.id,
            "matched": self.matched,
            "screened": self.screened,
            "models": [
                {"model": one.model, "releases": list(one.releases), "library_digest": one.library_digest}
                for one in self.models
            ],
        }


class Source(Protocol):
    """What predictions are read from."""

    name: str
    """The URL of the API or of the tables."""

    def models(self) -> list[ModelSummary]:
        """Return the models that have predictions, by id."""
        ...

    def open(self, model: str, columns: Sequence[str] | None = None) -> OpenModel:
        """Return a model in its current state, of which these columns are read, in this order; by default all.

        Raises PrecalcError if it has no predictions, or not such a column.
        """
        ...

    def files(self, model: str) -> Listing:
        """Return a model's files, with links that expire."""
        ...

    def distributions(self, model: str, columns: Sequence[str]) -> dict[str, Distribution]:
        """Return the distributions of columns over the library, by name; those that are not known are left out."""
        ...

    def screen(self, question: Question, *, engine: Engine | None = None) -> ScreenAnswer:
        """Answer a screen, by an engine that may be chosen. Raises UsageError for what cannot be answered."""
        ...

    def open_file(self, file: ServedFile, start: int) -> AbstractContextManager[Stream]:
        """Open a file at a byte. Raises LinkExpiredError, CutOffError, and DownloadError if the file is gone."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def name_some(names: Sequence[str], most: int = 3) -> str:
    """Return the first of these names for a message, and the number of the others."""
    named = ", ".join(names[:most])
    return f"{named} and {len(names) - most:,} more" if len(names) > most else named


def name_variation(varying: Sequence[str]) -> str:
    """Return what differs between runs of a model that is not deterministic, as words after "in"."""
    return name_some(varying) or "which molecules are answered"


def cite(model: str, releases: Sequence[str], library_digest: str | None) -> str:
    """Return a model with its releases and the library, as a person is to cite them."""
    return f"{model} {' and '.join(releases) or 'no release'}, library {library_digest or 'incomplete'}"


def describe_cost(runner_hours: float | None, dollars: float | None, peak_memory: int | None) -> str:
    """Return what a model's predictions took, as far as it is known. `peak_memory` is in bytes."""
    facts = [f"{runner_hours:,.2f} runner-hours"] if runner_hours is not None else []
    facts += [f"${dollars:,.2f}"] if dollars else []
    facts += [f"{peak_memory / (1 << 20):,.0f} MB of memory"] if peak_memory else []
    return ", ".join(facts)


def reload(model: str) -> str:
    """Return what helps where a model's files are damaged: it writes them anew, or leaves them if they are right."""
    return f"run `precalc load {model}` where it is served"


def changed(info: ModelInfo, now: str) -> str:
    """Return the message of a ChangedError."""
    return (
        f"{info.model} was loaded again while it was read: it began as {info.citation} and now is {now}; "
        "start again when loading has ended"
    )
