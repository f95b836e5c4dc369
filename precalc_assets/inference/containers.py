"""Container programs: the commands by which each gets an image and runs a script in it. Nothing is run here.

docker and podman keep images themselves. apptainer and Charliecloud's ch-run read a file or a folder, which is made
once and may be on a file system that all nodes of a cluster share.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from precalc_assets.platform_errors import InfrastructureError

Program = Literal["docker", "podman", "apptainer", "ch-run"]
PROGRAMS: tuple[Program, ...] = get_args(Program)
"""In the order in which they are looked for."""

MOUNT = "/mnt"
"""Where a container sees the mounted folder: images have this folder, which ch-run needs."""

_KEEPERS = {"docker": "{{.DockerRootDir}}", "podman": "{{.Store.GraphRoot}}"}
"""Programs that keep images themselves, and where their `info` says in which folder."""


def find_program(named: str) -> Program:
    """Return the named program, or the first one on the PATH. Raises InfrastructureError if it is not there."""
    found = next((name for name in PROGRAMS if name == (named or name) and shutil.which(name)), None)
    if found is None:
        raise InfrastructureError(
            f"{named or 'none of ' + ', '.join(PROGRAMS)} is on the PATH, and models run as images need it: install "
            "one, or set PRECALC_MODEL_BACKEND=framework"
        )
    return found


def container_variables(program: Program) -> Mapping[str, str]:
    """Return the variables of a container program: ours, as it may need a login. No container gets them."""
    return os.environ if program in _KEEPERS else {"USER": "precalc", **os.environ}


def image_path(program: Program, folder: Path) -> Path | None:
    """Return the file or folder of an image in this folder; None for a program that keeps images itself."""
    return {"apptainer": folder / "image.sif", "ch-run": folder / "image"}.get(program)


def look_command(program: Program, reference: str) -> list[str]:
    """Return the command that exits 0 if a program that keeps images itself has this one."""
    return [program, "image", "inspect", "--format", "{{.Id}}", reference]


def folder_command(program: Program) -> list[str]:
    """Return the command by which a program that keeps images itself prints their folder."""
    return [program, "info", "--format", _KEEPERS[program]]


def get_commands(program: Program, reference: str, target: Path) -> list[list[str]]:
    """Return the commands that get an image from its registry; `target` is the file or folder to make."""
    match program:
        case "apptainer":
            return [["apptainer", "pull", str(target), f"docker://{reference}"]]
        case "ch-run":
            convert = ["ch-convert", "-i", "ch-image", "-o", "dir", reference, str(target)]
            return [["ch-image", "pull", reference], convert]
        case _:
            return [[program, "pull", reference]]


def run_command(
    program: Program, image: str, mounted: Path, script: str, *, name: str, network: bool
) -> tuple[list[str], list[str]]:
    """Return the command that runs a shell script in a new container, and the one that ends what is left of it.

    `image` is a reference, or the path of the file or folder. The container sees `mounted` as MOUNT, none of our
    variables, and no network unless it is allowed. What it writes elsewhere is gone afterwards, or refused by ch-run.
    """
    bind = f"{mounted}:{MOUNT}"
    match program:
        case "apptainer":
            alone = [] if network else ["--net", "--network", "none"]
            options = ["--containall", "--cleanenv", "--no-home", "--writable-tmpfs", *alone, "--bind", bind]
            return ["apptainer", "exec", *options, image, "sh", "-c", script], ["true"]
        case "ch-run":
            # ch-run has no option for the network. The image's variables are in a file, if ch-image has made it.
            alone = [] if network else ["unshare", "--map-root-user", "--net", "--"]
            has_variables = (Path(image) / "ch" / "environment").is_file()
            options = ["--unset-env=*", *(["--set-env"] if has_variables else []), "--private-tmp", f"--bind={bind}"]
            return [*alone, "ch-run", *options, image, "--", "sh", "-c", script], ["true"]
        case _:
            alone = [] if network else ["--network", "none"]
            options = ["--rm", "--stop-timeout", "0", "--name", name, *alone, "--volume", bind, "--entrypoint", "sh"]
            return [program, "run", *options, image, "-c", script], [program, "rm", "--force", name]
