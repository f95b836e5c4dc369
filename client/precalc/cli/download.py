"""`precalc download`: a model's Parquet files."""

import sys
from contextlib import ExitStack, closing
from pathlib import Path

from precalc.cli.progress_bar import progress
from precalc.downloading import OnBytes
from precalc.downloading import download as work
from precalc.errors import UsageError
from precalc.plugins import open_source
from precalc.source import cite

_KB = 1_000


def download(model: str, folder: Path, api: str | None) -> None:
    """Download a model's files into a folder, with a progress bar, and print a summary."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with -o")
    with closing(open_source(api)) as source, ExitStack() as stack:

        def begin(total: int) -> OnBytes:
            advance = stack.enter_context(progress(f"download {model}", total // _KB, "kB"))
            rest = 0

            def on_bytes(size: int) -> None:
                nonlocal rest
                rest += size
                advance(rest // _KB, 0)
                rest %= _KB

            return on_bytes

        found = work(source, model, folder, begin=begin)
    print(
        f"{folder}: {len(found.files):,} files, {sum(file.bytes for file in found.files):,} bytes, "
        f"{sum(file.rows for file in found.files):,} molecules "
        f"of {cite(model, found.releases, found.library_digest)}",
        file=sys.stderr,
    )
