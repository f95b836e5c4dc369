"""What a library with another number of shards has left in the store: predictions that no command reads any more.

They are named and not deleted. Who has changed the number by mistake has them back with the old one; and what is read
as one table, outside of our commands, is not ours to take away. Raw predictions are no leftovers: `precalc predict`
finds in them what was computed for any number of shards, and takes away none that were made for another than its own.
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
    """Return the number of shards of the library in the store; None if there is none, or a damaged one."""
    try:
        library = find_library(store)
    except LibraryError:
        return None
    return library.n_shards if library else None


def warn_of_leftovers(store: ObjectStore, n_shards: int, before: int | None) -> None:
    """Log how many files are left of a library with `before` shards, or of an earlier one, now that it has others."""
    changed = before not in (None, n_shards)
    ours = {f"shard={shard}" for shard in shard_keys(n_shards)}
    names = [name for folder in (storage.PREDICTIONS, storage.QUARANTINE) for name in storage.list_sizes(store, folder)]
    left = [name for name in names if changed or PurePosixPath(name).stem not in ours]
    if left:
        folders = f"{storage.PREDICTIONS}/ and {storage.QUARANTINE}/"
        back = f", or build the library with {before} shards again" if changed else ""
        logger.warning(
            f"{len(left)} files in {folders} are of another number of shards than {n_shards}, {left[0]} for one: "
            f"who reads all files as one table finds molecules twice; delete them{back}. Raw predictions stay, and "
            "`precalc predict` computes nothing again that is in them"
        )
