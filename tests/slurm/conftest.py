"""The cluster and the site of the tests in this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest
from slurm_cluster import SlurmCluster, running_cluster
from slurm_site import MODEL, Site

from precalc_assets.inference.canary import run_canary
from precalc_assets.settings import Settings
from precalc_assets.storage import canary_report


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with running_cluster(more="SlurmdTimeout=5") as running:
        yield running


@pytest.fixture(scope="module")
def passed_canary(make_world: Callable) -> bytes:
    """The report of a canary that has passed, so that executions need not run one."""
    world = make_world("canary")
    world.write_model()
    settings = Settings(_env_file=None, models_dir=str(world.models_dir), cache_dir=world.cache_dir, n_shards=4)
    run_canary(world.store, world.build_library(), MODEL, 60, settings=settings)
    return bytes(obstore.get(world.store, canary_report(MODEL)).bytes())


@pytest.fixture
def site(world, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with a library of four shards and a quick model, which has passed no canary."""
    made = Site(world, cluster, monkeypatch)
    world.write_model()
    world.build_library()
    yield made
    cluster.cancel_all()


@pytest.fixture
def tried_site(site: Site, passed_canary: bytes) -> Site:
    """The site with a model that has passed its canary."""
    obstore.put(site.world.store, canary_report(MODEL), passed_canary)
    return site


@pytest.fixture
def go_on(tried_site: Site) -> Path:
    """A file for which the model waits at each molecule."""
    file = tried_site.world.root / "go-on"
    wait = f"while not os.path.exists({str(file)!r}):\n    time.sleep(0.1)\n"
    tried_site.world.write_model(answer=f"{wait}return f'{{len(smiles) / 3!r}},{{len(smiles)}},x'")
    return file
