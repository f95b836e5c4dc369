"""What predictions are read from, as the client sees it: the protocol that an API and the platform's tables both meet.

`remote` has the one for an API. The platform adds the one for its tables, see `plugins`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

ColumnType = Literal["float", "integer", "string"]
Value = float | int | str | None
Row = tuple[Value, ...]

_NAMED = 3
"""Columns that a message names; it counts the others."""


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

    `source` is the URL of the API or of the tables. `library_digest` names the version of the reference library, None
    while shards are missing. If the model is not `deterministic`, `varying` are the columns that differ between runs.
    `updated` is when a shard was last loaded. `molecules` are predicted, in `shards` of `n_shards`. The last fields are
    those of the model's card, None or empty without one.
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
        if not self.varying:
            return "which molecules are answered"
        more = f" and {len(self.varying) - _NAMED:,} more" if len(self.varying) > _NAMED else ""
        return ", ".join(self.varying[:_NAMED]) + more


class Answer(NamedTuple):
    """The rows of the molecules in the order of the request, None for a missing one; and their SMILES, if requested."""

    rows: list[Row | None]
    smiles: list[str | None] | None


class OpenModel(Protocol):
    """A model in the state in which it was opened. It may be used by several threads at once."""

    info: ModelInfo

    batch_size: int
    """Molecules that are best read at a time."""

    parallel: int
    """Requests that are best made at the same time."""

    def read(self, inchikeys: Sequence[str], *, smiles: bool = False) -> Answer:
        """Return the molecules' predictions. Raises ChangedError if the model no longer is what `info` says."""
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


class Source(Protocol):
    """What predictions are read from."""

    name: str
    """The URL of the API or of the tables."""

    def models(self) -> list[ModelSummary]:
        """Return the models that have predictions, by id."""
        ...

    def open(self, model: str) -> OpenModel:
        """Return a model in its current state. Raises PrecalcError if it has no predictions."""
        ...

    def files(self, model: str) -> Listing:
        """Return a model's files, with links that expire."""
        ...

    def open_file(self, file: ServedFile, start: int) -> AbstractContextManager[Stream]:
        """Open a file at a byte. Raises LinkExpiredError, CutOffError, and DownloadError if the file is gone."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def cite(model: str, releases: Sequence[str], library_digest: str | None) -> str:
    """Return a model with its releases and the library, as a person is to cite them."""
    return f"{model} {' and '.join(releases) or 'no release'}, library {library_digest or 'incomplete'}"


def changed(info: ModelInfo, now: str) -> str:
    """Return the message of a ChangedError."""
    return (
        f"{info.model} was loaded again while it was read: it began as {info.citation} and now is {now}; "
        "start again when loading has ended"
    )
