"""Model folders in the hub's template layout: finding them and reading their metadata."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from precalc.identifiers import check_model_id
from precalc_assets.columns import Column, read_columns
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.frozen_record import FrozenRecord, first_fault
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.platform_errors import ModelError, UsageError

_EMPTY = (None, "", "~", "null", "Null", "NULL", "None")
"""How JSON, YAML (1.1, "Null Language-Independent Type") and the hub write null."""

MOST_BYTES = 1 << 20
"""Limit on the size of a model's metadata, recipe and record of its origin. The hub's largest has 10 KB."""

_DEEPEST = 100
"""Limit on brackets within brackets: PyYAML's time grows with the square of their number."""

RELEASE = r"v(\d+)\.(\d+)\.(\d+)"
"""A release tag of the hub."""

METADATA = ("metadata.yml", "metadata.json")
"""The files that may hold a model's metadata; the first that exists counts."""

FETCHED = "fetched.json"
"""The file beside a fetched model's folder that holds its `Fetched` record."""

_DECIDES = ("model", "install.yml", "Dockerfile")
"""The parts of a model's folder that predictions depend on: code, checkpoints, and the environment's recipe."""

_NOT_THE_MODEL = frozenset({".git", "__pycache__"})


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's checkout: `metadata.yml`, `install.yml` and `model/framework/`."""

    model: str
    path: Path
    metadata: ModelMetadata
    columns: tuple[Column, ...]
    warnings: tuple[str, ...] = ()
    """How files that deviate from the hub's template were interpreted."""

    @property
    def framework(self) -> Path:
        """The folder that holds `run.sh`, the code and the columns."""
        return self.path / "model" / "framework"


class Fetched(FrozenRecord):
    """Where a fetched model's folder comes from."""

    release: Annotated[str, Field(pattern=rf"^{RELEASE}$|^commit-[0-9a-f]{{12}}$")]
    url: str
    commit: str
    committed_on: date


def find_model(model: str, folders: Sequence[Path]) -> ModelFolder:
    """Return the model from the first folder that has it. Raises UsageError, or ModelError for an unusable one."""
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
            raise UsageError(f"PRECALC_MODELS_DIR names {folder}, which is not a folder")
        found |= {child.name for child in folder.glob("eos*") if child.is_dir()}
    return sorted(found)


def read_folder(path: Path) -> ModelFolder:
    """Read a model's folder, which has the model's name. Raises ModelError if it cannot be used.

    The release is the tag that was fetched, since the hub writes the metadata's field only after it sets a tag. Without
    a tag it is that field, and without the field a digest of the content, so that different models never look alike.
    A fetched folder without a packaging date gets the day of its commit.
    """
    file = next((path / name for name in METADATA if (path / name).is_file()), None)
    if file is None:
        raise ModelError(f"{path} has neither metadata.yml nor metadata.json; a model needs one of them")
    metadata = parse_metadata(file)
    if metadata.identifier != path.name.partition("-v")[0]:
        raise ModelError(f"the folder {path} holds the model {metadata.identifier!r}; name both alike")
    columns, warnings = read_columns(path / "model" / "framework")
    fetched = read_fetched(path)
    release = fetched.release if fetched else metadata.release
    update = {
        "release": release or f"content-{digest_files(path, _DECIDES)[:12]}",
        "packaged_on": metadata.packaged_on or (fetched and fetched.committed_on),
    }
    return ModelFolder(path.name, path, metadata.model_copy(update=update), columns, warnings)


def read_packed(path: Path, model: str, release: str) -> ModelFolder:
    """Read the folder of a model that ersilia's tools have packed. Raises ModelError if it cannot be used.

    Its metadata may be a card in `information.json` alone. `release`, unless it is empty, counts rather than the
    metadata's, which may be older than the image's tag.
    """
    if not any((path / name).exists() for name in METADATA):
        with suppress(OSError, ValueError, KeyError, TypeError, ForeignFileError, RecursionError):
            card = json.loads(read_foreign(path / "information.json", MOST_BYTES), parse_float=str)["card"]
            (path / "metadata.json").write_text(json.dumps(card), encoding="utf-8")
    folder = read_folder(path)
    metadata = folder.metadata.model_copy(update={"release": release or folder.metadata.release})
    return replace(folder, model=model, metadata=metadata)


def read_fetched(folder: Path) -> Fetched | None:
    """Return the record beside a model's folder, None if there is none. Raises ModelError for a damaged one."""
    path = folder.parent / FETCHED
    try:
        return Fetched.model_validate_json(read_foreign(path, MOST_BYTES))
    except FileNotFoundError:
        return None
    except (ValidationError, ForeignFileError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else error
        raise ModelError(f"{path} is damaged: {why}; run `precalc models remove {folder.name}`") from None


def digest_files(folder: Path, names: Iterable[str] = ("",)) -> str:
    """Return a digest of a folder's files, by name and content; `names` limits it to these files and subfolders.

    Each process reads a file once, and again only if its size or modification time changes.
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
def _digest_file(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - part of the cache key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_metadata(path: Path) -> ModelMetadata:
    """Read a metadata file. Raises ModelError that names the file and the field."""
    content = read_fields(path)
    try:
        return ModelMetadata.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{path}: {first_fault(error)}") from None


class _Loader(yaml.BaseLoader):
    """Reads YAML without aliases, a few lines of which stand for gigabytes, and not too deeply nested."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level == _DEEPEST:
            raise yaml.YAMLError(f"brackets are nested more than {_DEEPEST} deep")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)


def read_fields(path: Path) -> object:
    """Return the content of a model's YAML or JSON file, without empty fields.

    Numbers stay text: as a float, release 1.10 would become 1.1. Raises ModelError that names the file, and
    FileNotFoundError.
    """
    try:
        text = read_foreign(path, MOST_BYTES).decode("utf-8-sig")
        if path.suffix == ".json":
            content = json.loads(text, parse_int=str, parse_float=str)
        else:
            content = yaml.load(text, _Loader)  # noqa: S506 - it makes only texts, lists and mappings
    except (yaml.YAMLError, ValueError, ForeignFileError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return drop_empty(content)


def drop_empty(fields: object) -> object:
    """Return the hub's metadata of a model without empty fields; anything but a mapping as it is."""
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if value not in _EMPTY}
