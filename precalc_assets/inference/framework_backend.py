"""The framework backend: the hub's contract for a model folder, `bash run.sh <framework dir> <in.csv> <out.csv>`."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from tempfile import gettempdir
from typing import Self

from precalc_assets.inference.model_backend import call_timeout, no_answer
from precalc_assets.inference.private_folder import PrivateFolder, private_folder
from precalc_assets.inference.script_call import ScriptCall, call_script
from precalc_assets.models.environment import model_environment
from precalc_assets.models.folder import ModelFolder
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import InfrastructureError, ModelError
from precalc_assets.processes import run_guarded
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
            raise InfrastructureError(
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

        def run(call: ScriptCall) -> int:
            framework = self._private.framework
            try:
                return run_guarded(
                    ["bash", str(framework / "run.sh"), str(framework), str(call.given), str(call.printed)],
                    env={**self._variables, "TMPDIR": str(call.folder)},
                    cwd=call.folder,
                    log=call.log,
                    lock=self._private.lock,
                    timeout=timeout,
                )
            except subprocess.TimeoutExpired:
                raise no_answer(timeout, deadline) from None

        shown = {str(self._private.model): str(self._folder.path / "model")}
        return call_script(self._folder.model, self.columns, smiles, self._private.path, run, shown)
