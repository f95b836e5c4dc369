"""JSON objects of the store that are pydantic models: reading one, replacing one, and creating one that must be new.

The names of the objects, and what each of them says, belong to the packages that own them.
"""

from typing import TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore
from pydantic import BaseModel, ValidationError

from precalc_assets.errors import PrecalcError

RecordType = TypeVar("RecordType", bound=BaseModel)


def read_record(
    store: ObjectStore, name: str, kind: type[RecordType], *, error: type[PrecalcError], remedy: str
) -> RecordType | None:
    """Return the object of this name, or None if there is none.

    Raises `error`, with the first fault and the `remedy`, if the object is not JSON of this kind.
    """
    try:
        content = bytes(obstore.get(store, name).bytes())
    except FileNotFoundError:
        return None
    try:
        return kind.model_validate_json(content)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        fault = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise error(f"{name} is damaged ({fault}); {remedy}") from None


def put_record(store: ObjectStore, name: str, record: BaseModel) -> None:
    """Write an object in place of the one of this name, if there is one."""
    obstore.put(store, name, record.model_dump_json().encode())


def create_record(store: ObjectStore, name: str, record: BaseModel) -> bool:
    """Write an object unless there is one of this name. Return whether it was written."""
    try:
        obstore.put(store, name, record.model_dump_json().encode(), mode="create")
    except AlreadyExistsError:
        return False
    return True
