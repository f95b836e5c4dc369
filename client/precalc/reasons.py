"""Why a model failed on molecules: its quarantine lists, one for each shard, read when they are needed and kept."""

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence

from precalc.errors import OneModelError
from precalc.identifiers import shard_number
from precalc.source import Answer
from precalc.statuses import MODEL_FAILED

ReadLists = Callable[[Collection[int]], Mapping[int, bytes]]
"""Returns the lists of the shards with these numbers: CSV with the columns `inchikey` and `reason`."""


class Reasons:
    """The reasons of one model. May be used by several threads."""

    def __init__(self, model: str, n_shards: int, read: ReadLists) -> None:
        self._model = model
        self._n_shards = n_shards
        self._read = read
        self._lists: dict[int, dict[str, str]] = {}

    def add_to(self, answer: Answer, inchikeys: Sequence[str]) -> Answer:
        """Return an answer for these molecules with the reasons of those on which the model failed.

        Raises PrecalcError if a list cannot be read.
        """
        pairs = zip(inchikeys, answer.statuses, strict=True)
        shards = {key: shard_number(key, self._n_shards) for key, status in pairs if status == MODEL_FAILED}
        unread = set(shards.values()) - self._lists.keys()
        for shard, content in self._read(unread).items() if unread else ():
            self._lists[shard] = self._parse(content)
        found = {key: self._lists.get(shard, {}).get(key) for key, shard in shards.items()}
        return answer._replace(reasons={key: reason for key, reason in found.items() if reason})

    def _parse(self, content: bytes) -> dict[str, str]:
        try:
            rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
            return {row["inchikey"]: row["reason"] for row in rows}
        except (KeyError, ValueError, csv.Error):
            raise OneModelError(f"a quarantine list of {self._model} is damaged; leave out the reasons") from None
