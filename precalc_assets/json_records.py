"""Pydantic models stored as JSON objects: reading one, creating it once, or replacing it.

Their names and fields belong to the packages that own them.
"""

from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore
from pydantic import AfterValidator, BaseModel, StringConstraints, ValidationError

from precalc.identifiers import is_model_id
from precalc_assets.frozen_record import first_fault
from precalc_assets.platform_errors import PrecalcError


def _check_model(text: str) -> str:
    if not is_model_id(text):
        raise ValueError("it is not a model id")
    return text


ModelId = Annotated[str, AfterValidator(_check_model)]
ShardKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{2,5}$")]
"""Fields of records that become parts of the names of objects: a damaged or foreign one must not lead elsewhere."""

RecordType = TypeVar("RecordType", bound=BaseModel)


_MOST_BYTES = 16 << 20
"""More than any record has: the manifest of a library of 10,000 shards is 1.5 MB."""


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
            found = obstore.get(self.store, self.name)
        except FileNotFoundError:
            return None
        if found.meta["size"] > _MOST_BYTES:
            raise self.error(f"{self.name} is damaged ({found.meta['size']:,} bytes); {self.remedy}")
        try:
            return self.kind.model_validate_json(bytes(found.bytes()))
        except ValidationError as invalid:
            raise self.error(f"{self.name} is damaged ({first_fault(invalid)[:300]}); {self.remedy}") from None

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
