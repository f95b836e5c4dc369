"""Answers screens by reading whole columns of the files that the models' tables were loaded from, with Arrow.

Molecules are in the order of a hash, so no part of a file can be skipped by its values; a column of 1.4 million numbers
is 11 MB. Files are opened by the digests in the tables' directories, and Arrow verifies each page that it reads. Models
whose shards have the same molecules are joined by position, others by InChIKey.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import reduce
from hashlib import sha256
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from precalc.identifiers import find_columns
from precalc.source import Distribution, ScreenAnswer, ScreenedColumn, ScreenedModel
from precalc_assets import storage
from precalc_assets.cards.distributions import count_texts, describe_numbers, describe_texts
from precalc_assets.catalogue import CatalogueEntry, read_cards, read_entry
from precalc_assets.columns import Column
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import MissingTableError, ShardError, UsageError
from precalc_assets.predictions.parquet import ARROW_TYPES, StoredFile, open_parquet
from precalc_assets.screening.query import AnyOf, Condition, Query, Value, split
from precalc_assets.tables import KeyValueStore
from precalc_assets.tables.directory import Directory

_KEPT_BYTES = 160 << 20
"""Columns in memory: a screen by two columns of 1.4 million molecules takes 150 MB with its keys and SMILES."""
_AT_ONCE = 2
"""Files read concurrently; with more, the first screen of 1.4 million molecules takes over 600 MB."""

_LEAST, _MOST = -(2**63), 2**63 - 1

KEY, SMILES = "inchikey", "smiles"

Columns = dict[str, pa.ChunkedArray]


class ScreeningEngine:
    """Answers screens over the files of a store. It may be used by several threads.

    `find` returns a model's entry, None for an unknown model; `names` returns all models.
    """

    def __init__(
        self,
        store: ObjectStore,
        find: Callable[[str], CatalogueEntry | None],
        names: Callable[[], Sequence[str]],
        *,
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        self._find = find
        self._names = names
        self._files = _Files(store, kept_bytes)

    def answer(self, query: Query) -> ScreenAnswer:
        """Answer a screen.

        Raises UsageError for an unknown model or column, for a value of another type than its column, and for models of
        different libraries; ShardError for a file that is missing, damaged or not the one that was loaded.
        """
        entries = {model: self._open(model) for model in query.models}
        kinds = {name: _find_column(entries, name) for name in query.columns}
        for condition in query.conditions:
            _check(condition, kinds[condition.column])
        shards, by_position = _choose_shards(entries, allow_mixed=query.allow_mixed)
        columns = self._read(entries, shards, query, by_position=by_position)
        n_rows = len(next(iter(columns.values())))
        masks = (_meets_any(columns, kinds, entry) for entry in query.where)
        matched = pc.indices_nonzero(reduce(pc.and_, masks, pa.repeat(True, n_rows)))
        chosen = _first(columns, query, matched)
        shown = (KEY, SMILES, *query.selected) if query.limit else ()
        return ScreenAnswer(
            id=_identify(query, entries, shards),
            matched=len(matched),
            screened=n_rows,
            models=tuple(_screened(entry, shards[model]) for model, entry in entries.items()),
            columns=(
                ScreenedColumn(KEY, "string"),
                ScreenedColumn(SMILES, "string"),
                *(ScreenedColumn(name, kinds[name].type) for name in query.selected),
            ),
            rows=tuple(zip(*(columns[name].take(chosen).to_pylist() for name in shown), strict=True)),
            distributions=tuple(
                _describe(kinds[name], name, columns[name].take(matched)) for name in query.distributions
            ),
        )

    def _open(self, model: str) -> CatalogueEntry:
        entry = self._find(model)
        if entry is None:
            near = get_close_matches(model, self._names(), n=1)
            hint = f"the nearest is {near[0]}" if near else "`precalc models` lists those that have"
            raise MissingTableError(f"{model} has no predictions; {hint}")
        return entry

    def _read(
        self,
        entries: Mapping[str, CatalogueEntry],
        shards: Mapping[str, Sequence[str]],
        query: Query,
        *,
        by_position: bool,
    ) -> Columns:
        """Return the columns of a screen, over the molecules that all models have, in the same order."""
        first = next(iter(entries))
        columns: Columns = {}
        for model, entry in entries.items():
            names = [name for name in query.columns if split(name)[0] == model]
            own = [KEY] if not by_position or (model == first and query.limit) else []
            own += [SMILES] if model == first and query.limit else []
            found = self._files.read(entry, shards[model], [*own, *(split(name)[1] for name in names)])
            read = {name: found[split(name)[1]] for name in names}
            if model == first:
                columns = read | {name: found[name] for name in own}
            elif by_position:
                columns |= read
            else:
                places = pc.index_in(columns[KEY], value_set=found[KEY].combine_chunks())
                both = pc.is_valid(places)
                places = places.filter(both)
                columns = {name: values.filter(both) for name, values in columns.items()}
                columns |= {name: values.take(places) for name, values in read.items()}
        return columns


def open_engine(store: ObjectStore, tables: KeyValueStore) -> ScreeningEngine:
    """Return an engine that reads a model's entry anew for each screen."""

    def find(model: str) -> CatalogueEntry | None:
        try:
            return read_entry(tables, model)
        except MissingTableError:
            return None

    return ScreeningEngine(store, find, lambda: list(read_cards(tables)))


class _Files:
    """The columns of files, of which those used last stay in memory."""

    def __init__(self, store: ObjectStore, kept_bytes: int) -> None:
        self._store = store
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, str, str], pa.Array] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def read(self, entry: CatalogueEntry, shards: Sequence[str], names: Sequence[str]) -> Columns:
        """Return columns of these shards, each with a chunk for each shard."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(lambda shard: self._read_shard(entry, shard, names), shards))
        return {
            name: pa.chunked_array([part[name] for part in parts], _type(entry, name)) for name in dict.fromkeys(names)
        }

    def _read_shard(self, entry: CatalogueEntry, shard: str, names: Sequence[str]) -> dict[str, pa.Array]:
        directory = entry.directories[shard]
        file = storage.predictions(entry.model, shard)
        found = {}
        with self._lock:
            for name in names:
                key = (file, directory.file_sha256, name)
                if key in self._kept:
                    found[name] = self._kept[key]
                    self._kept.move_to_end(key)
        if missing := [name for name in names if name not in found]:
            new = self._open(file, directory, {name: _type(entry, name) for name in missing})
            with self._lock:
                for name, values in new.items():
                    key = (file, directory.file_sha256, name)
                    self._bytes += values.nbytes if key not in self._kept else 0
                    self._kept[key] = values
                while self._bytes > self._kept_bytes and self._kept:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            found |= new
        return found

    def _open(self, name: str, directory: Directory, types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
        """Read columns of a file. Those that a shard of an earlier release does not have are null."""
        try:
            content = StoredFile(self._store, name)
            with open_parquet(content, name) as (parquet, provenance):
                if (content.size, provenance.raw_digest) != (directory.file_bytes, directory.built_from):
                    raise ShardError(f"{name} is not the file that its table was loaded from; load its shard again")
                has = {field.name for field in parquet.schema_arrow if types.get(field.name) == field.type}
                table = parquet.read([name for name in types if name in has], use_threads=False)
                return {
                    name: table[name].combine_chunks() if name in has else pa.nulls(parquet.metadata.num_rows, kind)
                    for name, kind in types.items()
                }
        except FileNotFoundError:
            raise ShardError(f"{name} is gone from the store; load its shard again") from None
        except BaseError as error:
            raise ShardError(f"{name} cannot be read: {reason(error)}") from None
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{name} cannot be read ({reason(error)}); load its shard again") from None


def _type(entry: CatalogueEntry, name: str) -> pa.DataType:
    return next((ARROW_TYPES[column.type] for column in entry.reader.columns if column.name == name), pa.string())


def _find_column(entries: Mapping[str, CatalogueEntry], name: str) -> Column:
    model, column = split(name)
    columns = entries[model].reader.columns
    return columns[find_columns(model, [known.name for known in columns], [column])[0]]


def _choose_shards(
    entries: Mapping[str, CatalogueEntry], *, allow_mixed: bool
) -> tuple[dict[str, Sequence[str]], bool]:
    """Return the shards to read of each model, and whether all have the same molecules in the same order.

    Of one library these are the shards that all models have. Of several, a molecule may be in another shard of each
    model, so these are all. Raises UsageError for models of different libraries that are not allowed.
    """
    first, *others = entries.values()
    common = [shard for shard in first.directories if all(shard in other.directories for other in others)]
    if _same_molecules(entries, common):
        return dict.fromkeys(entries, common), True
    if not allow_mixed:
        named = ", ".join(entries)
        raise UsageError(
            f"{named} were predicted for different libraries; run `precalc run` for those of the older one, or allow "
            "mixed libraries to screen the molecules that all have"
        )
    return {model: list(entry.directories) for model, entry in entries.items()}, False


def _same_molecules(entries: Mapping[str, CatalogueEntry], shards: Sequence[str]) -> bool:
    """Return whether these shards have the same molecules in all models, and so the same order."""
    return all(
        len({(entry.reader.n_shards, entry.directories[shard].shard_digest) for entry in entries.values()}) == 1
        for shard in shards
    )


def _screened(entry: CatalogueEntry, shards: Sequence[str]) -> ScreenedModel:
    read = [entry.directories[shard] for shard in shards]
    return ScreenedModel(
        model=entry.model,
        releases=tuple(sorted({directory.release for directory in read})),
        library_digest=entry.library_digest,
        shards=len(read),
        n_shards=entry.reader.n_shards,
        molecules=sum(directory.rows for directory in read),
    )


def _identify(query: Query, entries: Mapping[str, CatalogueEntry], shards: Mapping[str, Sequence[str]]) -> str:
    """Return the digest of the question and of the files that answer it."""
    files = [entry.directories[shard].file_sha256 for model, entry in entries.items() for shard in shards[model]]
    return sha256("\n".join([query.model_dump_json(), *files]).encode()).hexdigest()[:32]


def _check(condition: Condition, column: Column) -> None:
    """Raise UsageError for a value that cannot be compared with its column."""
    value, op, name = condition.value, condition.op, condition.column
    values: tuple[Any, ...] = value if isinstance(value, tuple) else () if value is None else (value,)
    expected = {"is_null": "no value", "between": "two values, the ends", "in": "a list of values"}.get(op, "one value")
    n_wanted = {"is_null": 0, "between": 2, "in": len(values) or 1}.get(op, 1)
    if len(values) != n_wanted or isinstance(value, tuple) != (op in ("between", "in")):
        raise UsageError(f"{name}: {op} takes {expected}")
    is_text = column.type == "string"
    if is_text and op not in ("eq", "in", "is_null"):
        raise UsageError(f"{name} has texts, which can only be equal (=) or in a list (in), not {op}")
    for one in values:
        if isinstance(one, str) != is_text:
            kind = "texts; write the value in quotes" if is_text else "numbers, not texts"
            raise UsageError(f"{name} has {kind}: {one!r:.50}")
    if op == "between" and values[0] > values[1]:
        raise UsageError(f"{name}: nothing is between {values[0]} and {values[1]}; the lower end comes first")


def _meets_any(columns: Columns, kinds: Mapping[str, Column], entry: AnyOf | Condition) -> pa.ChunkedArray:
    """Return for each molecule whether it meets a condition, or one of several."""
    conditions = entry.any if isinstance(entry, AnyOf) else (entry,)
    return reduce(pc.or_, (_meets(columns[one.column], kinds[one.column], one) for one in conditions))


def _meets(values: pa.ChunkedArray, column: Column, condition: Condition) -> pa.ChunkedArray:
    """Return for each molecule whether its value meets a condition, which `_check` has accepted; null does not."""
    value, op = condition.value, condition.op
    if op == "is_null" or value is None:
        return pc.is_null(values)
    if op in ("eq", "in"):
        wanted = [
            one for given in (value if isinstance(value, tuple) else (value,)) for one in _equal_to(given, column)
        ]
        return pc.is_in(values, value_set=pa.array(wanted, values.type))
    low, high = value if isinstance(value, tuple) else (value, value)
    if column.type == "integer":
        op, low, high = "between", *_whole_ends(op, low, high)
    else:
        low, high = float(low), float(high)
    masks = []
    if op in ("gt", "ge", "between"):
        masks.append((pc.greater if op == "gt" else pc.greater_equal)(values, pa.scalar(low, values.type)))
    if op in ("lt", "le", "between"):
        masks.append((pc.less if op == "lt" else pc.less_equal)(values, pa.scalar(high, values.type)))
    return pc.fill_null(reduce(pc.and_, masks), False)


def _equal_to(value: Value, column: Column) -> tuple[Value, ...]:
    """Return the values of a column's type that are equal to this one: both zeros, or none for 2.5 among integers."""
    if isinstance(value, str):
        return (value,)
    if column.type == "integer":
        return (int(value),) if value == int(value) and _LEAST <= value <= _MOST else ()
    return (0.0, -0.0) if value == 0 else (float(value),) if float(value) == value else ()


def _whole_ends(op: str, low: Any, high: Any) -> tuple[int, int]:  # noqa: ANN401 - numbers
    """Return the least and the greatest integer that meet a comparison; if none does, the least is the greater."""
    least = {"gt": math.floor(low) + 1, "ge": math.ceil(low), "between": math.ceil(low)}.get(op, _LEAST)
    greatest = {"lt": math.ceil(high) - 1, "le": math.floor(high), "between": math.floor(high)}.get(op, _MOST)
    if least > _MOST or greatest < _LEAST:
        return 1, 0
    return max(least, _LEAST), min(greatest, _MOST)


def _first(columns: Columns, query: Query, matched: pa.Array) -> pa.Array:
    """Return the places of the first molecules in the order of a screen; InChIKeys decide between equal ones."""
    if not query.limit:
        return matched.slice(0, 0)
    keys = [*(order.column for order in query.order), KEY]
    table = pa.table([columns[name].take(matched) for name in keys], names=[str(at) for at in range(len(keys))])
    directions = ["descending" if order.descending else "ascending" for order in query.order] + ["ascending"]
    sort_keys = [(str(at), direction) for at, direction in enumerate(directions)]
    return matched.take(pc.select_k_unstable(table, k=query.limit, sort_keys=sort_keys))


def _describe(column: Column, name: str, values: pa.ChunkedArray) -> Distribution:
    present = values.drop_null()
    nulls = len(values) - len(present)
    if column.type == "string":
        counted: Counter[str] = Counter()
        count_texts(present, counted)
        return describe_texts(name, counted, len(values), nulls)
    return describe_numbers(name, present.to_numpy(), len(values), nulls)
