"""Running third-party programs: with filtered environment variables, and so that none outlives our process."""

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
