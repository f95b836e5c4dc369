"""The molecules that a model's page offers to look up: some that the library has, and the model has a value for."""

from collections.abc import Mapping

from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.cards.distributions import open_served
from precalc_assets.cards.model_card import Example
from precalc_assets.columns import Column

_EXAMPLES = 3
_CHOSEN_FROM = 1_000
_CHARACTERS = 24
"""The best length of an example's SMILES: that of a small drug."""


def find_examples(store: ObjectStore, model: str, column: Column, served: Mapping[str, str]) -> tuple[Example, ...]:
    """Return molecules with a value in this column, of the first served shard that has a file with some."""
    for shard in sorted(served):
        with open_served(store, storage.predictions(model, shard), served[shard], [column]) as parquet:
            names = ["inchikey", "smiles", column.name]
            for batch in parquet.iter_batches(_CHOSEN_FROM, columns=names) if parquet else ():
                rows = [row for row in batch.to_pylist() if row[column.name] is not None]
                rows.sort(key=lambda row: abs(len(row["smiles"]) - _CHARACTERS))
                if rows:
                    return tuple(Example(**row) for row in rows[:_EXAMPLES])
    return ()
