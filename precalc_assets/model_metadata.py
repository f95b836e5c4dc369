"""A model's metadata, as the hub defines it.

`models.folder` reads it from a model's folder. The canary's report and the card contain it, so the Lambda imports this
module.
"""

from datetime import date
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""A list in the hub's metadata. Some models write a list of one as a string."""


def or_none(value: object, parse: ValidatorFunctionWrapHandler) -> object:
    """Treat a malformed field as missing: predictions do not depend on it."""
    try:
        return parse(value)
    except ValidationError:
        return None


class ModelMetadata(BaseModel):
    """The hub's fields in a model's `metadata.yml` or `metadata.json` that the platform shows."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True)

    identifier: str = Field(alias="Identifier")
    title: str = Field(alias="Title")
    description: str = Field(default="", alias="Description")
    interpretation: str = Field(default="", alias="Interpretation")
    release: str = Field(default="", alias="Release")
    tags: Strings = Field(default=(), alias="Tag")
    license: str = Field(default="", alias="License")
    publication: str = Field(default="", alias="Publication")
    source_code: str = Field(default="", alias="Source Code")
    status: str = Field(default="", alias="Status")
    source: str = Field(default="", alias="Source")
    inputs: Strings = Field(default=(), alias="Input")
    output_consistency: str = Field(default="", alias="Output Consistency")
    architectures: Strings = Field(default=(), alias="Docker Architecture")
    packaged_on: Annotated[date | None, WrapValidator(or_none)] = Field(default=None, alias="Last Packaging Date")
    environment_megabytes: Annotated[float | None, WrapValidator(or_none)] = Field(None, alias="Environment Size")
    image_megabytes: Annotated[float | None, WrapValidator(or_none)] = Field(default=None, alias="Image Size")
