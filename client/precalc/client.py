"""Predictions in Python, as pandas data frames."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from precalc.downloading import download
from precalc.errors import UsageError
from precalc.expressions import make_question
from precalc.extras import require
from precalc.getting import Request, read_predictions
from precalc.identifiers import is_model_id
from precalc.joining import OpenFunction, open_joined
from precalc.molecules.molecule_columns import Wanted
from precalc.molecules.molecule_input import read_list, read_rows
from precalc.molecules.reading import read_table
from precalc.percentiles import open_with_percentiles
from precalc.plugins import open_source
from precalc.source import ModelSummary, OpenModel, Source

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
    >>> scores["status"].tolist(), scores["match"].fillna("").tolist()
    (['found', 'found', 'not_in_library'], ['same', 'key', ''])

    Raises PrecalcError, here and in its methods, with what is wrong and what to do; UsageError once it is closed.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, source: Source | None = None) -> None:
        self._source = source or open_source(url, key)
        self._is_closed = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
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

    def get(
        self,
        model: str | Iterable[str],
        molecules: Iterable[str | None] | Path,
        *,
        columns: Sequence[str] | None = None,
        input_column: str | None = None,
        smiles: bool = False,
        reasons: bool = False,
        percentiles: bool = False,
    ) -> "pd.DataFrame":
        """Return the predictions of molecules, InChIKeys and SMILES mixed, a row for each, in the order given.

        A path names a file of them, whose own columns then come first, as texts, instead of `input`. `input_column`
        is the name or the number of its column of molecules, which is otherwise found by its name.

        Several models make one wide frame, with columns such as `eos3b5e.mol_weight`, and before those of each model
        its own status, `eos3b5e.status`; `status` is then "found" where every model has the molecule.

        The frame has `inchikey` (missing if the input is no molecule), `input`, `status` (see `statuses`), `reason`
        (why an input is unreadable; with `reasons` also why the model failed), `match` and `library_smiles`, then the
        model's columns: float64 (NaN for no value), Int64 or string. An empty cell of pandas is no molecule.

        `match` says what a prediction is for: "same", the form that was asked for, "other_form", another form with the
        same InChIKey, which is in `library_smiles`, or "key" where an InChIKey was asked for. With `smiles`,
        `library_smiles` is there in each row that the reference library has.

        `attrs` holds what is true of every row, and stays true when rows are filtered: `model`, `releases`,
        `library_digest`, `deterministic` and `updated`; of several models a list of these, `models`. pandas drops them
        from a concatenation of frames that differ in them.

        With `percentiles`, each column of numbers is followed by one of `percentiles`, such as `score_percentile`.

        `columns` are the names of the model's columns to read, in this order, by default all. Reading some of thousands
        takes much less time. Of several models they are named as in the frame.

        Raises PrecalcError if a model has no predictions or not such a column, or is loaded again meanwhile. Raises
        TypeError if `molecules` is a data frame or holds model ids, or `model` is no text and no list of texts.
        """
        require("pandas", "pandas")
        import pandas as pd

        source = self._opened()
        if isinstance(molecules, Path):
            given = read_rows(read_table(molecules, Wanted(input_column)))
        else:
            given = read_list(map(_text, _one_by_one(molecules)))
        open_one: OpenFunction = partial(open_with_percentiles, source) if percentiles else source.open
        opened: OpenModel
        if isinstance(model, Iterable) and not isinstance(model, str):
            opened = open_joined(open_one, list(map(_one_model, model)), columns)
        else:
            opened = open_one(_one_model(model), columns)
        request = Request(opened, given, smiles=smiles, reasons=reasons)
        info, layout = opened.info, request.layout
        leading: list[tuple[str | None, ...]] = []
        rows: list[Sequence[Any]] = []
        for block, *_ in read_predictions(request, find_smiles=False):
            leading += block.leading(layout)
            rows += [row or (None,) * len(info.columns) for row in block.rows]
        names, n = layout.names, len(layout.names) - len(info.columns)
        kinds = [*["string"] * n, *(column.type for column in info.columns)]
        cells = [*_transposed(leading, n), *_transposed(rows, len(info.columns))]
        # At once: a frame to which thousands of columns are added one by one is fragmented.
        frame = pd.DataFrame(
            {name: pd.Series(each, dtype=_DTYPES[kind]) for name, kind, each in zip(names, kinds, cells, strict=True)}
        )
        frame.attrs |= info.provenance
        return frame

    def screen(
        self,
        where: str = "",
        *,
        order: str = "",
        select: str = "",
        limit: int = 100,
        allow_mixed: bool = False,
    ) -> "pd.DataFrame":
        """Return the molecules whose predictions meet conditions: `inchikey`, `smiles` and columns, a row for each.

        `where` reads `eos3b5e.mol_weight between 200 and 400 and eos4e40.score > 0.5`, `order` reads `eos4e40.score
        desc`, and `select` names columns with commas between them; by default they are those of `order` and `where`.
        Molecules without a value meet `is null` alone, and come last. Several models are joined, and must be of one
        library unless `allow_mixed`.

        `attrs` has `matched`, the number of all molecules that meet the conditions, `screened`, the releases and the
        library of each of `models`, and `screen`, the id of the question and of the files that answered it.

        Raises UsageError for an expression that cannot be read, and for an unknown model or column.
        """
        require("pandas", "pandas")
        import pandas as pd

        question = make_question(where, order=order, select=select, limit=limit, allow_mixed=allow_mixed)
        answer = self._opened().screen(question)
        cells = _transposed(answer.rows, len(answer.columns))
        named = zip(answer.columns, cells, strict=True)
        frame = pd.DataFrame({c.name: pd.Series(each, dtype=_DTYPES[c.type]) for c, each in named})
        frame.attrs |= answer.provenance
        return frame

    def files(self, model: str) -> "pd.DataFrame":
        """Return the model's Parquet files: `shard`, `name`, `bytes`, `sha256` and `rows` of each."""
        files = self._opened().files(_one_model(model)).files
        return _frame([asdict(file) for file in files], ["shard", "name", "bytes", "sha256", "rows"])

    def download(self, model: str, folder: str | Path) -> list[Path]:
        """Download the model's Parquet files into a folder and return their paths; continue an interrupted download.

        Raises DownloadError if a file cannot be downloaded, or has another content than listed.
        """
        source, folder = self._opened(), Path(folder)
        listing = source.files(_one_model(model))
        download(source, listing, folder)
        return [folder / file.name for file in listing.files]

    def _opened(self) -> Source:
        if self._is_closed:
            raise UsageError("this Client is closed; make another one")
        return self._source


def _one_model(model: object) -> str:
    if not isinstance(model, str):
        raise TypeError(f"a model id is a text such as 'eos3b5e', not {type(model).__name__}")
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
