"""Pydantic models stored as JSON objects: reading one, creating it once, or replacing it.

Their names and fields belong to the packages that own them.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore
from pydantic import BaseModel, ValidationError

from precalc_assets.platform_errors import PrecalcError

RecordType = TypeVar("RecordType", bound=BaseModel)


@dataclass(frozen=True)
class Slot(Generic[RecordType]):
    """The object of a record that is written once. A damaged record raises `error`, whose message ends in `remedy`."""

    store: ObjectStore
    name: str
    kind: type[RecordType]
    error: type[PrecalcError]
    remedy: str

    def read(self) -> RecordType | None:
        """Return the record, or None if there is none. Raises `error` if the object is not JSON of this kind."""
        try:
            content = bytes(obstore.get(self.store, self.name).bytes())
        except FileNotFoundError:
            return None
        try:
            return self.kind.model_validate_json(content)
        except ValidationError as invalid:
            first = invalid.errors()[0]
            fault = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
            raise self.error(f"{self.name} is damaged ({fault}); {self.remedy}") from None

    def create(self, record: RecordType) -> bool:
        """Write the record unless one exists. Return whether it was written."""
        try:
            obstore.put(self.store, self.name, record.model_dump_json().encode(), mode="create")
        except AlreadyExistsError:
            return False
        return True


class ReplaceableSlot(Slot[RecordType]):
    """The object of a record that may be replaced."""

    def put(self, record: RecordType) -> None:
        """Write the record, replacing an earlier one."""
        obstore.put(self.store, self.name, record.model_dump_json().encode())
