"""Models that are run as images, by real container programs: podman with runc, and Charliecloud's ch-run."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from image_machine import BUNDLE, REGISTRY

from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.opening import find_known, list_known, open_backend, open_model, remove
from precalc_assets.platform_errors import ModelError
from precalc_assets.settings import Settings

pytestmark = pytest.mark.slow

MODEL = "eos9abc"


@pytest.fixture(params=["podman", "ch-run"])
def image(request: pytest.FixtureRequest, world, image_machine, tmp_path: Path):
    """Return a function that makes the image of the world's model, and the settings that run it."""

    def make(**model: str) -> Settings:
        # The log of calls is outside of the image.
        folder = world.write_model(**model)
        main = folder / "model" / "framework" / "code" / "main.py"
        main.write_text(main.read_text().replace(str(world.calls_log), "/dev/null"))
        image_machine.make(folder, tmp_path / "cache", "v1.0.0")
        return settings(request.param, world, tmp_path)

    return make


def settings(program: str, world, tmp_path: Path, **more: str) -> Settings:
    named = {"container_program": program, "image_registry": REGISTRY, **more}
    return Settings(models_dir=(world.models_dir,), model_backend="image", cache_dir=tmp_path / "cache", **named)


def predict(made: Settings, smiles: list[str]) -> list[bytes]:
    with open_backend(open_model(MODEL, made), made) as backend:
        return backend.predict(smiles)


def test_an_image_prints_what_its_framework_prints(image, world) -> None:
    made = image()
    molecules = ["C" * n for n in range(1, 200)]
    with world.backend() as framework:
        expected = framework.predict(molecules)
    with open_backend(open_model(MODEL, made), made) as backend:
        assert backend.predict(molecules) == expected
        assert backend.environment == f"image-{BUNDLE}"


def test_a_model_in_an_image_has_no_network(image) -> None:
    tried = "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), 5)\nexcept OSError as error:\n"
    made = image(answer=f"{tried}    return f'1.0,1,\"{{error.strerror}}\"'")
    assert predict(made, ["C"]) == [b'1.0,1,"Network is unreachable"']


def test_a_model_may_write_into_its_framework_folder(image) -> None:
    counted = "import pathlib\np = pathlib.Path(sys.argv[0]).parent / 'n'\n"
    counted += "n = int(p.read_text()) + 1 if p.exists() else 1\np.write_text(str(n))\nreturn f'1.0,{n},x'"
    made = image(answer=counted)
    with open_backend(open_model(MODEL, made), made) as backend:
        for _ in range(2):
            assert backend.predict(["C", "CC"]) == [b"1.0,1,x", b"1.0,2,x"]


def test_a_model_in_an_image_sees_none_of_our_variables(image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALC_GITHUB_TOKEN", "secret")
    made = image(answer="return f'1.0,{sum(v == \"secret\" for v in os.environ.values())},x'")
    assert predict(made, ["C"]) == [b"1.0,0,x"]


def test_a_failure_in_an_image_has_the_models_words(image) -> None:
    made = image(answer="sys.exit('cannot parse ' + smiles)")
    with pytest.raises(BatchError, match=r"run\.sh exited 1: cannot parse CC"):
        predict(made, ["CC"])


HOLDER = """
import sys
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.settings import Settings
settings = Settings.model_validate_json(sys.argv[1])
with open_backend(open_model("eos9abc", settings), settings) as backend:
    print("open", flush=True)
    backend.predict(["C"])
"""


def test_kill_leaves_no_container(image, image_machine) -> None:
    made = image(answer="import time\ntime.sleep(1000)")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, made.model_dump_json(exclude={"github_token", "github_private_key"})],
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        wait_until(lambda: image_machine.left())
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not image_machine.left())


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_image_without_a_framework_is_refused(image, world, tmp_path: Path) -> None:
    made = image(run=None)
    with pytest.raises(
        ModelError, match=r"localhost/precalc/eos9abc:v1\.0\.0 lacks /root/.* PRECALC_MODEL_BACKEND=ersilia"
    ):
        predict(made, ["C"])


def test_a_missing_image_is_an_error_with_the_programs_words(world, image_machine, tmp_path: Path) -> None:
    world.write_model(release="v9.9.9")
    made = settings("podman", world, tmp_path)
    with pytest.raises(
        ModelError, match=r"^the image localhost/precalc/eos9abc:v9\.9\.9 cannot be pulled: podman pull: .+"
    ):
        predict(made, ["C"])


def test_image_that_the_disk_has_no_room_for_is_refused(world, image_machine, tmp_path: Path) -> None:
    metadata = world.write_model(release="v9.9.9") / "metadata.yml"
    metadata.write_text(f"{metadata.read_text()}Image Size: 90000000\n")
    made = settings("podman", world, tmp_path)
    with pytest.raises(ModelError, match=r"the image of eos9abc needs 90,000,000 MB.*podman image prune --all"):
        predict(made, ["C"])


def test_model_of_the_hub_is_taken_out_of_its_image(image, world, tmp_path: Path, monkeypatch) -> None:
    made = image()
    hub = world.move_to_hub(MODEL, "v1.0.0")
    made = made.model_copy(update={"models_dir": (), "hub_url": hub})
    folder = open_model(MODEL, made)
    assert (folder.metadata.title, folder.metadata.release) == ("A model for tests", "v1.0.0")
    assert [column.name for column in folder.columns] == ["score", "atoms", "label"]
    assert not (folder.path / "model" / "framework" / "code").exists()
    assert predict(made, ["CC"]) == [b'0.6666666666666666,2,"CC"']
    # Without the hub, the image of this machine is used.
    offline = made.model_copy(update={"hub_url": "file:///nonexistent"})
    assert open_model(MODEL, offline).path == find_known(MODEL, offline).path == folder.path
    assert MODEL in list_known(offline)
    assert remove(MODEL, offline) > 0
    assert MODEL not in list_known(offline)


def test_metadata_may_be_in_the_images_information(image, world, image_machine, tmp_path: Path) -> None:
    made = image()
    folder = world.models_dir / MODEL
    metadata = yaml.safe_load((folder / "metadata.yml").read_text())
    world.move_to_hub(MODEL, "v1.0.0")
    packed = tmp_path / "packed" / MODEL
    shutil.copytree(world.root / "hub" / MODEL / "model", packed / "model")
    (packed / "information.json").write_text(json.dumps({"card": metadata}))
    image_machine.make(packed, made.cache_dir, "v1.0.0")
    made = made.model_copy(update={"models_dir": (), "hub_url": f"file://{world.root / 'hub'}"})
    assert open_model(MODEL, made).metadata.title == "A model for tests"


def test_a_command_runs_a_model_as_an_image(image, world, tmp_path: Path) -> None:
    made = image()
    world.build_library()
    done = world.precalc(
        "predict",
        MODEL,
        model_backend="image",
        container_program=made.container_program,
        image_registry=REGISTRY,
        cache_dir=str(made.cache_dir),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads(world.path(f"raw/model={MODEL}/shard=00/manifest.json").read_text())
    assert manifest["environment"] == f"image-{BUNDLE}"
