"""One call of a model's `run.sh`: molecules in one CSV file, predictions in another. Backends say how it is started."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from precalc_assets.columns import Column
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.output import read_output
from precalc_assets.processes import last_line, require_space


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """The folder of a call, with its input, and the files that `run.sh` and the programs around it write."""

    folder: Path

    @property
    def given(self) -> Path:
        """The molecules: a CSV file with the column `smiles`."""
        return self.folder / "input.csv"

    @property
    def printed(self) -> Path:
        """The predictions."""
        return self.folder / "output.csv"

    @property
    def log(self) -> Path:
        """Everything that was written to standard output and standard error."""
        return self.folder / "log.txt"


def call_script(
    model: str,
    columns: Sequence[Column],
    smiles: Sequence[str],
    parent: Path,
    run: Callable[[ScriptCall], int],
    shown: Mapping[str, str] | None = None,
) -> list[bytes]:
    """Return a record for each molecule, as `ModelBackend.predict` does.

    `run` calls `run.sh` and returns its exit code. The call's folder is in `parent`, and is removed afterwards. Raises
    BatchError with the last line of the log, in which `shown` replaces texts by others.
    """
    with TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
        call = ScriptCall(Path(folder))
        with call.given.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("smiles",), *((text,) for text in smiles)])
        code = run(call)
        if code:
            require_space(parent)
            said = last_line(call.log)
            for text, other in {folder: "…", **(shown or {})}.items():
                said = said.replace(text, other)
            raise BatchError(f"run.sh exited {code}: {said}")
        try:
            return read_output(model, call.printed, columns, smiles)
        except FileNotFoundError:
            raise BatchError("run.sh exited 0 but wrote no output file") from None
