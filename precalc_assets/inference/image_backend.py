"""The image backend: runs the `run.sh` that is in a model's published image, in a new container for each call."""

import logging
import math
import re
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import Self
from uuid import uuid4

from precalc.scratch import scratch_folder
from precalc_assets.foreign_files import read_foreign
from precalc_assets.inference.containers import (
    MOUNT,
    container_variables,
    find_program,
    folder_command,
    get_commands,
    image_path,
    look_command,
    run_command,
)
from precalc_assets.inference.model_backend import call_timeout, no_answer
from precalc_assets.inference.script_call import ScriptCall, call_script
from precalc_assets.models.environment import disk_bytes
from precalc_assets.models.fetching import describe_model
from precalc_assets.models.folder import MOST_BYTES, RELEASE, ModelFolder, read_packed
from precalc_assets.platform_errors import InfrastructureError, ModelError, UsageError
from precalc_assets.processes import hold, last_line, only_holder, program_error, read_log, require_room, run_guarded
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

_GET_SECONDS = 4 * 3600.0
"""Timeout of getting an image: the hub's largest have 10 GB, and connections may be slow."""

_LOOK_SECONDS = 600.0
"""Timeout of looking into an image: a container starts in seconds."""

_NO_FRAMEWORK = 66
"""The exit code of our scripts for an image without a framework."""

_FIND = f"cd /root/bundles/*/*/model/framework && test -f run.sh || exit {_NO_FRAMEWORK}; "
"""Enters the folder that ersilia-pack puts into an image (`ersilia_model_pack --bundles_repo_path /root/bundles`)."""

_CALL = f"""{_FIND}
set -e
export HOME=/root TMPDIR=/tmp
mkdir /tmp/model
for part in "$PWD"/../*; do ln -s "$part" /tmp/model/; done
rm /tmp/model/framework
cp -r "$PWD" /tmp/model/framework
cd /tmp
exec bash /tmp/model/framework/run.sh /tmp/model/framework {MOUNT}/input.csv {MOUNT}/output.csv
"""
"""Runs a copy of the framework, since some models write into its folder, which may be read-only."""

_LOOK = f"""{_FIND}
set -e
cd ../..
basename "$PWD" > {MOUNT}/bundle
tar -cf {MOUNT}/model.tar $(ls -d information.json metadata.* model/framework/run.sh model/framework/columns \
model/framework/examples 2>/dev/null)
"""
"""Takes out what says what the model is: a few KB, without checkpoints."""


class ImageBackend:
    """Runs a model as an image: the one whose tag is the model's release."""

    def __init__(self, folder: ModelFolder, settings: Settings) -> None:
        self.columns = folder.columns
        self.release = folder.metadata.release
        self.environment = ""
        self._model = folder.model
        self._settings = settings
        # `require_allowed` has refused a model that needs the network unless the settings allow it.
        self._image = _Image(folder.model, self.release, settings, network=folder.metadata.source.lower() == "online")
        self._megabytes = folder.metadata.image_megabytes
        self._scratch: Path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._scratch = stack.enter_context(scratch_folder())
            self._image.get(self._megabytes)
            self.environment = f"image-{self._image.look(self._scratch)}"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the scratch folder. Each call has ended its own container."""
        self._stack.close()

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """See `ModelBackend.predict`."""
        timeout = call_timeout(len(smiles), deadline, self._settings)

        def run(call: ScriptCall) -> int:
            try:
                return self._image.run(_CALL, call.folder, call.log, timeout)
            except subprocess.TimeoutExpired:
                raise no_answer(timeout, deadline) from None

        return call_script(self._model, self.columns, smiles, self._scratch, run)


def fetch_image(model: str, settings: Settings) -> ModelFolder:
    """Get the image of a hub model's newest release, and return the model's folder, which is taken out of the image.

    The release is of MAJOR 2 for `eos3b5e-v2`. If the hub cannot be reached, it is the newest of this machine. Raises
    UsageError if the hub does not have the model, ModelError if its image cannot be pulled.
    """
    try:
        release, metadata = describe_model(model, settings)
    except (UsageError, ModelError) as error:
        known = find_images(model, settings)
        if not known:
            raise
        logger.warning("%s; using %s from the cache", error, known[-1].metadata.release)
        return known[-1]
    image = _Image(model, release, settings, network=False)
    image.get(metadata.image_megabytes)
    with scratch_folder() as scratch:
        return image.extract(scratch)


def find_images(model: str, settings: Settings) -> list[ModelFolder]:
    """Return the folders that were taken out of a model's images, oldest release first; without a model, of all."""
    named = [(place.parent.name, place) for place in _places(model, settings)]
    return [read_packed(place / name, model or name, place.name) for name, place in named if (place / name).is_dir()]


def remove_images(model: str, settings: Settings) -> int:
    """Remove what the cache has of a model's images, of MAJOR 2 for `eos3b5e-v2`, and return the bytes freed."""
    freed = 0
    for place in _places(model, settings):
        freed += disk_bytes(place)
        rmtree(place)
    return freed


def _places(model: str, settings: Settings) -> list[Path]:
    """Return a model's releases in the cache, oldest first; of all models if it is empty."""
    identifier, _, major = model.partition("-v")
    places = (settings.cache_dir / "images").glob(f"{identifier or '*'}/v*")
    matches = [(match, place) for place in places if (match := re.fullmatch(RELEASE, place.name))]
    return [
        place
        for _, place in sorted((tuple(map(int, match.groups())), place) for match, place in matches)
        if not major or place.name.startswith(f"v{major}.")
    ]


class _Image:
    """One release's image. Its place in the cache has the model's folder, and the image for programs that keep none."""

    def __init__(self, model: str, release: str, settings: Settings, *, network: bool) -> None:
        if not re.fullmatch(RELEASE, release):
            raise ModelError(
                f"{model} has the release {release!r}, and images have tags such as v1.0.0; correct the model's "
                "metadata, or set PRECALC_MODEL_BACKEND=framework"
            )
        self._model = model
        self._identifier = model.partition("-v")[0]
        self._release = release
        self._network = network
        self._program = find_program(settings.container_program)
        self._reference = f"{settings.image_registry.rstrip('/')}/{self._identifier}:{release}"
        self._place = settings.cache_dir / "images" / self._identifier / release
        self._path = image_path(self._program, self._place)
        self._log = self._place / "log.txt"
        self._lock = self._place / "guard.lock"

    def get(self, megabytes: float | None) -> None:
        """Get the image from its registry, unless it is here. Raises ModelError, or InfrastructureError."""
        self._place.mkdir(parents=True, exist_ok=True)
        with only_holder(self._place / "lock", self._lock, f"gets the image {self._reference}"):
            if self._path.exists() if self._path else self._keeps():
                return
            logger.info("pulling the image %s with %s", self._reference, self._program)
            self._require_room(megabytes or 0)
            making = self._place / f"making-{self._path.name}" if self._path else self._place
            if self._path:
                _remove(making)  # a killed process left it
            for command in get_commands(self._program, self._reference, making):
                code = self._call_program(command, _GET_SECONDS)
                if code:
                    said = f"{' '.join(command[:2])}: {last_line(self._log)} (full log: {self._log})"
                    raise program_error(f"the image {self._reference} cannot be pulled: {said}", read_log(self._log))
            if self._path:
                making.rename(self._path)

    def _require_room(self, megabytes: float) -> None:
        folder, remedy = self._place, "set PRECALC_CACHE_DIR to a folder on another disk"
        if not self._path:
            code = self._call_program(folder_command(self._program), _LOOK_SECONDS)
            folder, remedy = Path(last_line(self._log)), f"remove images with `{self._program} image prune --all`"
            if code or not folder.is_dir():  # the daemon may be another machine's; getting the image says what is wrong
                return
        require_room(folder, megabytes, f"the image of {self._model}", remedy)

    def _keeps(self) -> bool:
        return self._call_program(look_command(self._program, self._reference), _LOOK_SECONDS) == 0

    def _call_program(self, command: Sequence[str], timeout: float) -> int:
        variables = container_variables(self._program)
        try:
            return run_guarded(command, env=variables, cwd=self._place, log=self._log, lock=self._lock, timeout=timeout)
        except subprocess.TimeoutExpired:
            what = f"{command[0]} {command[1]} timed out after {timeout:g} s for {self._reference}"
            raise InfrastructureError(what) from None

    def run(self, script: str, mounted: Path, log: Path, timeout: float) -> int:
        """Run a script in a new container and return its exit code. Raises subprocess.TimeoutExpired, OSError."""
        image = str(self._path or self._reference)
        name = f"precalc-{uuid4().hex}"
        command, close = run_command(self._program, image, mounted, script, name=name, network=self._network)
        variables = container_variables(self._program)
        try:
            end = hold(command, close=close, env=variables, cwd=mounted, log=log, timeout=timeout)
        except subprocess.CalledProcessError as error:
            return error.returncode
        end()
        return 0

    def look(self, scratch: Path) -> str:
        """Take the model's files out of the image into a folder, and return the name of the image's bundle."""
        log = scratch / "log.txt"
        try:
            code = self.run(_LOOK, scratch, log, _LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            raise InfrastructureError(
                f"{self._program} started no container of {self._reference} within {_LOOK_SECONDS:g} s"
            ) from None
        if code == _NO_FRAMEWORK:
            raise ModelError(
                f"the image {self._reference} lacks /root/bundles/{self._identifier}/*/model/framework/run.sh, which "
                "ersilia-pack puts there; set PRECALC_MODEL_BACKEND=ersilia for an older image, which has a server only"
            )
        if code:
            raise InfrastructureError(f"{self._program} cannot run the image {self._reference}: {last_line(log)}")
        return read_foreign(scratch / "bundle", MOST_BYTES).decode().strip()

    def extract(self, scratch: Path) -> ModelFolder:
        """Return the model's folder, which is taken out of the image once. Raises ModelError as `look` does."""
        folder = self._place / self._identifier
        if not folder.exists():
            self.look(scratch)
            making = self._place / f"making-{self._identifier}"
            _remove(making)
            try:
                with tarfile.open(scratch / "model.tar") as archive:
                    archive.extractall(making, filter="data")
            except (OSError, tarfile.TarError) as error:
                raise ModelError(f"the files of {self._model} in {self._reference} cannot be read: {error}") from None
            making.rename(folder)
        return read_packed(folder, self._model, self._release)


def _remove(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    else:
        path.unlink(missing_ok=True)
