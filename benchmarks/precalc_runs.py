"""Running `precalc` on a store of its own, and the memory of a process as its benchmark sees it from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.command import seconds
from precalc_assets.settings import load_settings

PRECALC = str(Path(sys.executable).with_name("precalc"))


def precalc(store: Path, *arguments: str, **settings: str) -> float:
    """Run the command on the store in this folder; return its wall seconds."""

    def run() -> None:
        done = subprocess.run(
            [PRECALC, *arguments],
            env=variables(store, settings),
            cwd=store.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"precalc {' '.join(arguments)} failed: {done.stderr.strip()}")

    return seconds(run)


def variables(store: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: of the caller's settings, only the models' environments."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRECALC_")}
    return {
        **kept,
        "PRECALC_STORE_URL": store.as_uri(),
        "PRECALC_TABLES_URL": f"sqlite:///{store}/tables.db",
        "PRECALC_CACHE_DIR": str(load_settings().cache_dir),
        **settings,
    }


def peak_megabytes(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *, with_children: bool = False
) -> float:
    """Run a command; return the largest resident set of its process or, `with_children`, of any process it starts.

    The kernel records the largest one; a process that lives for less than 20 ms may be overlooked.
    """
    peak = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            # A process may end before its record is read; its record is then empty or gone.
            with suppress(psutil.NoSuchProcess, OSError, IndexError):
                for member in [root, *(root.children(recursive=True) if with_children else [])]:
                    status = Path(f"/proc/{member.pid}/status").read_text()
                    peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return peak * 1024 / 1e6
