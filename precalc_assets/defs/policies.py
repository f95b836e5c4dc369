"""What applies to the whole graph: the resource that assets work with, owners, code versions, links to the code, and
how sensors show an error.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg

from precalc_assets.defs.dead_runs import process_tags
from precalc_assets.defs.recording import CODE_VERSION
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.settings import Settings
from precalc_assets.storage import absolute_url

_PACKAGE = Path(__file__).parents[1]

_Ticked = dg.SensorResult | dg.RunRequest | dg.SkipReason
_Tick = Callable[[dg.SensorEvaluationContext, Platform], _Ticked]


def clear_skips(evaluate: _Tick) -> _Tick:
    """Turn a PrecalcError into a skipped tick with its message, without a traceback."""

    def tick(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> _Ticked:
        try:
            return evaluate(context, platform)
        except PrecalcError as error:
            return dg.SkipReason(str(error))

    return tick


def platform_resource(platform: Platform) -> dg.ResourceDefinition:
    """Return the installation as a resource, whose description says where it writes. It names no secret."""
    settings = platform.settings
    facts = {
        "store": absolute_url(settings.store_url),
        "tables": settings.tables_url,
        "shards": settings.n_shards,
        "models run by": settings.model_backend,
        "compute": settings.compute,
        "most quarantined": f"{settings.max_failure_rate:.0%} of a shard",
        "longest full run": f"{settings.max_runner_hours:,g} runner-hours",
    }
    described = "\n".join(f"- {name}: `{fact}`" for name, fact in facts.items())

    @dg.resource(description=f"The installation: its settings, its stores, and the work on them.\n\n{described}")
    def installation(context: dg.InitResourceContext) -> Platform:
        # The first that a run does in its process. Before its step, it may wait long for a slot of a pool.
        if context.run and context.instance:
            context.instance.add_run_tags(context.run.run_id, process_tags(context.run.run_id))
        return platform

    return installation


def with_policies(assets: Sequence[dg.AssetsDefinition], settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets with owners, code versions, and links to their code in the repository, or else its files."""
    owned = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(owners=settings.owners, code_version=CODE_VERSION), assets
    )
    linked = dg.with_source_code_references(owned)
    if settings.github_repository:
        linked = dg.link_code_references_to_git(
            linked,
            git_url=f"https://github.com/{settings.github_repository}",
            git_branch=settings.github_ref,
            file_path_mapping=dg.AnchorBasedFilePathMapping(_PACKAGE, _PACKAGE.name),
        )
    return [each for each in linked if isinstance(each, dg.AssetsDefinition)]
