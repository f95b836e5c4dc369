"""Predictions in Python, as pandas data frames."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from precalc.downloading import download
from precalc.errors import UsageError
from precalc.extras import require
from precalc.formats import Layout
from precalc.getting import Request, read_predictions
from precalc.identifiers import is_model_id
from precalc.molecule_input import read_list
from precalc.plugins import open_source
from precalc.source import ModelSummary, Source

if TYPE_CHECKING:
    import pandas as pd

_DTYPES: dict[str, Literal["float64", "Int64", "string"]] = {"float": "float64", "integer": "Int64", "string": "string"}


class Client:
    """Predictions from an API, or with the platform from the tables that its settings name.

    The API's URL is that of PRECALC_API_URL, and its key that of PRECALC_API_KEY or the one that `precalc login` has
    stored, unless they are given. Frames need pandas, SMILES need RDKit: `pip install 'precalc-client[pandas,smiles]'`.

    >>> with Client() as client:
    ...     scores = client.get("eos3b5e", ["OCC", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "CCCl"])
    >>> scores["score"].tolist(), scores.attrs["releases"]
    ([0.5, 0.5, nan], ['v1.0.0'])
    >>> scores["source"].fillna("").tolist()
    ['precalculated', 'precalculated', '']

    Raises PrecalcError, here and in its methods, with what is wrong and what to do; UsageError once it is closed.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, source: Source | None = None) -> None:
        self._source = source or open_source(url, key)
        self._is_closed = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close connections."""
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._is_closed = True
        self._source.close()

    def models(self) -> "pd.DataFrame":
        """Return the models that have predictions, a row for each, by id."""
        names = [field.name for field in fields(ModelSummary)]
        frame = _frame([asdict(summary) for summary in self._opened().models()], names).set_index("model")
        counts = ["n_columns", "molecules", "shards", "n_shards"]
        return frame.astype({**dict.fromkeys(counts, "Int64"), "deterministic": "boolean"})

    def columns(self, model: str) -> "pd.DataFrame":
        """Return a model's columns: type, direction and description, by name."""
        columns = self._opened().open(_one_model(model)).info.columns
        return _frame([asdict(column) for column in columns], ["name", "type", "direction", "description"]).set_index(
            "name"
        )

    def get(self, model: str, molecules: Iterable[str | None], *, smiles: bool = False) -> "pd.DataFrame":
        """Return the predictions of molecules, InChIKeys and SMILES mixed, a row for each, in the order given.

        The frame has `key` (the InChIKey, missing if the input is no molecule), `input`, with `smiles` the reference
        library's SMILES, `source` ("precalculated", missing if the molecule has no predictions), then the model's
        columns: float64 (NaN for no value), Int64 or string. An empty cell of pandas (None, NaN) is no molecule.

        `attrs` holds what is true of every row, and stays true when rows are filtered: `model`, `releases`,
        `library_digest`, `deterministic` and `updated`. pandas drops them from a concatenation of frames that differ in
        them.

        Raises PrecalcError if the model has no predictions, or is loaded again meanwhile. Raises TypeError if
        `molecules` is a data frame or holds model ids, or `model` is not one id.
        """
        require("pandas", "pandas")
        import pandas as pd

        source, texts = self._opened(), map(_text, _one_by_one(molecules))
        request = Request(molecules=read_list(texts), model=source.open(_one_model(model)))
        info = request.model.info
        layout = Layout(info.columns, smiles=smiles, source=True)
        leading: list[tuple[str | None, ...]] = []
        rows: list[Sequence[Any]] = []
        for block, *_ in read_predictions(request, layout, find_smiles=False):
            leading += block.leading()
            rows += [row or (None,) * len(info.columns) for row in block.rows]
        names, kinds = layout.names, [*["string"] * len(layout.leading), *(column.type for column in info.columns)]
        cells = [*_transposed(leading, len(layout.leading)), *_transposed(rows, len(info.columns))]
        # At once: a frame to which thousands of columns are added one by one is fragmented.
        frame = pd.DataFrame(
            {name: pd.Series(each, dtype=_DTYPES[kind]) for name, kind, each in zip(names, kinds, cells, strict=True)}
        )
        frame.attrs |= info.provenance
        return frame

    def files(self, model: str) -> "pd.DataFrame":
        """Return the model's Parquet files: `shard`, `name`, `bytes`, `sha256` and `rows` of each."""
        files = self._opened().files(_one_model(model)).files
        return _frame([asdict(file) for file in files], ["shard", "name", "bytes", "sha256", "rows"])

    def download(self, model: str, folder: str | Path) -> list[Path]:
        """Download the model's Parquet files into a folder and return their paths; continue an interrupted download.

        Raises DownloadError if a file cannot be downloaded, or has another content than listed.
        """
        listing = download(self._opened(), _one_model(model), Path(folder))
        return [Path(folder) / file.name for file in listing.files]

    def _opened(self) -> Source:
        if self._is_closed:
            raise UsageError("this Client is closed; make another one")
        return self._source


def _one_model(model: object) -> str:
    if not isinstance(model, str):
        raise TypeError(f"one model id is expected, not {type(model).__name__}; call this once for each model")
    return model


def _one_by_one(molecules: Iterable[object]) -> Iterable[object]:
    """Return the molecules. Raises TypeError for what would be iterated as something else: by columns, or by keys."""
    if isinstance(molecules, str):
        return [molecules]
    if isinstance(molecules, Mapping) or hasattr(molecules, "columns") or not isinstance(molecules, Iterable):
        kind = type(molecules).__name__
        raise TypeError(f"molecules are expected, not {kind}; of a data frame give one column: frame['smiles']")
    return molecules


def _text(molecule: object) -> str:
    """Return the text of a molecule; an empty cell of pandas has none."""
    if isinstance(molecule, str):
        if is_model_id(molecule):
            raise TypeError(f"{molecule!r} is a model, not a molecule; call get() once for each model")
        return molecule
    if molecule is None or str(molecule) in ("nan", "<NA>"):
        return ""
    raise UsageError(f"{molecule!r} is of {type(molecule)}; molecules are texts: SMILES or InChIKeys")


def _transposed(rows: Sequence[Sequence[Any]], n: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) or [()] * n


def _frame(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> "pd.DataFrame":
    require("pandas", "pandas")
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns))
