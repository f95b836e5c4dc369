"""A check of screens: for a sample of a model's columns, a plain full scan of its files finds the same molecules."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from obstore.store import ObjectStore

from precalc.source import Value
from precalc_assets import storage
from precalc_assets.catalogue import CatalogueEntry, read_entry
from precalc_assets.columns import Column
from precalc_assets.outcomes import Check
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.predictions.parquet import StoredFile, open_parquet
from precalc_assets.screening.engine import ScreeningEngine, open_engine
from precalc_assets.screening.query import Condition, Operator, Query
from precalc_assets.tables import KeyValueStore

SCREEN_CHECK = {"screen": "a screen by a sample of the columns finds what a full scan of the files does"}

_COLUMNS = 3


def check_screens(store: ObjectStore, tables: KeyValueStore, model: str) -> Check:
    """Compare screens by some columns with a full scan. It reads the files of all loaded shards."""
    try:
        entry = read_entry(tables, model)
        columns = entry.reader.columns[:: max(1, len(entry.reader.columns) // _COLUMNS)][:_COLUMNS]
        wrong = list(_differences(store, open_engine(store, tables), entry, columns))
    except PrecalcError as error:
        return Check("screen", passed=False, description=str(error))
    names = ", ".join(column.name for column in columns)
    return Check("screen", not wrong, "; ".join(wrong) or f"screens by {names} equal a full scan")


def _differences(
    store: ObjectStore, engine: ScreeningEngine, entry: CatalogueEntry, columns: Sequence[Column]
) -> Iterator[str]:
    """Yield, for each column, in what its screen differs: by one of its values, and by having none."""
    # Read all of them at once: the engine keeps them, and names a file that is missing.
    nulls = tuple(Condition(column=f"{entry.model}.{column.name}", op="is_null") for column in columns)
    engine.answer(Query(where=nulls, limit=0))
    for column, count in zip(columns, _scan(store, entry, columns), strict=True):
        name = f"{entry.model}.{column.name}"
        expected = {Condition(column=name, op="is_null"): count.nulls}
        if count.chosen is not None:
            op: Operator = "eq" if column.type == "string" else "ge"
            expected[Condition(column=name, op=op, value=count.chosen)] = count.meeting
        for condition, number in expected.items():
            matched = engine.answer(Query(where=(condition,), limit=0)).matched
            if matched != number:
                said = f"{name} {condition.op} {condition.value}"
                yield f"{said}: a screen finds {matched:,}, the files have {number:,}"


@dataclass
class _Count:
    """What a scan counts of a column: nulls, and values equal to the first one or, of numbers, not below it."""

    nulls: int = 0
    chosen: Value = None
    meeting: int = 0

    def add(self, values: Iterable[Any]) -> None:
        """Count values."""
        for value in values:
            if value is None:
                self.nulls += 1
                continue
            self.chosen = value if self.chosen is None else self.chosen
            self.meeting += value == self.chosen if isinstance(value, str) else value >= self.chosen


def _scan(store: ObjectStore, entry: CatalogueEntry, columns: Sequence[Column]) -> list[_Count]:
    """Count the values of these columns in all loaded shards, one shard at a time."""
    counts = [_Count() for _ in columns]
    for shard in entry.directories:
        name = storage.predictions(entry.model, shard)
        with open_parquet(StoredFile(store, name), name) as (parquet, provenance):
            types = {column.name: column.type for column in provenance.columns}
            for column, count in zip(columns, counts, strict=True):
                if types.get(column.name) == column.type:
                    count.add(parquet.read([column.name])[column.name].to_pylist())
                else:
                    count.nulls += parquet.metadata.num_rows
    return counts
