"""The shard of a molecule, and the names of shards. Standard library only: the Lambda imports this module."""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256

from precalc.identifiers import shard_number
from precalc_assets.platform_errors import UsageError

HASH_SPACE = 1 << 64


def key_hash(inchikey: str) -> int:
    """Return the molecule's place in the hash space, 0 ≤ h < 2^64.

    `h` is the first 8 bytes, big-endian, of SHA-256 over the InChIKey's ASCII bytes. Shards and pages are both
    ranges of it, so sorting by it sorts molecules by shard, then by page.
    """
    return int.from_bytes(key_digests([inchikey]), "big")


def key_digests(inchikeys: Iterable[str]) -> bytes:
    """Return the 8 bytes of each molecule's `key_hash`, concatenated: faster for millions of molecules."""
    return b"".join([sha256(inchikey.encode("ascii")).digest()[:8] for inchikey in inchikeys])


def shard_index(h: int, n_shards: int) -> int:
    """Return `(h * n_shards) >> 64`, 0 ≤ index < n_shards: every molecule is in exactly one shard.

    The shard depends only on the molecule, not on its place in a file, so a new version of the library moves no
    molecule. A shard may be empty.
    """
    return (h * n_shards) >> 64


def shard_key(index: int, n_shards: int) -> str:
    """Return the partition key of a shard: its index, padded to the digits of the last index, at least two."""
    return f"{index:0{max(2, len(str(n_shards - 1)))}d}"


def shard_keys(n_shards: int) -> list[str]:
    """Return all partition keys in order, `00` to `49` for 50 shards."""
    return [shard_key(i, n_shards) for i in range(n_shards)]


def shard_of(inchikey: str, n_shards: int) -> str:
    """Return the partition key of the shard that a molecule belongs to."""
    return shard_key(shard_number(inchikey, n_shards), n_shards)


def parse_shards(text: str | None, n_shards: int) -> list[str]:
    """Parse shards such as `07`, `00-49` or `07,08,20-29`; None means all. Return them sorted, without duplicates.

    Raises UsageError for a shard that does not exist, and for a range that runs backwards.
    """
    if text is None:
        return shard_keys(n_shards)
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        if match is None:
            raise UsageError(f"shards {text!r}: {part!r} is neither a shard (07) nor a range (00-49)")
        first = int(match[1])
        last = int(match[2] or match[1])
        if last < first:
            raise UsageError(f"shards {text!r}: the range {part.strip()!r} runs backwards")
        if last >= n_shards:
            ends = f"{shard_key(0, n_shards)} to {shard_key(n_shards - 1, n_shards)}"
            raise UsageError(f"shards {text!r}: there is no shard {last}; shards run from {ends}")
        chosen.update(range(first, last + 1))
    return [shard_key(i, n_shards) for i in sorted(chosen)]


def format_shards(shards: Iterable[str]) -> str:
    """Return shards in the notation of `parse_shards`, such as `00-03,07`."""
    ranges = contiguous_ranges(sorted(shards))
    return ",".join(part[0] if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in ranges)


def contiguous_ranges(shards: Sequence[str]) -> list[list[str]]:
    """Split sorted shards into contiguous ranges, since a Dagster run takes one such range of partitions."""
    ranges: list[list[str]] = []
    for shard in shards:
        if ranges and int(shard) == int(ranges[-1][-1]) + 1:
            ranges[-1].append(shard)
        else:
            ranges.append([shard])
    return ranges
