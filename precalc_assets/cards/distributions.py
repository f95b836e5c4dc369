"""The distributions of the values of a model's first columns, for the plots on its card.

Only these columns are read, by range requests. Each column's numbers are collected in a temporary file, so medians are
exact and memory holds one column at a time: 16 MB for two million molecules.
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from obstore.store import ObjectStore

from precalc.scratch import scratch_folder
from precalc.source import Distribution
from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.parquet import StoredFile, open_parquet

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
_FAR = 1.5

_SHARES = [percent / 100 for percent in range(101)]

_LARGEST_EXACT = 2.0**53
_AT_ONCE = 4
"""Files read concurrently: each read from a bucket takes some 30 ms, and a wide file takes many reads."""
_BATCH_VALUES = 1 << 22

_Numbers = NDArray[Any]


def describe_predictions(
    store: ObjectStore, model: str, columns: Sequence[Column], served: Mapping[str, str]
) -> tuple[Distribution, ...]:
    """Return the distributions of these columns over the served shards.

    `served` maps each shard to the digest of its raw predictions. A file that is missing or was made from others is
    skipped; `molecules` counts the molecules of the files that were read. Raises ShardError for a damaged file.
    """
    rows = max(1, _BATCH_VALUES // max(1, len(columns)))
    with scratch_folder() as folder:
        collected = [_ColumnValues(column, folder / str(at)) for at, column in enumerate(columns)]
        lock = Lock()

        def gather(shard: str) -> int:
            molecules = 0
            name = storage.predictions(model, shard)
            with open_served(store, name, served[shard], columns) as parquet:
                names = [column.name for column in columns]
                try:
                    for batch in parquet.iter_batches(rows, columns=names, use_threads=False) if parquet else ():
                        molecules += batch.num_rows
                        with lock:
                            for at, column in enumerate(collected):
                                column.add(batch.column(at))
                except (pa.ArrowException, OSError) as error:
                    raise ShardError(f"{name} is damaged ({reason(error)}); load its shard again") from None
            return molecules

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            molecules = sum(pool.map(gather, sorted(served)))
        return tuple(column.describe(molecules) for column in collected)


@contextmanager
def open_served(
    store: ObjectStore, name: str, raw_digest: str, columns: Sequence[Column]
) -> Iterator[pq.ParquetFile | None]:
    """Open a file without copying it. Yields None if it is missing, is not the served one, or has other columns."""
    try:
        content = StoredFile(store, name)
    except FileNotFoundError:
        yield None
        return
    with open_parquet(content, name) as (parquet, provenance):
        kinds = {column.name: column.type for column in provenance.columns}
        fits = all(kinds.get(column.name) == column.type for column in columns)
        yield parquet if fits and provenance.raw_digest == raw_digest else None


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
        if self._column.type != "string":
            with self._path.open("ab") as file:
                present.to_numpy(zero_copy_only=False).tofile(file)
            return
        count_texts(present, self._texts)

    def describe(self, molecules: int) -> Distribution:
        """Return the distribution of all added values."""
        nulls = molecules - self._values
        if self._column.type != "string":
            dtype = np.dtype("float64" if self._column.type == "float" else "int64")
            numbers = np.fromfile(self._path, dtype) if self._path.exists() else np.array([], dtype)
            return describe_numbers(self._column.name, numbers, molecules, nulls)
        return describe_texts(self._column.name, self._texts, molecules, nulls)


def count_texts(present: pa.Array | pa.ChunkedArray, counted: Counter[str]) -> None:
    """Count texts, long ones shortened, of which the first so many different ones count."""
    for entry in pc.value_counts(present):
        text = entry["values"].as_py()
        if len(text) > _TEXT_LENGTH:
            # The digest distinguishes texts with the same beginning.
            text = f"{text[:_TEXT_LENGTH]}… ({zlib.crc32(text.encode()):08x})"
        if text in counted or len(counted) < _COUNTED_TEXTS:
            counted[text] += entry["counts"].as_py()


def describe_texts(column: str, counted: Counter[str], molecules: int, nulls: int) -> Distribution:
    """Return the distribution of a column's texts."""
    shown = sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))[:_TEXTS]
    counts = tuple(count for _, count in shown)
    return Distribution(
        column=column,
        kind="values",
        molecules=molecules,
        nulls=nulls,
        values=tuple(text for text, _ in shown),
        counts=counts,
        others=molecules - nulls - sum(counts),
    )


def describe_numbers(column: str, numbers: _Numbers, molecules: int, nulls: int) -> Distribution:
    """Return the distribution of a column's numbers, which must be finite."""
    if not len(numbers):
        return Distribution(column=column, kind="values", molecules=molecules, nulls=nulls, counts=())
    numbers = np.sort(numbers)
    least, most = numbers[0].item(), numbers[-1].item()
    facts = {
        "column": column,
        "molecules": molecules,
        "nulls": nulls,
        "minimum": least,
        "median": _median(numbers),
        "maximum": most,
        "percentiles": tuple(numbers[_ranks(len(numbers), _SHARES)].tolist()),
    }
    whole = max(abs(least), abs(most)) <= _LARGEST_EXACT and bool((numbers == np.floor(numbers)).all())
    if whole:
        values = range(int(least), int(most) + 1)
        if len(values) <= BINS:
            counts = np.bincount(numbers.astype(np.int64) - values.start)
            return Distribution(**facts, kind="values", values=tuple(values), counts=tuple(counts.tolist()))
    edges = _edges(numbers, whole=whole)
    # Count by the inner edges, so that the outermost bins include values beyond their outer edges.
    counts = np.diff(np.searchsorted(numbers, edges[1:-1], side="left"), prepend=0, append=len(numbers))
    return Distribution(**facts, kind="histogram", edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def describe_in_bars(library: Distribution, numbers: _Numbers, molecules: int, nulls: int) -> Distribution:
    """Return the distribution of numbers over the bars of the library's; the outermost ones count what lies beyond."""
    inner = library.edges[1:-1] if library.edges else library.values[1:]
    counts = np.diff(np.searchsorted(np.sort(numbers), inner, side="left"), prepend=0, append=len(numbers))
    return Distribution(
        column=library.column,
        kind=library.kind,
        molecules=molecules,
        nulls=nulls,
        counts=tuple(counts.tolist()),
        edges=library.edges,
        values=library.values,
    )


def _ranks(n: int, shares: Sequence[float]) -> list[int]:
    """Return the places in n sorted numbers of the least ones that such shares of all do not exceed."""
    return [max(0, math.ceil(share * n) - 1) for share in shares]


def _median(numbers: _Numbers) -> float | int:
    """Return the median of sorted numbers: the mean of the two middle ones, without overflow, and between them."""
    low: float | int = numbers[(len(numbers) - 1) // 2].item()
    high: float | int = numbers[len(numbers) // 2].item()
    return low if low == high else max(low, min(high, low / 2 + high / 2))


def _edges(numbers: _Numbers, *, whole: bool) -> NDArray[np.float64]:
    """Return the edges of equal bins of sorted numbers. Of whole ones, each bin spans the same number."""
    low, high = float(numbers[0]), float(numbers[-1])
    inner_low, inner_high = map(float, numbers[_ranks(len(numbers), _TAILS)])
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
