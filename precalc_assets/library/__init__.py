"""The reference library: from a file of molecules to shards keyed by InChIKey. `sharding` assigns the shards."""

from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import (
    LibraryManifest,
    ShardInfo,
    find_library,
    read_manifest,
    read_sample,
    read_shard,
    require_shards,
)
from precalc_assets.library.source_file import demo_library, ensure_source, fetch_source, put_source

__all__ = [
    "LibraryManifest",
    "ShardInfo",
    "build_library",
    "demo_library",
    "ensure_source",
    "fetch_source",
    "find_library",
    "put_source",
    "read_manifest",
    "read_sample",
    "read_shard",
    "require_shards",
]
