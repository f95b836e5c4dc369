"""Finding missing files of a model: Git LFS pointers, and checkpoints that eosvc has not downloaded."""

import json
import re
from pathlib import Path

from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.models.folder import MOST_BYTES
from precalc_assets.platform_errors import ModelError

_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?size (\d+)\n")
_POINTER_BYTES = 1024
"""A pointer is smaller than this (Git LFS specification, "The Pointer")."""

_PLACEHOLDERS = (".git*", "README*")
"""Files that only keep a folder in git."""


def require_checkpoints(model: str, path: Path) -> None:
    """Raise ModelError if a file of a model folder's `model/` is a Git LFS pointer, or if its checkpoints are missing.

    They are missing if `access.json` leaves them to eosvc, the code reads them, and eosvc has never run.
    """
    remedy = f"or remove that folder and run `precalc models fetch {model}`"
    pointers = list(find_pointers(path / "model"))
    if pointers:
        others = f" and {len(pointers) - 1} other files are, too" if pointers[1:] else ""
        raise ModelError(
            f"{pointers[0].relative_to(path)} is a Git LFS pointer{others}: install git-lfs and run `git lfs pull` in "
            f"{path}, {remedy}"
        )
    is_asked = (path / ".eosvc").is_dir()
    if keeps_checkpoints_in_eosvc(path) and not is_asked and _lacks_checkpoints(path / "model"):
        raise ModelError(
            f"model/checkpoints of {model} is empty, its code reads it, and access.json leaves it to eosvc: run "
            f"`eosvc download --path model/checkpoints` in {path}, {remedy}"
        )


def find_pointers(path: Path) -> dict[Path, int]:
    """Return a folder's Git LFS pointers, with the sizes in bytes of their objects."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.stat().st_size < _POINTER_BYTES and (match := _POINTER.match(file.read_bytes())):
            found[file] = int(match[1])
    return found


def keeps_checkpoints_in_eosvc(path: Path) -> bool:
    """Return whether a model's `access.json` names checkpoints in eosvc. Raises ModelError if it is damaged."""
    try:
        return "checkpoints" in json.loads(read_foreign(path / "access.json", MOST_BYTES))
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, ForeignFileError, RecursionError) as error:
        raise ModelError(f"{path / 'access.json'} cannot be read: {error}") from None


def _lacks_checkpoints(path: Path) -> bool:
    """Return whether a folder `model/` has no checkpoints although its code mentions them."""
    checkpoints = (path / "checkpoints").rglob("*")
    if any(file.is_file() and not any(map(file.match, _PLACEHOLDERS)) for file in checkpoints):
        return False
    sources = [path / "framework" / "run.sh", *(path / "framework" / "code").rglob("*.py")]
    return any(b"checkpoints" in source.read_bytes() for source in sources if source.is_file())
