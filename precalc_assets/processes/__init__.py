"""Running somebody else's programs: with variables that are theirs to see, and so that none of them outlives us."""

from precalc_assets.processes.guarded import (
    HeldServer,
    clean_variables,
    find_home,
    hold,
    last_line,
    last_lines,
    peak_memory,
    printable,
    require_space,
    run_guarded,
    wait_until_ended,
)

__all__ = [
    "HeldServer",
    "clean_variables",
    "find_home",
    "hold",
    "last_line",
    "last_lines",
    "peak_memory",
    "printable",
    "require_space",
    "run_guarded",
    "wait_until_ended",
]
