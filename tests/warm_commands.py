"""Runs `precalc` in processes forked from one that has imported it.

Starting Python and importing takes most of a command's second. Each fork runs the command's `main` with its own
variables, folder and streams. Tests that kill a command start the real program.
"""

import atexit
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path

import precalc_assets.cli

_SECONDS = 120.0

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        *(f"precalc_assets.cli.{module.name}" for module in pkgutil.iter_modules(precalc_assets.cli.__path__)),
        "precalc.cli.app",
        "precalc.cli.get",
        "precalc_assets.client.local_tables",
        "precalc_assets.definitions",
        "precalc_assets.inference",
        "pandera.polars",
        "rdkit.Chem",
    ]
)


def run_command(
    arguments: Sequence[str], *, variables: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run `precalc` with these arguments and return the result as `subprocess.run` does.

    Raises subprocess.TimeoutExpired after two minutes.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        streams = [DupFd(stream.fileno()) for stream in (output, errors)]
        process = _forks.Process(target=_run, args=(list(arguments), dict(variables), str(folder), *streams))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), _SECONDS)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode())
        return subprocess.CompletedProcess(["precalc", *arguments], process.exitcode, *texts)


def _run(arguments: list[str], variables: dict[str, str], folder: str, *streams: DupFd) -> None:
    from precalc.cli import main

    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream.detach(), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    tempfile.tempdir = None
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - the process ends with it
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = ["precalc", *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()
