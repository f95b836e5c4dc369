"""The framework backend: the hub's contract for a model folder, `bash run.sh <framework dir> <in.csv> <out.csv>`."""

import csv
import math
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import TracebackType
from typing import Self

from precalc_assets.inference.model_backend import BatchError, call_timeout, no_answer
from precalc_assets.inference.output import read_output
from precalc_assets.inference.private_folder import PrivateFolder, private_folder
from precalc_assets.models import ModelFolder, model_environment
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ModelError
from precalc_assets.processes import last_line, require_space, run_guarded


class FrameworkBackend:
    """Runs `run.sh` in a private copy of a model's folder and in the model's environment, one process per call."""

    def __init__(self, folder: ModelFolder, *, cache_dir: Path, batch_size: int, batch_timeout: float) -> None:
        self.columns = folder.columns
        self.release = folder.metadata.release
        self._folder = folder
        self._cache_dir = cache_dir
        self._batch_size = batch_size
        self._batch_timeout = batch_timeout
        self.environment = ""
        self._variables: Mapping[str, str] = {}
        self._private: PrivateFolder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        script = self._folder.framework / "run.sh"
        if not script.is_file():
            raise ModelError(f"{script} is missing: a model folder needs it to run")
        environment = model_environment(self._folder, self._cache_dir)
        self.environment, self._variables = environment.name, environment.variables
        try:
            self._private = self._stack.enter_context(private_folder(self._folder, self._variables))
        except (OSError, subprocess.SubprocessError) as error:
            raise ModelError(
                f"{self._folder.model} cannot be run: its folder cannot be copied to {gettempdir()}: {reason(error)}; "
                "free some space, or set TMPDIR"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the copy. Each call has ended its own process."""
        self._stack.close()

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """See `ModelBackend.predict`."""
        timeout = call_timeout(len(smiles), deadline, batch_size=self._batch_size, batch_timeout=self._batch_timeout)
        self._private.clean()
        with TemporaryDirectory(dir=self._private.path, ignore_cleanup_errors=True) as scratch:
            given, printed = Path(scratch) / "input.csv", Path(scratch) / "output.csv"
            with given.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("smiles",), *((text,) for text in smiles)])
            try:
                self._run_script(given, printed, Path(scratch), timeout)
                return read_output(self._folder.model, printed, self.columns, smiles)
            except subprocess.TimeoutExpired:
                raise no_answer(timeout, deadline) from None
            except FileNotFoundError:
                raise BatchError("run.sh exited 0 but wrote no output file") from None

    def _run_script(self, given: Path, printed: Path, scratch: Path, timeout: float) -> None:
        log = scratch / "log.txt"
        framework = self._private.framework
        command = ["bash", str(framework / "run.sh"), str(framework), str(given), str(printed)]
        code = run_guarded(command, env=self._variables, cwd=scratch, log=log, lock=self._private.lock, timeout=timeout)
        if code:
            require_space(scratch.parent)
            said = last_line(log).replace(str(scratch), "…")
            said = said.replace(str(self._private.model), str(self._folder.path / "model"))
            raise BatchError(f"run.sh exited {code}: {said}")
