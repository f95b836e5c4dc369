"""What the benchmarks' commands share: sizes, the file of molecules, and the exit code.

With BENCH_SIZE=tiny in the environment, each benchmark does only enough to show that it runs, and misses no target.
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
    """Return the CSV of molecules with a header from the command line, or the default one."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT
    if not source.exists():
        raise SystemExit(f"{source}: there is no such file; name a CSV of molecules")
    return source.resolve()


def end(missed: Sequence[str]) -> None:
    """Print the missed targets, and exit with 1 if there are any."""
    for line in missed:
        print(f"MISSED: {line}")
    sys.exit(bool(missed) and not _TINY)
