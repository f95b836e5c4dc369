"""Answers screens by reading columns of the files that the models' tables were loaded from, with Arrow.

Molecules are in the order of a hash, so no part of a file can be skipped by its values; a column of 1.4 million numbers
is 11 MB. Shards are searched one after another by the columns of conditions and order. The other columns are read of
the molecules in the answer alone. Files are opened by the digests in the tables' directories, and Arrow verifies each
page that it reads. Models whose shards have the same molecules are joined by position, others by InChIKey.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial, reduce
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import ObjectStore

from precalc.source import Distribution, Row, ScreenAnswer, Value
from precalc_assets import storage
from precalc_assets.cards.distributions import count_texts, describe_in_bars, describe_numbers, describe_texts
from precalc_assets.catalogue import CatalogueEntry
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.parquet import ARROW_TYPES, StoredFile, open_parquet
from precalc_assets.screening.plan import KEY, SMILES, Comparison, Entries, Find, Names, Plan, make_plan
from precalc_assets.screening.query import AnyOf, Condition, Query, split
from precalc_assets.tables import KeyValueStore
from precalc_assets.tables.directory import Directory

_KEPT_BYTES = 160 << 20
"""Columns in memory: a screen by two columns of 1.4 million molecules takes 150 MB with its keys and SMILES."""
_MOST_KEPT = 8
"""Columns that are only shown, above which they are not kept: they would push out those that are searched."""
_PART_ROWS = 100_000
"""Molecules that are searched at a time, at least a shard's: a hundred columns of them take 80 MB."""
_AT_ONCE = 2
"""Files read concurrently; with more, the first screen of 1.4 million molecules takes over 600 MB."""

_TEXT = pa.string()

Columns = dict[str, pa.ChunkedArray]
Types = Mapping[str, pa.DataType]


class _Found(NamedTuple):
    """What a search of some shards found.

    `keys` has, of the first molecules in the order, the values that it goes by and the InChIKeys; `rows` the numbers of
    their rows in all shards of each model. `values` are of all molecules that match.
    """

    screened: int
    matched: int
    keys: pa.Table
    rows: Mapping[str, pa.Array]
    values: Columns


class ScreeningEngine:
    """Answers screens over the files of a store. It may be used by several threads.

    `find` returns a model's entry, None for an unknown model; `names` returns all models. `forget` is called when a
    file is not as an entry says: the screen is tried once more with entries that are read anew.
    """

    def __init__(
        self,
        store: ObjectStore,
        find: Find,
        names: Names,
        forget: Callable[[], None] | None = None,
        *,
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        self._find = find
        self._names = names
        self._forget = forget
        self._files = _Files(store, kept_bytes)

    def answer(self, query: Query) -> ScreenAnswer:
        """Answer a screen.

        Raises UsageError as `make_plan`; ShardError for a file that is missing, damaged or not the one that was loaded.
        """
        try:
            return self._answer(make_plan(query, self._find, self._names))
        except ShardError:
            if self._forget is None:
                raise
            self._forget()
            return self._answer(make_plan(query, self._find, self._names))

    def _answer(self, plan: Plan) -> ScreenAnswer:
        parts, starts = [plan.shards], [0]
        if plan.by_position:
            model, shards = next(iter(plan.shards.items()))
            rows = [plan.entries[model].directories[shard].rows for shard in shards]
            size = max(1, _PART_ROWS // max([1, *rows]))
            cuts = range(0, len(shards), size)
            parts = [dict.fromkeys(plan.entries, shards[cut : cut + size]) for cut in cuts]
            starts = [sum(rows[:cut]) for cut in cuts]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(partial(self._search, plan), parts, starts))
        return plan.answer(
            sum(part.matched for part in found),
            sum(part.screened for part in found),
            self._show(plan, found) if plan.query.limit and found else (),
            distributions=tuple(
                _describe(plan, name, [part.values[name] for part in found]) for name in plan.query.distributions
            ),
        )

    def _search(self, plan: Plan, part: Mapping[str, Sequence[str]], start: int) -> _Found:
        """Find the molecules of some shards of each model, of which the first has so many rows before it."""
        query = plan.query
        columns, rows = self._join(plan, part, start)
        screened = len(next(iter(rows.values())))
        masks = (_meets_any(columns, plan, entry) for entry in query.where)
        matched = pc.indices_nonzero(reduce(pc.and_, masks, pa.repeat(True, screened)))
        keys = pa.table({})
        if query.limit:
            names = [*(order.column for order in query.order), KEY]
            keys = pa.table([columns[name].take(matched) for name in names], names=list(map(str, range(len(names)))))
        chosen = _first(keys, query)
        return _Found(
            screened,
            len(matched),
            keys.take(chosen),
            {model: numbers.take(matched).take(chosen) for model, numbers in rows.items()},
            {name: columns[name].take(matched) for name in query.distributions},
        )

    def _join(self, plan: Plan, part: Mapping[str, Sequence[str]], start: int) -> tuple[Columns, dict[str, pa.Array]]:
        """Return what a search reads of the molecules that all models have in some shards.

        With it comes, for each model, the number of each molecule's row in all of its shards that the plan names.
        """
        query, first = plan.query, next(iter(part))
        searched = [c.column for c in query.conditions] + [o.column for o in query.order] + [*query.distributions]
        columns: Columns = {}
        rows: dict[str, pa.Array] = {}
        for model, shards in part.items():
            needs_keys = not plan.by_position or (model == first and bool(query.limit))
            entry, types = plan.entries[model], _types(plan, model, searched)
            found = self._files.read(entry, shards, types | ({KEY: _TEXT} if needs_keys else {}))
            read = {f"{model}.{name}": found[name] for name in types}
            rows[model] = pa.array(np.arange(start, start + sum(entry.directories[shard].rows for shard in shards)))
            if model == first:
                columns = read | ({KEY: found[KEY]} if needs_keys else {})
            elif plan.by_position:
                columns |= read
            else:
                places = pc.index_in(columns[KEY], value_set=found[KEY].combine_chunks())
                both = pc.is_valid(places)
                places = places.filter(both).combine_chunks()
                columns = {name: values.filter(both) for name, values in columns.items()}
                columns |= {name: values.take(places) for name, values in read.items()}
                both = both.combine_chunks()
                rows = {name: numbers if name == model else numbers.filter(both) for name, numbers in rows.items()}
                rows[model] = rows[model].take(places)
        return columns, rows

    def _show(self, plan: Plan, found: Sequence[_Found]) -> Sequence[Row]:
        """Return the first molecules of those found, with the selected columns."""
        keys = pa.concat_tables(part.keys for part in found)
        chosen = _first(keys, plan.query)
        shown: dict[str, Sequence[Value]] = {KEY: keys[keys.column_names[-1]].take(chosen).to_pylist()}
        for at, (model, entry) in enumerate(plan.entries.items()):
            rows = pa.chunked_array([part.rows[model] for part in found]).take(chosen).to_numpy()
            types = _types(plan, model, plan.query.selected)
            read = self._files.take(entry, plan.shards[model], types | ({SMILES: _TEXT} if at == 0 else {}), rows)
            shown |= {name if name == SMILES else f"{model}.{name}": each.to_pylist() for name, each in read.items()}
        return list(zip(*(shown[name] for name in (KEY, SMILES, *plan.query.selected)), strict=True))


def open_engine(store: ObjectStore, tables: KeyValueStore) -> ScreeningEngine:
    """Return an engine that uses a model's entry for a minute, as the read API does."""
    entries = Entries(tables)
    return ScreeningEngine(store, entries.find, entries.names, entries.forget)


class _Files:
    """The columns of files, of which those used last stay in memory."""

    def __init__(self, store: ObjectStore, kept_bytes: int) -> None:
        self._store = store
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, str, str], pa.Array] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def read(self, entry: CatalogueEntry, shards: Sequence[str], types: Types) -> Columns:
        """Return columns of these shards, each with a chunk for each shard."""
        parts = [self._read_shard(entry, shard, types, keep=True) for shard in shards]
        return {name: pa.chunked_array([part[name] for part in parts], kind) for name, kind in types.items()}

    def take(self, entry: CatalogueEntry, shards: Sequence[str], types: Types, rows: NDArray[np.int64]) -> Columns:
        """Return columns of the molecules with these row numbers in these shards, in the order of the numbers."""
        starts = _starts(entry, shards)
        places = np.searchsorted(starts, rows, side="right") - 1

        def take_of(at: int) -> dict[str, pa.Array]:
            numbers = pa.array(rows[places == at] - starts[at])
            read = self._read_shard(entry, shards[at], types, keep=len(types) <= _MOST_KEPT)
            return {name: values.take(numbers) for name, values in read.items()}

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(take_of, np.unique(places).tolist() if types else ()))
        back = pa.array(np.argsort(np.argsort(places, kind="stable")))
        return {name: pa.chunked_array([part[name] for part in parts], kind).take(back) for name, kind in types.items()}

    def _read_shard(self, entry: CatalogueEntry, shard: str, types: Types, *, keep: bool) -> dict[str, pa.Array]:
        directory = entry.directories[shard]
        file = storage.predictions(entry.model, shard)
        found = {}
        with self._lock:
            for name in types:
                key = (file, directory.file_sha256, name)
                if key in self._kept:
                    found[name] = self._kept[key]
                    self._kept.move_to_end(key)
        if missing := {name: kind for name, kind in types.items() if name not in found}:
            new = self._open(file, directory, missing)
            with self._lock:
                for name, values in new.items() if keep else ():
                    key = (file, directory.file_sha256, name)
                    self._bytes += values.nbytes if key not in self._kept else 0
                    self._kept[key] = values
                while self._bytes > self._kept_bytes and self._kept:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            found |= new
        return found

    def _open(self, name: str, directory: Directory, types: Types) -> dict[str, pa.Array]:
        """Read columns of a file. Those that a shard of an earlier release does not have are null."""
        try:
            content = StoredFile(self._store, name)
            with open_parquet(content, name) as (parquet, provenance):
                known = (directory.file_bytes, directory.built_from, directory.rows)
                if (content.size, provenance.raw_digest, parquet.metadata.num_rows) != known:
                    raise ShardError(f"{name} is not the file that its table was loaded from; load its shard again")
                has = {field.name for field in parquet.schema_arrow if types.get(field.name) == field.type}
                table = parquet.read([name for name in types if name in has], use_threads=False)
                return {
                    name: table[name].combine_chunks() if name in has else pa.nulls(parquet.metadata.num_rows, kind)
                    for name, kind in types.items()
                }
        except FileNotFoundError:
            raise ShardError(f"{name} is gone from the store; load its shard again") from None
        except PermissionDeniedError:
            # S3 answers 403 for an object that does not exist if the role may not list the bucket.
            raise ShardError(
                f"{name} is gone, or the role may not read it; load its shard again, or allow it"
            ) from None
        except BaseError as error:
            raise ShardError(f"{name} cannot be read: {reason(error)}") from None
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{name} cannot be read ({reason(error)}); load its shard again") from None


def _starts(entry: CatalogueEntry, shards: Sequence[str]) -> list[int]:
    """Return the number of rows before each of these shards."""
    return list(accumulate((entry.directories[shard].rows for shard in shards[:-1]), initial=0))


def _types(plan: Plan, model: str, names: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the types of those of these columns that are of a model, by their names in its files."""
    of_model = (name for name in names if split(name)[0] == model)
    return {plan.columns[name].name: ARROW_TYPES[plan.columns[name].type] for name in of_model}


def _meets_any(columns: Columns, plan: Plan, entry: AnyOf | Condition) -> pa.ChunkedArray:
    """Return for each molecule whether it meets a condition, or one of several."""
    conditions = entry.any if isinstance(entry, AnyOf) else (entry,)
    return reduce(pc.or_, (_meets(columns[one.column], plan.comparison(one)) for one in conditions))


def _meets(values: pa.ChunkedArray, comparison: Comparison) -> pa.ChunkedArray:
    """Return for each molecule whether its value meets a comparison; null meets `is_null` alone."""
    if comparison.op == "is_null":
        return pc.is_null(values)
    if comparison.op == "in":
        return pc.is_in(values, value_set=pa.array(comparison.values, values.type))
    compare = _COMPARE[comparison.op]
    ends = (pa.scalar(value, values.type) for value in comparison.values)
    return pc.fill_null(reduce(pc.and_, (one(values, end) for one, end in zip(compare, ends, strict=True))), False)


_COMPARE = {
    "gt": (pc.greater,),
    "ge": (pc.greater_equal,),
    "lt": (pc.less,),
    "le": (pc.less_equal,),
    "between": (pc.greater_equal, pc.less_equal),
}


def _first(keys: pa.Table, query: Query) -> pa.Array:
    """Return the places of the first molecules in the order of a screen; InChIKeys decide between equal ones.

    `keys` has the columns of the order, and then the InChIKeys.
    """
    directions = ["descending" if order.descending else "ascending" for order in query.order] + ["ascending"]
    sort_keys = list(zip(keys.column_names, directions, strict=False))
    return pc.select_k_unstable(keys, k=query.limit, sort_keys=sort_keys) if query.limit else pa.array([], pa.uint64())


def _describe(plan: Plan, name: str, parts: Sequence[pa.ChunkedArray]) -> Distribution:
    column, card = plan.columns[name], plan.entries[split(name)[0]].card
    values = pa.chunked_array([chunk for part in parts for chunk in part.chunks], ARROW_TYPES[column.type])
    present = values.drop_null()
    nulls = len(values) - len(present)
    if column.type == "string":
        counted: Counter[str] = Counter()
        count_texts(present, counted)
        return describe_texts(name, counted, len(values), nulls)
    library = next((each for each in card.distributions if each.column == column.name), None) if card else None
    if plan.query.library_bars and library and library.counts:
        bars = replace(library, column=name)
        return describe_in_bars(bars, present.to_numpy(), len(values), nulls)
    return describe_numbers(name, present.to_numpy(), len(values), nulls)
