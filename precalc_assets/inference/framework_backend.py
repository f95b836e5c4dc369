"""The framework backend: the hub's contract for a model folder, `bash run.sh <framework dir> <in.csv> <out.csv>`."""

import csv
import math
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Self

from precalc_assets.inference.model_backend import BatchError, call_timeout, no_answer
from precalc_assets.inference.output import read_output
from precalc_assets.inference.private_folder import PrivateFolder, private_folder
from precalc_assets.models.environment import model_environment
from precalc_assets.models.folder import ModelFolder
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import MachineError, ModelError
from precalc_assets.processes import last_line, require_space, run_guarded
from precalc_assets.settings import Settings


class FrameworkBackend:
    """Runs `run.sh` in a private copy of a model's folder and in the model's environment, one process per call."""

    def __init__(self, folder: ModelFolder, settings: Settings) -> None:
        self.columns = folder.columns
        self.release = folder.metadata.release
        self._folder = folder
        self._settings = settings
        self.environment = ""
        self._variables: Mapping[str, str] = {}
        self._private: PrivateFolder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        script = self._folder.framework / "run.sh"
        if not script.is_file():
            raise ModelError(f"{script} is missing: a model folder needs it to run")
        environment = model_environment(self._folder, self._settings.cache_dir)
        self.environment, self._variables = environment.name, environment.variables
        try:
            self._private = self._stack.enter_context(private_folder(self._folder, self._variables))
        except (OSError, subprocess.SubprocessError) as error:
            raise MachineError(
                f"{self._folder.model} cannot be run: its folder cannot be copied to {gettempdir()}: {reason(error)}; "
                "free some space, or set TMPDIR"
            ) from error
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the copy. Each call has ended its own process."""
        self._stack.close()

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """See `ModelBackend.predict`."""
        timeout = call_timeout(len(smiles), deadline, self._settings)
        self._private.clean()
        framework = self._private.framework
        with TemporaryDirectory(dir=self._private.path, ignore_cleanup_errors=True) as scratch:
            given, printed, log = (Path(scratch) / name for name in ("input.csv", "output.csv", "log.txt"))
            with given.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("smiles",), *((text,) for text in smiles)])
            command = ["bash", str(framework / "run.sh"), str(framework), str(given), str(printed)]
            try:
                code = run_guarded(
                    command,
                    env={**self._variables, "TMPDIR": scratch},
                    cwd=Path(scratch),
                    log=log,
                    lock=self._private.lock,
                    timeout=timeout,
                )
            except subprocess.TimeoutExpired:
                raise no_answer(timeout, deadline) from None
            if code:
                require_space(self._private.path)
                said = last_line(log).replace(scratch, "…")
                said = said.replace(str(self._private.model), str(self._folder.path / "model"))
                raise BatchError(f"run.sh exited {code}: {said}")
            try:
                return read_output(self._folder.model, printed, self.columns, smiles)
            except FileNotFoundError:
                raise BatchError("run.sh exited 0 but wrote no output file") from None
