"""What predictions are read from, as the client sees it: the protocol that tables and an API both meet.

What they are is in `local` and `remote`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from precalc_assets.client.downloading import Listing, ServedFile, Stream
from precalc_assets.columns import Column, columns_digest
from precalc_assets.tables.reader import Row


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in the list. What is None is not known before the model is published."""

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
    """A model as it is when reading begins; an answer that is of another state of it is refused.

    `source` is the URL of the API or of the tables. `library_digest` names the version of the reference library, None
    while shards are missing. `varying` are the columns in which runs of the model differ that is not `deterministic`.
    `updated` is when a shard was last loaded.
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

    @property
    def citation(self) -> str:
        """The release and the library, as a person is to name them."""
        releases = " and ".join(self.releases) or "no release"
        return f"{self.model} {releases}, library {self.library_digest or 'incomplete'}"

    @property
    def provenance(self) -> dict[str, object]:
        """What goes with the predictions, in words that JSON has."""
        return {
            "model": self.model,
            "releases": list(self.releases),
            "library_digest": self.library_digest,
            "deterministic": self.deterministic,
            "updated": self.updated,
        }

    @property
    def columns_digest(self) -> str:
        """The name of the columns, in their order and of their types."""
        return columns_digest("", self.columns)


class Answer(NamedTuple):
    """The rows of the molecules in the order asked, None for one that is not there; and their SMILES, if asked for."""

    rows: list[Row | None]
    smiles: list[str | None] | None


class OpenModel(Protocol):
    """A model as it was when it was opened. It may be used by several threads at once."""

    info: ModelInfo

    batch_size: int
    """How many molecules are best asked for at a time."""

    parallel: int
    """Requests that are worth having under way at a time."""

    def read(self, inchikeys: Sequence[str], *, smiles: bool = False) -> Answer:
        """Return the molecules' predictions. Raises ChangedError if the model is not any more what `info` says."""
        ...

    def smiles(self, inchikeys: Sequence[str]) -> list[str | None]:
        """Return the molecules' SMILES as the reference library has them; None for one that it does not have."""
        ...


class Source(Protocol):
    """Where predictions are read from."""

    name: str
    """The URL of the API or of the tables."""

    def models(self) -> list[ModelSummary]:
        """Return the models of which something is served, by id."""
        ...

    def open(self, model: str) -> OpenModel:
        """Return a model as it is now. Raises PrecalcError if nothing is served of it."""
        ...

    def files(self, model: str) -> Listing:
        """See `FileSource.files`."""
        ...

    def open_file(self, file: ServedFile, start: int) -> AbstractContextManager[Stream]:
        """See `FileSource.open_file`."""
        ...

    def close(self) -> None:
        """Give back what is held open."""
        ...


def changed(info: ModelInfo, now: str) -> str:
    """Return the message of a ChangedError."""
    return (
        f"{info.model} was loaded anew while it was read: it began as {info.citation} and now is {now}; "
        "start again when loading has ended"
    )
