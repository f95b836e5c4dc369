"""Models on disk, in the hub's template layout: which there are, and what their files say of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from precalc_assets.columns import Column, read_columns
from precalc_assets.errors import ModelError, UsageError
from precalc_assets.model_ids import check_model_id


def _as_tuple(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""A list of the hub's metadata, some of which write a list of one as a string."""


class ModelMetadata(BaseModel):
    """What a model says of itself in `metadata.yml` or `.json`: the hub's fields that we show."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    identifier: str = Field(alias="Identifier")
    title: str = Field(alias="Title")
    description: str = Field(default="", alias="Description")
    interpretation: str = Field(default="", alias="Interpretation")
    release: str = Field(default="unreleased", alias="Release", coerce_numbers_to_str=True)
    tags: Strings = Field(default=(), alias="Tag")
    license: str = Field(default="", alias="License")
    publication: str = Field(default="", alias="Publication")
    source_code: str = Field(default="", alias="Source Code")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's checkout: `metadata.yml`, `install.yml` and `model/framework/`."""

    model: str
    path: Path
    metadata: ModelMetadata
    columns: tuple[Column, ...]

    @property
    def framework(self) -> Path:
        """The folder that holds `run.sh`, the code and the columns."""
        return self.path / "model" / "framework"


def find_model(model: str, folders: Sequence[Path]) -> ModelFolder:
    """Return the first folder of that name.

    Raises UsageError for what is no model id or names no folder, ModelError for a folder that cannot be used.
    """
    check_model_id(model)
    known = ", ".join(list_models(folders)) or "none"
    for folder in folders:
        if (folder / model).is_dir():
            return _read_model(folder / model)
    raise UsageError(
        f"there is no model {model!r} (known: {known}); put its folder into one of those that PRECALC_MODELS_DIR names"
    )


def list_models(folders: Sequence[Path]) -> list[str]:
    """Return the ids of all models in these folders, sorted."""
    found = set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"PRECALC_MODELS_DIR names {folder}, which is no folder")
        found |= {child.name for child in folder.glob("eos*") if child.is_dir()}
    return sorted(found)


def _read_model(path: Path) -> ModelFolder:
    metadata = _read_metadata(path)
    if metadata.identifier != path.name.partition("-v")[0]:
        raise ModelError(f"the folder {path} holds the model {metadata.identifier!r}; name both alike")
    return ModelFolder(
        model=path.name,
        path=path,
        metadata=metadata,
        columns=read_columns(path / "model" / "framework" / "columns" / "run_columns.csv"),
    )


def _read_metadata(path: Path) -> ModelMetadata:
    for name in ("metadata.yml", "metadata.json"):
        if (path / name).is_file():
            return parse_metadata(path / name)
    raise ModelError(f"{path} has neither metadata.yml nor metadata.json; a model needs one of them")


def parse_metadata(path: Path) -> ModelMetadata:
    """Read a metadata file; JSON is YAML too. Raises ModelError that names the file and the field."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelMetadata.model_validate(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "its content"
        raise ModelError(f"{path}: {field}: {first['msg']}") from None
