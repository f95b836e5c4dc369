"""The base of the pydantic models that are stored and shown, and what is wrong with one. The Lambda imports this."""

from pydantic import BaseModel, ConfigDict, ValidationError


class FrozenRecord(BaseModel):
    """A record whose fields never change."""

    model_config = ConfigDict(frozen=True)


def first_fault(error: ValidationError) -> str:
    """Return the first field that is invalid, and why."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "its content"
    return f"{place}: {plain_reason(first['msg'])}"


def plain_reason(message: str) -> str:
    """Return the message of a fault without pydantic's name for a check of ours."""
    return message.removeprefix("Value error, ")
