"""`precalc download`: a model's Parquet files, from the store or from an API."""

import sys
from contextlib import ExitStack
from pathlib import Path

from precalc_assets.client.downloading import OnBytes
from precalc_assets.client.downloading import download as work
from precalc_assets.client.opening import open_source
from precalc_assets.errors import UsageError

_KB = 1_000


def download(model: str, folder: Path, api: str | None) -> None:
    """Download a model's files into a folder, with a bar, and say what they are and how to read them."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with -o")
    source = open_source(api)
    with ExitStack() as stack:
        stack.callback(source.close)

        def begin(total: int) -> OnBytes:
            from precalc_assets.cli.progress import progress

            advance = stack.enter_context(progress(f"download {model}", total // _KB, "kB"))
            rest = 0

            def on_bytes(size: int) -> None:
                nonlocal rest
                rest += size
                advance(rest // _KB, 0)
                rest %= _KB

            return on_bytes

        found = work(source, model, folder, begin=begin)
    releases = " and ".join(found.listing.releases) or "no release"
    print(
        f"{folder}: {len(found.files):,} files, {sum(file.bytes for file in found.files):,} bytes, "
        f"{sum(file.rows for file in found.files):,} molecules of {model} {releases}, "
        f"library {found.listing.library_digest or 'incomplete'}",
        file=sys.stderr,
    )
