"""Missing checkpoints: Git LFS pointers, and checkpoints that eosvc did not download."""

from pathlib import Path

import pytest

from precalc_assets.models.checkpoints import find_pointers, require_checkpoints
from precalc_assets.platform_errors import ModelError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n".format("a" * 64, 12_345)
ACCESS = '{"checkpoints": "public", "fit": "public"}'


@pytest.fixture
def folder(world) -> Path:
    return world.write_model()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", ["model/checkpoints/deep/x.pt", "model/framework/data/x.csv"])
def test_git_lfs_pointer_under_model_is_named(folder: Path, name: str) -> None:
    write(folder / name, POINTER)
    with pytest.raises(ModelError, match=rf"^{name} is a Git LFS pointer: install git-lfs .* `git lfs pull`"):
        require_checkpoints("eos9abc", folder)
    write(folder / "model" / "checkpoints" / "other", POINTER)
    with pytest.raises(ModelError, match=r"and 1 other files are, too: .*`precalc models fetch eos9abc`"):
        require_checkpoints("eos9abc", folder)
    assert find_pointers(folder)[folder / name] == 12_345


@pytest.mark.parametrize("text", ["", "version 1", POINTER[:-1], POINTER + "x" * 1024, "# " + POINTER])
def test_file_that_is_no_pointer_is_content(folder: Path, text: str) -> None:
    write(folder / "model/checkpoints/x.txt", text)
    require_checkpoints("eos9abc", folder)


@pytest.mark.parametrize("placeholder", ["README.md", ".gitkeep"])
def test_weights_that_eosvc_never_brought_are_missing(folder: Path, placeholder: str) -> None:
    write(folder / "access.json", ACCESS)
    write(folder / "model" / "checkpoints" / placeholder, "")
    require_checkpoints("eos9abc", folder)  # eos3b5e, for example, needs none
    write(folder / "model/framework/code/load.py", "PATH = '../../checkpoints'")
    with pytest.raises(ModelError, match=r"^model/checkpoints of eos9abc is empty, .*`eosvc download --path"):
        require_checkpoints("eos9abc", folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model/checkpoints/weights.pt", "content"),
        (".eosvc/access.lock.json", "{}"),  # eosvc ran and found none
        ("access.json", '{"data": "public"}'),
        ("model/framework/code/load.py", "PATH = '../../data'"),
    ],
)
def test_weights_that_nothing_needs_are_not_missing(folder: Path, name: str, text: str) -> None:
    write(folder / "access.json", ACCESS)
    write(folder / "model/framework/code/load.py", "PATH = '../../checkpoints'")
    write(folder / name, text)
    require_checkpoints("eos9abc", folder)


def test_damaged_access_file_is_named(folder: Path) -> None:
    write(folder / "access.json", "{")
    with pytest.raises(ModelError, match=r"access\.json cannot be read"):
        require_checkpoints("eos9abc", folder)
