"""The definitions as text: a change of the graph, of a job or of a description shows in review.

`python tests/defs/test_definitions.py` writes the text again.
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from precalc_assets.definitions import build_defs
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings

SNAPSHOT = Path(__file__).parent / "definitions.txt"


def describe() -> Iterator[str]:
    definitions = build_defs(Platform(Settings(owners="team:chemistry", github_repository="lab/precalc")))
    graph = definitions.resolve_asset_graph()
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        asset = graph.assets_def_for_key(key)
        condition = node.automation_condition
        yield f"asset {key.to_user_string()}: {node.description}"
        yield f"  group {node.group_name}, of {', '.join(sorted(node.kinds)) or '–'}, owners {', '.join(node.owners)}"
        yield f"  code version {node.code_version}, pools {', '.join(sorted(asset.computation.node_def.pools)) or '–'}"
        yield f"  after {', '.join(sorted(parent.to_user_string() for parent in node.parent_keys)) or '–'}"
        yield f"  partitions {_partitions(node.partitions_def)}, {_label(condition) if condition else 'not automated'}"
        [reference] = node.metadata["dagster/code_references"].code_references
        yield f"  code {reference.url.partition('#')[0]}"
        for check in sorted(graph.get(each).key.name for each in node.check_keys):
            spec = asset.get_spec_for_check_key(dg.AssetCheckKey(key, check))
            yield f"  check {check}, {'blocks' if spec.blocking else 'warns'}: {spec.description}"
    repository = definitions.get_repository_def()
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if job.description:
            yield f"job {job.name}: {job.description}"
            for node in job.nodes:
                for name, field in sorted(getattr(node.definition.config_schema.config_type, "fields", {}).items()):
                    needed = "needed" if field.is_required else "optional"
                    yield f"  {node.name}.{name}, {needed}: {field.description}"
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        yield f"sensor {sensor.name}, {sensor.default_status.value}: {sensor.description}"


def _partitions(partitions: dg.PartitionsDefinition | None) -> str:
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return " × ".join(dimension.name for dimension in partitions.partitions_defs)
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return "model"
    return "shard" if partitions else "–"


def _label(condition: dg.AutomationCondition) -> str:
    return condition.get_label() or condition.name or "automated"


def test_definitions_are_those_of_the_snapshot():
    assert "\n".join(describe()).splitlines() == SNAPSHOT.read_text().splitlines(), (
        f"if the change is meant: python {Path(__file__).name}"
    )


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join([*describe(), ""]))
