"""What all benchmarks have in common as commands: how much they do, which molecules they read, and how they end.

With BENCH_SIZE=tiny in the environment each does as little as shows that it still runs, and a missed target is none.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_DEFAULT = Path(__file__).parents[2] / "shared" / "data" / "reference_library_10k.csv"
_TINY = os.environ.get("BENCH_SIZE") == "tiny"


def size(full: int, tiny: int) -> int:
    return tiny if _TINY else full


def molecule_file() -> Path:
    """Return the CSV of molecules with a header that the command line names, or else the default one."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT
    if not source.exists():
        raise SystemExit(f"{source}: there is no such file; name a CSV of molecules")
    return source.resolve()


def end(missed: Sequence[str]) -> None:
    """Print the targets that were missed, and exit with 1 if there are any."""
    for line in missed:
        print(f"MISSED: {line}")
    sys.exit(bool(missed) and not _TINY)
