"""Models on disk, in the hub's template layout: which there are, and what their files say of them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import cast

import yaml
from pydantic import ValidationError

from precalc.identifiers import check_model_id
from precalc_assets.columns import Column, read_columns
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.platform_errors import ModelError, UsageError

_EMPTY = (None, "", "~", "null", "Null", "NULL", "None")
"""JSON's null, YAML's as they are written (YAML 1.1, "Null Language-Independent Type"), and the hub's."""

FETCHED = "fetched.json"
"""Beside a model's folder that was fetched: the release, the URL and the commit that it is."""

_DECIDES = ("model", "install.yml", "Dockerfile")
"""What predictions depend on, in a model's folder: its code and checkpoints, and the recipe of its environment."""

_NOT_THE_MODEL = frozenset({".git", "__pycache__"})


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's checkout: `metadata.yml`, `install.yml` and `model/framework/`."""

    model: str
    path: Path
    metadata: ModelMetadata
    columns: tuple[Column, ...]
    warnings: tuple[str, ...] = ()
    """What had to be made of files that are not as the hub's template wants them."""

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
            return read_folder(folder / model)
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


def read_folder(path: Path) -> ModelFolder:
    """Read a model's folder, which has the model's name. Raises ModelError if it cannot be used.

    Its release is the tag that it was fetched at, since the hub writes the metadata's field after it sets a tag; else
    that field; and without one a digest of the content, so that two different models never look alike. A fetched
    folder without a packaging date has the day of its commit.
    """
    metadata = _read_metadata(path)
    if metadata.identifier != path.name.partition("-v")[0]:
        raise ModelError(f"the folder {path} holds the model {metadata.identifier!r}; name both alike")
    columns, warnings = read_columns(path / "model" / "framework")
    fetched = _read_fetched(path)
    update = {
        "release": fetched.get("release") or metadata.release or f"content-{digest_files(path, _DECIDES)[:12]}",
        "packaged_on": metadata.packaged_on or (fetched and date.fromisoformat(fetched["committed_on"])) or None,
    }
    return ModelFolder(path.name, path, metadata.model_copy(update=update), columns, warnings)


def _read_fetched(path: Path) -> dict[str, str]:
    """Return the release that a folder was fetched at and the day of its commit; nothing for one put there by hand."""
    try:
        return cast("dict[str, str]", json.loads((path.parent / FETCHED).read_bytes()))
    except FileNotFoundError:
        return {}


def digest_files(folder: Path, names: Iterable[str] = ("",)) -> str:
    """Return a digest of the files of a folder, by name and content; `names` limits it to these files and subfolders.

    A file is read once per process and state (size and time of its last change).
    """
    digest = hashlib.sha256()
    found = [folder / name for name in names]
    for path in sorted(file for top in found for file in ([top] if top.is_file() else top.rglob("*"))):
        name = path.relative_to(folder)
        if path.is_file() and _NOT_THE_MODEL.isdisjoint(name.parts):
            stat = path.stat()
            digest.update(f"{name}\0{_digest_file(path, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


@cache
def _digest_file(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - they are what the cache goes by
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_metadata(path: Path) -> ModelMetadata:
    for name in ("metadata.yml", "metadata.json"):
        if (path / name).is_file():
            return parse_metadata(path / name)
    raise ModelError(f"{path} has neither metadata.yml nor metadata.json; a model needs one of them")


def parse_metadata(path: Path) -> ModelMetadata:
    """Read a metadata file. Raises ModelError that names the file and the field."""
    content = read_fields(path)
    try:
        return ModelMetadata.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "its content"
        raise ModelError(f"{path}: {field}: {first['msg']}") from None


def read_fields(path: Path) -> object:
    """Return what a YAML or JSON file of a model says, numbers as they are written, without fields that are empty.

    As a float, release 1.10 would be release 1.1. Raises ModelError that names the file, and FileNotFoundError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            content = json.loads(text, parse_int=str, parse_float=str)
        else:
            content = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - it makes texts, lists and mappings alone
    except (yaml.YAMLError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        return content
    return {name: value for name, value in content.items() if value not in _EMPTY}
