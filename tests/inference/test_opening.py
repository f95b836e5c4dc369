"""Opening a model's folder and backend by its id and the settings."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from precalc_assets.inference.ersilia import ersilia_backend as ersilia
from precalc_assets.inference.ersilia.ersilia_backend import ErsiliaBackend
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.opening import find_known, list_known, open_backend, open_model
from precalc_assets.platform_errors import ModelError, UsageError
from precalc_assets.settings import Settings


@pytest.fixture
def settings(world, tmp_path: Path):
    """Return settings of this world, for one of the backends."""

    def make(backend: str) -> Settings:
        return Settings(models_dir=(world.models_dir,), model_backend=backend, cache_dir=tmp_path / "cache")

    return make


@pytest.mark.parametrize(("backend", "kind"), [("framework", FrameworkBackend), ("ersilia", ErsiliaBackend)])
def test_settings_choose_the_backend_of_a_local_model(world, settings, backend: str, kind: type) -> None:
    world.write_model()
    folder = open_model("eos9abc", settings(backend))
    assert folder.path == world.models_dir / "eos9abc"
    assert isinstance(open_backend(folder, settings(backend)), kind)


@pytest.mark.parametrize(
    ("model", "backend", "words"),
    [
        (
            "eos3b5e",
            "framework",
            r"no model 'eos3b5e' here \(known: .*eos0aaa.* there is no repository file:.*PRECALC_MODELS_DIR",
        ),
        ("eos0zzz", "ersilia", r"no model 'eos0zzz' \(known: .*PRECALC_MODELS_DIR"),
        ("../etc", "ersilia", "is not a model id"),
        ("eos3b5", "ersilia", "is not a model id"),
    ],
)
def test_an_unknown_model_is_a_usage_error(settings, model: str, backend: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        open_model(model, settings(backend))
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_an_error_before_any_install(world, settings) -> None:
    pointer = world.write_model() / "model" / "checkpoints" / "x.pt"
    pointer.parent.mkdir()
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ModelError, match=r"^model/checkpoints/x\.pt is a Git LFS pointer"):
        open_backend(open_model("eos9abc", settings("framework")), settings("framework"))


@pytest.mark.parametrize("backend", ["framework", "ersilia"])
def test_model_of_the_hub_is_opened_from_its_repository(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    world.write_model(model="eos3b5e")
    hub = world.move_to_hub("eos3b5e", "v1.0.1")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "docker" else which(name))
    settings = Settings(model_backend=backend, cache_dir=tmp_path / "cache", hub_url=hub)
    folder = open_model("eos3b5e-v1", settings)
    assert folder.path == tmp_path / "cache" / "models" / "eos3b5e" / "v1.0.1" / "eos3b5e"
    assert (folder.model, folder.metadata.release) == ("eos3b5e-v1", "v1.0.1")
    assert list_known(settings) == ["eos0aaa", "eos0bbb", "eos3b5e"]
    assert find_known("eos3b5e", settings).path == folder.path


class FetchedSlot:
    """Stands in for a slot whose CLI has fetched a model from the hub."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy

    def __enter__(self) -> "FetchedSlot":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fetch(self, folder: None, *, max_age: float, find_version: Callable[[], str]) -> Path:
        return self.copy

    @property
    def version(self) -> str:
        return ""


@pytest.fixture
def hub_has(world, monkeypatch: pytest.MonkeyPatch):
    """Put this model on the hub, as the CLI's copy of it."""

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: which(name) or (name == "docker" and "/usr/bin/docker") or None)

    def put(copy: Path) -> None:
        monkeypatch.setattr(ersilia, "taken_slot", lambda model, cache_dir: FetchedSlot(copy))

    return put


def test_a_hub_model_is_described_by_its_image_s_card(world, settings, hub_has, tmp_path: Path) -> None:
    copy = world.write_model(model="eos3b5e").rename(tmp_path / "eos3b5e")
    (copy / "metadata.yml").unlink()
    card = '{"card": {"Identifier": "eos3b5e", "Title": "From a card", "Release": 2.10}}'
    (copy / "information.json").write_text(card)
    hub_has(copy)
    folder = open_model("eos3b5e-v2", settings("ersilia"))
    assert folder.model == "eos3b5e-v2"
    assert (folder.metadata.title, folder.metadata.release) == ("From a card", "2.10")
    assert [column.name for column in folder.columns] == ["score", "atoms", "label"]
