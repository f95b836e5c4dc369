"""A model that runs as an image inside SLURM tasks prints what its framework prints."""

import gzip
from collections.abc import Callable

import obstore
import pytest
from image_machine import REGISTRY, ImageMachine
from slurm_site import MODEL, SHARDS, Site

from precalc_assets.predictions.shard_manifest import require_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def printed(world) -> list[bytes]:
    """Return the rows of all shards as the model printed them. Each names its molecule."""
    names = [name for name in world.objects(f"raw/model={MODEL}") if name.endswith(".csv.gz")]
    parts = [gzip.decompress(obstore.get(world.store, name).bytes()) for name in names]
    return sorted({row for part in parts for row in part.splitlines()})


@pytest.mark.parametrize("program", ["podman", "ch-run"])
def test_a_task_runs_an_image_as_its_framework_runs(
    program: str, site: Site, image_machine: ImageMachine, make_world: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make_world("framework")
    folder = here.write_model()
    here.build_library()
    here.predict()
    main = folder / "model" / "framework" / "code" / "main.py"
    main.write_text(main.read_text().replace(str(here.calls_log), "/dev/null"))
    cache = site.world.root / "images"
    image_machine.make(folder, cache, "v1.0.0")
    image = {"MODEL_BACKEND": "image", "CONTAINER_PROGRAM": program, "IMAGE_REGISTRY": REGISTRY, "CACHE_DIR": cache}
    for name, value in image.items():
        monkeypatch.setenv(f"PRECALC_{name}", str(value))

    outcomes = site.follow()

    assert all(outcomes[shard].landed for shard in SHARDS), site.said
    assert require_manifest(site.world.store, MODEL, "00").environment.startswith("image-")
    assert printed(site.world) == printed(here)
    assert len(printed(here)) > 50
