"""`precalc executions …`: checks the setup of a compute backend, and cancels executions."""

from enum import Enum
from typing import Annotated

import typer

from precalc.cli.terminal import show
from precalc_assets.executions.following import cancel as cancel_executions
from precalc_assets.executions.github import open_github
from precalc_assets.executions.github_check import check as check_setup
from precalc_assets.executions.records import Execution
from precalc_assets.executions.slurm import open_slurm
from precalc_assets.platform import open_platform
from precalc_assets.platform_errors import ExecutionError
from precalc_assets.settings import load_settings

app = typer.Typer()


class Backend(Enum):
    """Where executions can run."""

    github = "github"
    slurm = "slurm"


@app.command()
def check(backend: Annotated[Backend, typer.Argument(help="The compute backend.")]) -> None:
    """Check settings, permissions and what is installed, without launching anything."""
    settings = load_settings()
    if backend is Backend.slurm:
        checks = open_slurm(settings, open_platform().store).check()
    else:
        checks = check_setup(open_github(settings))
    for passed in checks:
        show(passed)
    show(f"ready; set PRECALC_COMPUTE={backend.value} for Dagster to launch executions there")


@app.command()
def cancel(key: Annotated[str, typer.Argument(help="The execution's key, e.g. eos3b5e-0007.")]) -> None:
    """Cancel an execution's run; its shards are not retried."""
    platform = open_platform()
    execution = Execution(platform.store, key)
    if execution.intent and (settled := execution.settled.read()):
        raise ExecutionError(f"{key} is over ({settled.conclusion}): there is nothing to cancel")
    cancel_executions(platform.engine(print), [execution])
    settled = execution.settled.read()
    if settled:
        show(f"{key}: {settled.conclusion}; {len(settled.landed)} shards have landed and stay")
