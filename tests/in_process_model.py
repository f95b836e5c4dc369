"""A model without a process, for laws of what is computed, stored and reused."""

import math
from collections.abc import Sequence

from precalc_assets.columns import Column
from precalc_assets.inference.model_backend import BatchError, CallTimeoutError


class Model:
    """Answers with a molecule's length; times out above `most` molecules, or on a molecule that `hangs`.

    `refuses` molecules fail at once. Call number `killed_at` ends the run like a kill.
    """

    columns = (Column("length", "integer", "", ""),)
    release = "v1.0.0"
    environment = "framework-test"

    def __init__(
        self,
        most: float = math.inf,
        hangs: Sequence[str] = (),
        refuses: Sequence[str] = (),
        killed_at: float = math.inf,
        kill: type[BaseException] = KeyboardInterrupt,
    ) -> None:
        self.most = most
        self.hangs = set(hangs)
        self.refuses = set(refuses)
        self.killed_at = killed_at
        self.kill = kill
        self.calls: list[list[str]] = []
        self.answered: set[str] = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def predict(self, smiles, deadline=math.inf):
        self.calls.append(list(smiles))
        if len(self.calls) >= self.killed_at:
            raise self.kill
        if len(smiles) > self.most or self.hangs & set(smiles):
            raise CallTimeoutError("no answer within 1 s")
        if self.refuses & set(smiles):
            raise BatchError("cannot do it")
        self.answered |= set(smiles)
        return [self.answer(text) for text in smiles]

    def answer(self, smiles: str) -> bytes:
        return b"%d" % len(smiles)


class Echo(Model):
    """Answers with the molecule itself, so that no row can be taken for another one's."""

    columns = (Column("label", "string", "", ""),)

    def answer(self, smiles: str) -> bytes:
        return smiles.encode()
