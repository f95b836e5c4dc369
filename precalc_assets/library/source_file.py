"""The library's source file: the demo file in the rdkit package, and the file in the store."""

from pathlib import Path

import obstore
from obstore.store import ObjectStore

from precalc.molecule_files import SUFFIXES, suffix_of
from precalc_assets.library.library_manifest import find_library
from precalc_assets.platform_errors import LibraryError

_NAMES = tuple(f"reference_library{suffix}" for suffix in SUFFIXES)

_CHUNK = 8 << 20


def demo_library() -> Path:
    """Return RDKit's file of 4,999 molecules of the NCI, which include invalid ones and duplicates."""
    from rdkit import RDConfig  # RDKit takes long to load, and most commands do not need it.

    return Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def put_source(store: ObjectStore, path: Path) -> str:
    """Copy a library file into the store as `reference_library` with its suffix; return that name.

    Then deletes a library file of another suffix. Checks nothing: build the library from `path` first, so that a broken
    file never replaces a good one. Raises LibraryError for an unsupported suffix.
    """
    name = f"reference_library{suffix_of(path)}"
    obstore.put(store, name, path)
    for other in _present(store):
        if other != name:
            obstore.delete(store, other)
    return name


def ensure_source(store: ObjectStore) -> None:
    """Put the demo library into an empty store, so that a new installation has a library to build.

    Raises LibraryError if the store has a library but not its source file.
    """
    if _present(store):
        return
    if find_library(store):
        raise LibraryError(f"the source file of the library in {store} is missing; run `precalc library build PATH`")
    put_source(store, demo_library())


def fetch_source(store: ObjectStore, folder: Path) -> Path:
    """Download the store's library file into a folder; return its path.

    Raises LibraryError if the store has none, or more than one.
    """
    names = _present(store)
    if not names:
        raise LibraryError(f"no {' or '.join(_NAMES)} in {store}; run `precalc library build PATH`")
    if len(names) > 1:
        raise LibraryError(f"{' and '.join(names)} are both in {store}; delete the one that is out of date")
    [name] = names
    path = folder / name
    with path.open("wb") as file:
        file.writelines(obstore.get(store, name).stream(min_chunk_size=_CHUNK))
    return path


def _present(store: ObjectStore) -> list[str]:
    return [name for name in _NAMES if _exists(store, name)]


def _exists(store: ObjectStore, name: str) -> bool:
    try:
        obstore.head(store, name)
    except FileNotFoundError:
        return False
    return True
