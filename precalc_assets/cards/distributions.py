"""The distributions of the values of a model's first columns, for the plots on its card.

Only these columns are read, by range requests. Each column's numbers are collected in a temporary file, so medians are
exact and memory holds one column at a time: 16 MB for two million molecules.
"""

import io
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.cards.model_card import Distribution
from precalc_assets.columns import Column
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.parquet import open_parquet

BINS = 24
"""The most bars of a histogram. A column with no more different whole numbers has a bar for each number."""

_FEWEST_BINS = 5
_TEXTS = 10
"""The most frequent texts shown for a column."""
_TEXT_LENGTH = 60
_COUNTED_TEXTS = 10_000
"""Different texts that are counted. Molecules are in the order of a hash, so frequent texts occur early."""

_TAILS = (0.005, 0.995)
"""The quantiles that bound the bins if the full range is more than `_FAR` times as wide."""
_FAR = 4

_LARGEST_EXACT = 2.0**53
_AT_ONCE = 4
"""Files read concurrently: each read from a bucket takes some 30 ms, and a wide file takes many reads."""
_BATCH_ROWS = 1 << 16

_Numbers = NDArray[Any]


def describe_predictions(
    store: ObjectStore, model: str, columns: Sequence[Column], served: Mapping[str, str]
) -> tuple[Distribution, ...]:
    """Return the distributions of these columns over the served shards.

    `served` maps each shard to the digest of its raw predictions. A file that is missing or was made from others is
    skipped; `molecules` counts the molecules of the files that were read. Raises ShardError for a damaged file.
    """
    with TemporaryDirectory(prefix="precalc-") as folder:
        collected = [_ColumnValues(column, Path(folder) / str(at)) for at, column in enumerate(columns)]
        lock = Lock()

        def gather(shard: str) -> int:
            molecules = 0
            name = storage.predictions(model, shard)
            with _open(store, name, served[shard], columns) as parquet:
                for batch in _batches(parquet, name, columns):
                    molecules += batch.num_rows
                    with lock:
                        for at, column in enumerate(collected):
                            column.add(batch.column(at))
            return molecules

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            molecules = sum(pool.map(gather, sorted(served)))
        return tuple(column.describe(molecules) for column in collected)


@contextmanager
def _open(store: ObjectStore, name: str, raw_digest: str, columns: Sequence[Column]) -> Iterator[pq.ParquetFile | None]:
    """Open a file without copying it. Yields None if it is missing, is not the served one, or has other columns."""
    try:
        content = _Ranges(store, name)
    except FileNotFoundError:
        yield None
        return
    with open_parquet(content, name) as (parquet, provenance):
        kinds = {column.name: column.type for column in provenance.columns}
        fits = all(kinds.get(column.name) == column.type for column in columns)
        yield parquet if fits and provenance.raw_digest == raw_digest else None


class _Ranges(io.RawIOBase):
    """An object of the store as a seekable file: each read is a range request, so Arrow gets only what it needs."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name
        self._size = obstore.head(store, name)["size"]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        content = bytes(obstore.get_range(self._store, self._name, start=self._at, end=end))
        self._at += len(content)
        return content


def _batches(parquet: pq.ParquetFile | None, name: str, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    if parquet is not None:
        names = [column.name for column in columns]
        try:
            yield from parquet.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{name} is damaged ({reason(error)}); load its shard again") from None


class _ColumnValues:
    """The values of one column: numbers are collected in a file, texts are counted."""

    def __init__(self, column: Column, path: Path) -> None:
        self._column = column
        self._path = path
        self._texts: Counter[str] = Counter()
        self._values = 0

    def add(self, values: pa.Array) -> None:
        """Add a batch of values."""
        present = values.drop_null()
        self._values += len(present)
        if self._column.type == "string":
            self._count(present)
            return
        with self._path.open("ab") as file:
            present.to_numpy(zero_copy_only=False).tofile(file)

    def describe(self, molecules: int) -> Distribution:
        """Return the distribution of all added values."""
        nulls = molecules - self._values
        if self._column.type == "string":
            return self._describe_texts(molecules, nulls)
        dtype = np.dtype("float64" if self._column.type == "float" else "int64")
        numbers = np.fromfile(self._path, dtype) if self._path.exists() else np.array([], dtype)
        return describe_numbers(self._column.name, numbers, molecules, nulls)

    def _count(self, texts: pa.Array) -> None:
        for entry in pc.value_counts(texts):
            text = _shortened(entry["values"].as_py())
            if text in self._texts or len(self._texts) < _COUNTED_TEXTS:
                self._texts[text] += entry["counts"].as_py()

    def _describe_texts(self, molecules: int, nulls: int) -> Distribution:
        shown = sorted(self._texts.items(), key=lambda entry: (-entry[1], entry[0]))[:_TEXTS]
        counts = tuple(count for _, count in shown)
        return Distribution(
            column=self._column.name,
            kind="values",
            molecules=molecules,
            nulls=nulls,
            values=tuple(text for text, _ in shown),
            counts=counts,
            others=self._values - sum(counts),
        )


def _shortened(text: str) -> str:
    """Return a text, shortened if it is long, with a digest that distinguishes texts with the same beginning."""
    if len(text) <= _TEXT_LENGTH:
        return text
    return f"{text[:_TEXT_LENGTH]}… ({zlib.crc32(text.encode()):08x})"


def describe_numbers(column: str, numbers: _Numbers, molecules: int, nulls: int) -> Distribution:
    """Return the distribution of a column's numbers, which must be finite."""
    if not len(numbers):
        return Distribution(column=column, kind="values", molecules=molecules, nulls=nulls, counts=())
    least, most = numbers.min().item(), numbers.max().item()
    facts = {
        "column": column,
        "molecules": molecules,
        "nulls": nulls,
        "minimum": least,
        "median": _median(numbers),
        "maximum": most,
    }
    whole = max(abs(least), abs(most)) <= _LARGEST_EXACT and bool((numbers == np.floor(numbers)).all())
    if whole:
        values = range(int(least), int(most) + 1)
        if len(values) <= BINS:
            counts = np.bincount(numbers.astype(np.int64) - values.start)
            return Distribution(**facts, kind="values", values=tuple(values), counts=tuple(counts.tolist()))
    edges = _edges(numbers, whole=whole)
    # Count by the inner edges, so that the outermost bins include values beyond their outer edges.
    counts = np.bincount(np.searchsorted(edges[1:-1], numbers, side="right"), minlength=len(edges) - 1)
    return Distribution(**facts, kind="histogram", edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _median(numbers: _Numbers) -> float:
    """Return the median. The mean of the two middle numbers is computed without overflow."""
    middle = (len(numbers) - 1) // 2, len(numbers) // 2
    low, high = np.partition(numbers, middle)[list(middle)].tolist()
    return float(low) if low == high else low / 2 + high / 2


def _edges(numbers: _Numbers, *, whole: bool) -> NDArray[np.float64]:
    """Return the edges of equal bins. For whole numbers, each bin spans the same number of them."""
    low, high = float(numbers.min()), float(numbers.max())
    inner_low, inner_high = map(float, np.quantile(numbers, _TAILS, method="nearest"))
    if high / _FAR - low / _FAR > inner_high - inner_low > 0:
        low, high = inner_low, inner_high
    bins = min(BINS, max(_FEWEST_BINS, math.isqrt(len(numbers))))
    if whole:
        width = math.ceil((high - low + 1) / bins)
        return low + width * np.arange(math.ceil((high - low + 1) / width) + 1, dtype=np.float64)
    share = np.linspace(0.0, 1.0, bins + 1 if high > low else 2)
    # high - low could overflow.
    edges: NDArray[np.float64] = low * (1 - share) + high * share
    return edges
