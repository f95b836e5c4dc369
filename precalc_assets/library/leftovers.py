"""Leftover predictions of a library with another number of shards, which no command reads any more.

The log names them, and nothing deletes them: if the change was a mistake, restoring the old number restores them, and
other programs may read the folder as one table. Raw predictions are no leftovers: `precalc predict` reuses them for any
number of shards, and deletes none that were made for another number.
"""

import logging
from pathlib import PurePosixPath

from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.library.library_manifest import find_library
from precalc_assets.platform_errors import LibraryError
from precalc_assets.sharding import shard_keys

logger = logging.getLogger(__name__)


def shards_before(store: ObjectStore) -> int | None:
    """Return the number of shards of the library in the store; None if it is missing or damaged."""
    try:
        library = find_library(store)
    except LibraryError:
        return None
    return library.n_shards if library else None


def warn_of_leftovers(store: ObjectStore, n_shards: int, before: int | None) -> None:
    """Log a warning that names the files of another number of shards. The previous library had `before` shards."""
    changed = before not in (None, n_shards)
    own_shards = {f"shard={shard}" for shard in shard_keys(n_shards)}
    names = [name for folder in (storage.PREDICTIONS, storage.QUARANTINE) for name in storage.list_sizes(store, folder)]
    left = [name for name in names if changed or PurePosixPath(name).stem not in own_shards]
    if left:
        folders = f"{storage.PREDICTIONS}/ and {storage.QUARANTINE}/"
        back = f", or build the library with {before} shards again" if changed else ""
        logger.warning(
            f"{len(left)} files in {folders} are of another number of shards than {n_shards}, such as {left[0]}: "
            f"programs that read all files as one table find molecules twice; delete them{back}. Raw predictions stay, "
            "and `precalc predict` reuses them"
        )
