"""Installing packages from conda's channels by rattler, without conda.

`environment` runs this module as a program, `python -m precalc_assets.models.conda ARGUMENTS` (in JSON), so that its
output is logged and its timeout enforced as for any installer. Only calls of rattler belong here.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rattler import Channel, ChannelConfig, Gateway, MatchSpec, PrefixRecord, VirtualPackage, install, solve
from rattler.exceptions import (
    ExtractError,
    GatewayError,
    InstallerError,
    InvalidChannelError,
    InvalidMatchSpecError,
    LinkError,
    SolverError,
    TransactionError,
)

from precalc_assets.own_process import hide_process


async def install_packages(
    prefix: Path, specs: Sequence[str], channels: Sequence[str], *, cache_dir: Path, as_of: datetime | None
) -> None:
    """Install packages and their dependencies into a prefix, and keep its packages as far as possible.

    `specs` have conda's syntax: `openbabel=3.1.1` is any 3.1.1.*, `openbabel==3.1.1` that version. A package comes from
    the first of the `channels` that has it, as of the time `as_of`; a package without an upload time counts as older.
    As for conda, CONDA_CHANNEL_ALIAS is the base URL of channels that are not URLs.

    Raises GatewayError for a channel that cannot be read, SolverError if no packages match, and other errors of
    rattler.
    """
    alias = os.environ.get("CONDA_CHANNEL_ALIAS")
    config = ChannelConfig(alias) if alias else ChannelConfig()
    installed = [PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    records = await solve(
        [Channel(name, config) for name in channels],
        [MatchSpec(spec) for spec in specs],
        gateway=Gateway(cache_dir / "channels"),
        locked_packages=installed,
        virtual_packages=VirtualPackage.detect(),
        exclude_newer=as_of,
        timestamp_policy="allow-missing",
    )
    # Like conda, run the packages' post-link scripts.
    await install(records, prefix, cache_dir=cache_dir / "packages", show_progress=False, execute_link_scripts=True)


def main() -> str:
    """Install the packages on the command line; return the failure with the channels or packages, or nothing."""
    hide_process()
    prefix, cache_dir, as_of, channels, specs = json.loads(sys.argv[1])
    cutoff = datetime.fromisoformat(as_of) if as_of else None
    try:
        asyncio.run(install_packages(Path(prefix), specs, channels, cache_dir=Path(cache_dir), as_of=cutoff))
    except GatewayError as error:
        return f"the conda channels {', '.join(channels)} cannot be read: {error}"
    except SolverError as error:
        return f"No solution found in the conda channels {', '.join(channels)}: {error}"
    except _OTHER_ERRORS as error:
        return f"{' '.join(specs)} cannot be installed: {error}"
    return ""


_OTHER_ERRORS = (
    ExtractError, InstallerError, InvalidChannelError, InvalidMatchSpecError, LinkError, TransactionError, OSError
)  # fmt: skip

if __name__ == "__main__":
    failure = main()
    sys.stderr.write(failure)
    sys.stderr.flush()
    os._exit(1 if failure else 0)  # rattler's threads still run, and would crash Python's normal exit
