"""The base of the pydantic models that are stored and shown. The Lambda imports this module."""

from pydantic import BaseModel, ConfigDict


class FrozenRecord(BaseModel):
    """A record whose fields never change."""

    model_config = ConfigDict(frozen=True)
