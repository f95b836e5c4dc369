"""Runs `precalc` in processes forked from one that has imported it.

Starting Python and importing takes most of a command's second. Each fork runs the command's `main` with its own
variables, folder, streams and process group. Tests that kill a command start the real program, but for `tests/chaos`.
"""

import atexit
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
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
        "rdkit.Chem",
    ]
)


def run_command(
    arguments: Sequence[str], *, variables: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run `precalc` with these arguments and return the result as `subprocess.run` does.

    Raises subprocess.TimeoutExpired after two minutes.
    """
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        process = start_command(
            arguments, variables=variables, folder=folder, output=Path(output.name), errors=Path(errors.name)
        )
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), _SECONDS)
        texts = [stream.read().decode() for stream in (output, errors)]
        return subprocess.CompletedProcess(["precalc", *arguments], process.exitcode, *texts)


def start_command(
    arguments: Sequence[str], *, variables: Mapping[str, str], folder: Path, output: Path, errors: Path
) -> BaseProcess:
    """Start `precalc` with these arguments in a process group of its own, which writes to these two files."""
    process = _forks.Process(target=_run, args=(list(arguments), dict(variables), folder, output, errors))
    process.start()
    return process


def _run(arguments: list[str], variables: dict[str, str], folder: Path, *streams: Path) -> None:
    from precalc.cli import main

    os.setpgid(0, 0)
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
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
