"""Images of models, as ersilia-pack lays them out, under real container programs: podman with runc, and ch-run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("podman", "runc", "ch-run", "debootstrap")
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
lock_type = "file"
tmp_dir = "{0}/tmp"
"""
"""Locks and their state are the machine's unless named here, and another podman's start would free ours."""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{0}/images"
runroot = "{0}/run"
"""
BASE = "localhost/precalc/base:1"
REGISTRY = "localhost/precalc"
BUNDLE = "20250102-5f0c"
ATTEMPTS = 3


class ImageMachine:
    """A machine with container programs, on which images of models can be made without a registry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file_system = root / "base"

    def podman(self, *arguments: str | Path) -> str:
        done = subprocess.run(["podman", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make(self, folder: Path, cache_dir: Path, tag: str) -> None:
        """Make the image of a model's folder, for podman, and in the cache as a folder for ch-run."""
        context = self.root / "context"
        shutil.rmtree(context, ignore_errors=True)
        bundle = context / "bundles" / folder.name / BUNDLE
        shutil.copytree(folder / "model", bundle / "model")
        for name in ("metadata.yml", "information.json"):
            if (folder / name).exists():
                shutil.copy(folder / name, bundle)
        (context / "Dockerfile").write_text(f"FROM {BASE}\nCOPY bundles /root/bundles\n")
        self.podman("build", "--quiet", "--tag", f"{REGISTRY}/{folder.name}:{tag}", context)
        image = cache_dir / "images" / folder.name / tag / "image"
        shutil.rmtree(image, ignore_errors=True)
        image.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--link", self.file_system, image], check=True)
        shutil.copytree(context / "bundles", image / "root" / "bundles")

    def left(self) -> str:
        """Return the containers that are left, and the processes of ch-run."""
        ours = r"^(bash|python) /tmp/model/framework"
        running = subprocess.run(["pgrep", "--full", ours], capture_output=True)
        return self.podman("ps", "--all", "--quiet") + running.stdout.decode()


@pytest.fixture(scope="session")
def image_machine() -> Iterator[ImageMachine]:
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"images are made as root, with {', '.join(NEEDED)}; missing: {', '.join(missing) or 'root'}")
    # podman takes `runroot` of at most 50 characters. With a longer one, each container takes 20 seconds to end.
    with tempfile.TemporaryDirectory(prefix="images-") as root, pytest.MonkeyPatch.context() as patch:
        machine = ImageMachine(Path(root))
        for variable, text in (("CONTAINERS_CONF", CONTAINERS), ("CONTAINERS_STORAGE_CONF", STORAGE)):
            path = machine.root / variable
            path.write_text(text.format(machine.root))
            patch.setenv(variable, str(path))
        bootstrap = ["debootstrap", "--variant=minbase", "--include=python3,python-is-python3", "bookworm"]
        for _ in range(ATTEMPTS):
            # It does not retry a download that breaks off.
            shutil.rmtree(machine.file_system, ignore_errors=True)
            made = subprocess.run([*bootstrap, machine.file_system], capture_output=True, text=True)
            if made.returncode == 0:
                break
        assert made.returncode == 0, made.stdout[-1000:]
        archive = machine.root / "base.tar"
        subprocess.run(["tar", "-C", machine.file_system, "-cf", archive, "."], check=True)
        machine.podman("import", archive, BASE)
        archive.unlink()
        yield machine
        machine.podman("rmi", "--all", "--force")
