"""Run a model on given molecules instead of a shard of the library. The store is not used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from precalc_assets.inference.batching import GaveUpError, PatientCaller
from precalc_assets.inference.call_size import CallSize
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ModelError


@dataclass(frozen=True, slots=True)
class ComputedMolecule:
    """A model's record for a molecule; or the reason why there is none, with an empty record."""

    smiles: str
    record: bytes
    reason: str = ""


def predict_molecules(
    model: str, backend: ModelBackend, smiles: Iterable[str], *, batch_size: int
) -> Iterator[list[ComputedMolecule]]:
    """Yield the predictions for these SMILES, in order, call by call. The backend must have been entered.

    A call has at most `batch_size` molecules, fewer if the model is slow. A molecule that the model cannot answer loses
    only itself. Failures are held back until the model has answered a molecule.
    Raises ModelError if it answers none, or cannot be run.
    """
    size = CallSize(batch_size)
    caller = PatientCaller(model, backend, size)
    rest = iter(smiles)
    held: list[ComputedMolecule] = []
    while batch := list(islice(rest, min(batch_size, size.most))):
        try:
            (answer,) = caller.answer([batch])
        except OSError as error:
            raise ModelError(f"{model} cannot be run: {reason(error)}") from error
        if isinstance(answer, GaveUpError):
            held += [ComputedMolecule(text, b"", str(answer)) for text in batch]
        else:
            held += [
                ComputedMolecule(text, b"" if row in answer.failures else record, answer.failures.get(row, ""))
                for row, (text, record) in enumerate(zip(batch, answer.records, strict=True))
            ]
        if caller.answered:
            yield held
            held = []
    if held:
        yield held
