"""Predictions in Python, as pandas data frames."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from precalc_assets.client.source import Source
from precalc_assets.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from precalc_assets.client.downloading import DownloadedFile

_DTYPES: dict[str, Literal["float64", "Int64", "string"]] = {"float": "float64", "integer": "Int64", "string": "string"}


class Precalc:
    """Predictions of an API, or of the tables that the settings name.

    The key of an API is that of PRECALC_API_KEY, or the one that `precalc login` has stored, unless it is given.

    >>> with Precalc() as precalc:
    ...     scores = precalc.get("eos3b5e", ["OCC", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "CCCl"])
    >>> scores["score"].tolist(), scores.attrs["releases"], scores.attrs["missing"]
    ([0.5, 0.5, nan], ['v1.0.0'], [2])

    Raises PrecalcError, here and in its methods, with what is wrong and the way out.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, source: Source | None = None) -> None:
        from precalc_assets.client.opening import open_source

        self._source = source or open_source(url, key)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close what is open."""
        self.close()

    def close(self) -> None:
        """Give back what is held open."""
        self._source.close()

    def models(self) -> "pd.DataFrame":
        """Return the models of which something is precalculated, a row for each, by id."""
        import pandas as pd

        rows = [asdict(summary) for summary in self._source.models()]
        columns = [
            "model",
            "title",
            "n_columns",
            "molecules",
            "shards",
            "n_shards",
            "releases",
            "deterministic",
            "updated",
        ]
        frame = pd.DataFrame(rows, columns=columns).set_index("model")
        counts = ["n_columns", "molecules", "shards", "n_shards"]
        return frame.astype({**dict.fromkeys(counts, "Int64"), "deterministic": "boolean"})

    def columns(self, model: str) -> "pd.DataFrame":
        """Return what a model's columns are: type, direction and description, by name."""
        import pandas as pd

        info = self._source.open(model).info
        return pd.DataFrame([asdict(column) for column in info.columns]).set_index("name")

    def get(self, model: str, molecules: Iterable[str | None], *, smiles: bool = False) -> "pd.DataFrame":
        """Return the predictions of molecules, InChIKeys and SMILES mixed, in the order asked, a row for each.

        The frame has `key` (the InChIKey, missing for what is no molecule), `input`, with `smiles` the reference
        library's SMILES, then the model's columns: float64 (NaN for no value), Int64 or string. `attrs` holds `model`,
        `releases`, `library_digest`, `deterministic`, `updated`, how many molecules are `found`, and `missing`: the
        positions, in the frame, of molecules that are not precalculated; `unreadable` has those of what is no molecule.
        An empty cell of pandas (None, NaN) is none.

        Raises PrecalcError if nothing is served of the model, or if it is loaded anew meanwhile.
        """
        from precalc_assets.client.asked import MoleculeList
        from precalc_assets.client.formats import Layout
        from precalc_assets.client.getting import Reader
        from precalc_assets.settings import load_settings

        if isinstance(molecules, str):
            molecules = [molecules]
        asked = MoleculeList([_text(molecule) for molecule in molecules], processes=load_settings().processes)
        opened = self._source.open(model)
        info = opened.info
        keys: list[str | None] = []
        texts: list[str] = []
        stored: list[str | None] = []
        rows: list[Sequence[Any] | None] = []
        for batch, block, _ in Reader(opened, Layout(info.columns, smiles=smiles)).blocks(asked):
            keys += batch.inchikeys
            texts += batch.texts
            rows += block.rows
            stored += block.smiles or []
        nothing = (None,) * len(info.columns)
        values = list(zip(*(row or nothing for row in rows), strict=True)) or [()] * len(info.columns)
        leading = {"key": keys, "input": texts, **({"smiles": stored} if smiles else {})}
        frame = _frame(
            leading, {column.name: (column.type, cells) for column, cells in zip(info.columns, values, strict=True)}
        )
        missing = [at for at, row in enumerate(rows) if row is None and keys[at] is not None]
        unreadable = [at for at, key in enumerate(keys) if key is None]
        found = len(rows) - len(missing) - len(unreadable)
        frame.attrs |= {**info.provenance, "found": found, "missing": missing, "unreadable": unreadable}
        return frame

    def files(self, model: str) -> "pd.DataFrame":
        """Return the model's Parquet files: `shard`, `name`, `bytes`, `sha256` and `rows` of each."""
        import pandas as pd

        listing = self._source.files(model)
        rows = [
            {"shard": f.shard, "name": f.name, "bytes": f.bytes, "sha256": f.sha256, "rows": f.rows}
            for f in listing.files
        ]
        return pd.DataFrame(rows, columns=["shard", "name", "bytes", "sha256", "rows"])

    def download(self, model: str, folder: str | Path) -> "list[DownloadedFile]":
        """Download the model's Parquet files into a folder, and return them; goes on where it was interrupted.

        Raises DownloadError if a file cannot be had, or is not the one that was promised.
        """
        from precalc_assets.client.downloading import download

        return download(self._source, model, Path(folder)).files


def _text(molecule: object) -> str:
    """Return what is asked for as text; an empty cell of pandas is no text."""
    import pandas as pd

    if isinstance(molecule, str):
        return molecule
    if molecule is None or molecule is pd.NA or molecule != molecule:  # NaN of any type
        return ""
    raise UsageError(f"{molecule!r} is of {type(molecule)}; molecules are texts: SMILES or InChIKeys")


def _frame(leading: dict[str, Any], columns: dict[str, tuple[str, Sequence[Any]]]) -> "pd.DataFrame":
    import pandas as pd

    series = {name: pd.Series(cells, dtype="string") for name, cells in leading.items()}
    typed = {name: pd.Series(cells, dtype=_DTYPES[kind]) for name, (kind, cells) in columns.items()}
    # At once: adding thousands of columns one by one leaves a frame in pieces.
    return pd.DataFrame({**series, **typed})
