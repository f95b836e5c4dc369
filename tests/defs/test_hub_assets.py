"""The asset `hub_models`, and the sensor that notices what is new in the hub."""

from collections.abc import Iterator

import dagster as dg
import pytest
from fake_hub import hub_entry, write_registry
from graphs import Graph

from precalc_assets.models.hub_registry import stored_registry

FIRST = (
    hub_entry("eos1one", Title="A | title *of* <b>theirs</b>"),
    hub_entry("eos2two", Status="Archived"),
    hub_entry("eos3net", Source="Online"),
    "no entry",
)


class Hub:
    """A graph whose hub has these entries."""

    def __init__(self, world, instance: dg.DagsterInstance) -> None:
        self.path = world.root / "models.json"
        self.graph = Graph(world, instance, hub_registry=str(self.path))
        self.change(*FIRST)

    def change(self, *entries: object) -> None:
        write_registry(self.path, *entries)

    def materialize(self, **config: object) -> dict[str, object]:
        assert self.graph.materialize("hub_models", config={"hub_models": {"config": config}}).success
        metadata = self.graph.materializations("hub_models")[0].metadata
        return {name: entry.value for name, entry in metadata.items()}

    def tick(self) -> dg.SensorResult:
        repository = self.graph.defs.get_repository_def()
        context = dg.build_sensor_context(
            self.graph.instance, repository_def=repository, resources={"platform": self.graph.platform}
        )
        return repository.get_sensor_def("hub_changes").evaluate_tick(context)

    @property
    def models(self) -> list[str]:
        return list(self.graph.instance.get_dynamic_partitions("models"))


@pytest.fixture
def hub(world) -> Iterator[Hub]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Hub(world, instance)


def test_table_shows_each_model_and_why_some_are_not_computed(hub: Hub):
    shown = hub.materialize()
    assert (shown["dagster/row_count"], shown["computable"], shown["unreadable"]) == (3, 1, 1)
    assert shown["changes"] == "none"
    header, _, one, two, net = shown["models"].splitlines()
    assert header.startswith("| model | title | status | release |")
    assert r"A \| title \*of\* &lt;b&gt;theirs&lt;/b&gt;" in one
    assert "Archived" in two
    assert r"PRECALC\_ALLOW\_ONLINE" in net
    assert [model.identifier for model in stored_registry(hub.graph.world.store).read().models] == [
        "eos1one",
        "eos2two",
        "eos3net",
    ]


def test_partitions_are_added_only_if_asked_for(hub: Hub):
    hub.materialize()
    assert hub.models == []
    for _ in range(2):
        hub.materialize(add_models=True)
        assert hub.models == ["eos1one"]


def test_table_says_what_changed_since_the_last_time(hub: Hub):
    hub.materialize()
    hub.change(*FIRST[:3], hub_entry("eos4new"))
    assert hub.materialize()["changes"] == "eos4new is new: Ready, v1.0.0"


def test_registry_that_cannot_be_read_fails_and_keeps_the_table(hub: Hub):
    hub.materialize()
    hub.path.write_text("<html>")
    assert not hub.graph.materialize("hub_models").success
    assert len(stored_registry(hub.graph.world.store).read().models) == 3


def test_sensor_is_off_until_it_is_switched_on(hub: Hub):
    sensor = hub.graph.defs.get_repository_def().get_sensor_def("hub_changes")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_first_tick_requests_the_table(hub: Hub):
    [request] = hub.tick().run_requests
    assert request.run_key == hub.tick().run_requests[0].run_key


def test_tick_without_news_says_so_and_requests_nothing(hub: Hub):
    hub.materialize()
    ticked = hub.tick()
    assert ticked.run_requests == []
    assert "no model and no release is new" in ticked.skip_message


@pytest.mark.parametrize(
    "entry", [hub_entry("eos4new"), hub_entry("eos1one", Release="v2.0.0")], ids=["model", "release"]
)
def test_tick_with_news_requests_the_table_and_no_model(hub: Hub, entry: object):
    hub.materialize()
    hub.change(entry, *FIRST[1:])
    [request] = hub.tick().run_requests
    assert not request.partition_key
    assert hub.models == []
    hub.materialize()
    assert hub.tick().run_requests == []


def test_tick_without_the_registry_skips_with_the_reason(hub: Hub):
    hub.path.unlink()
    assert "PRECALC_HUB_REGISTRY" in hub.tick().skip_message
