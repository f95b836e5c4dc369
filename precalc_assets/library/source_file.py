"""Where the library file is: the one inside the rdkit wheel, and the one in the store. What is in it: see `reading`."""

from pathlib import Path

import obstore
from obstore.store import ObjectStore

from precalc.molecule_files import SUFFIXES, suffix_of
from precalc_assets.library.library_manifest import find_library
from precalc_assets.platform_errors import LibraryError

_NAMES = tuple(f"reference_library{suffix}" for suffix in SUFFIXES)

_CHUNK = 8 << 20


def demo_library() -> Path:
    """Return the file of 4,999 molecules of the NCI that comes with RDKit, invalid ones and duplicates among them."""
    from rdkit import RDConfig  # as in `molecules`: RDKit is loaded where it is needed

    return Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def put_source(store: ObjectStore, path: Path) -> str:
    """Copy a library file into the store as `reference_library` with its suffix; return that name.

    A file of another suffix that was there is deleted afterwards. Nothing is checked: build the library from `path`
    first, so that a file which cannot be built never takes the place of one that can.
    Raises LibraryError for a suffix that is none of the library's.
    """
    name = f"reference_library{suffix_of(path)}"
    obstore.put(store, name, path)
    for other in _present(store):
        if other != name:
            obstore.delete(store, other)
    return name


def ensure_source(store: ObjectStore) -> None:
    """Put the demo library into an empty store, so that a fresh machine has something to build.

    Raises LibraryError if there is a library already, but not the file that it was built from.
    """
    if _present(store):
        return
    if find_library(store):
        raise LibraryError(f"the file of the library in {store} is gone; name it: `precalc library build PATH`")
    put_source(store, demo_library())


def fetch_source(store: ObjectStore, folder: Path) -> Path:
    """Download the store's library file into a folder; return its path.

    Raises LibraryError if the store has none, or more than one.
    """
    names = _present(store)
    if not names:
        raise LibraryError(f"no {' or '.join(_NAMES)} in {store}; name a file: `precalc library build PATH`")
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
