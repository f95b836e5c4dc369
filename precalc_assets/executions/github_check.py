"""Check whether executions can be launched on GitHub, without launching one."""

import base64
import secrets
from collections.abc import Callable, Iterator
from urllib.parse import quote

import yaml

from precalc_assets.executions.compute_backend import BackendError, RefusedError
from precalc_assets.executions.github import GitHubBackend
from precalc_assets.platform_errors import ExecutionError

WORKFLOW_INPUTS = ("model-id", "sample-only", "n-workers", "shards", "key")
"""The inputs that the workflow must take; see `github.workflow_inputs`."""

_UNPROCESSABLE = 422

_REMEDIES = {
    401: "the token has expired or was revoked, or the App's id and private key do not belong together: make new ones",
    403: "give the token, or the App, the permissions Actions: write and Contents: read, and accept them",
    404: "check PRECALC_GITHUB_REPOSITORY, and that the token, or the App's installation, includes the repository",
}
"""By HTTP status, what to do about GitHub's refusal."""


def check(github: GitHubBackend) -> Iterator[str]:
    """Yield a line for each check that passed; raise ExecutionError, with its remedy, for the first that fails.

    Nothing is changed. The permission to start runs is checked by asking for one at a ref that does not exist: GitHub
    refuses that with 422 if it would start a run at an existing ref, and with 403 or 404 if it would not.
    """
    checks: dict[str, Callable[[GitHubBackend], str]] = {
        "repository": _check_repository,
        "ref": _check_ref,
        "workflow": _check_workflow,
        "inputs": _check_inputs,
        "permission": _check_permission,
    }
    for name, find_out in checks.items():
        try:
            found = find_out(github)
        except ExecutionError as error:
            raise ExecutionError(f"{name}: {error}{_remedy(error)}") from error
        yield f"{name}: {found}"


def _check_repository(github: GitHubBackend) -> str:
    repository = github.read("")
    if repository.get("archived"):
        raise ExecutionError(f"{github.repository} is archived and runs nothing; unarchive it in its settings")
    return f"{repository.get('full_name')} can be read"


def _check_ref(github: GitHubBackend) -> str:
    for kind, name in {"heads": "branch", "tags": "tag"}.items():
        if github.find(f"/git/ref/{quote(f'{kind}/{github.ref}', safe='')}"):
            return f"{github.ref} is a {name}"
    raise ExecutionError(
        f"{github.ref} is no branch and no tag of {github.repository}; set PRECALC_GITHUB_REF to one, or let "
        "the token read Contents"
    )


def _check_workflow(github: GitHubBackend) -> str:
    found = github.find(f"/actions/workflows/{quote(github.workflow, safe='')}")
    if not found:
        raise ExecutionError(
            f"{github.workflow} is not on the default branch of {github.repository}, where GitHub looks for workflows; "
            "merge it, or set PRECALC_GITHUB_WORKFLOW"
        )
    if found.get("state") != "active":
        raise ExecutionError(
            f"{github.workflow} is {found.get('state')}; enable it under Actions, or by `gh workflow enable`"
        )
    return f"{github.workflow} is active"


def _check_inputs(github: GitHubBackend) -> str:
    file = github.read(f"/contents/{quote(f'.github/workflows/{github.workflow}', safe='')}", ref=github.ref)
    here = f"{github.workflow} at {github.ref}"
    try:
        workflow = yaml.safe_load(base64.b64decode(file["content"]))
        # YAML 1.1 reads the key `on` as true.
        triggers = workflow.get("on", workflow.get(True))
        declared = triggers["workflow_dispatch"]["inputs"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise ExecutionError(f"{here} has no workflow_dispatch with inputs; merge this version's file") from None
    missing = [name for name in WORKFLOW_INPUTS if name not in declared]
    if missing:
        raise ExecutionError(f"{here} has no input {', '.join(missing)}; merge this version's file")
    others = {name: about for name, about in declared.items() if name not in WORKFLOW_INPUTS and about}
    required = [name for name, about in others.items() if about.get("required") and "default" not in about]
    if required:
        raise ExecutionError(
            f"{here} requires {', '.join(required)}, which precalc does not give; merge this version's file"
        )
    return f"{here} takes {', '.join(WORKFLOW_INPUTS)}"


def _check_permission(github: GitHubBackend) -> str:
    try:
        github.dispatch({}, ref=f"precalc-check-{secrets.token_hex(8)}")
    except RefusedError as error:
        if error.status == _UNPROCESSABLE:
            return "runs may be started"
        raise
    raise ExecutionError("GitHub has started a run at a ref that does not exist; look at the repository's Actions")


def _remedy(error: ExecutionError) -> str:
    """Return what to do about an error of the backend; a failed check says so by itself."""
    if isinstance(error, RefusedError):
        return f"; {_REMEDIES.get(error.status, 'see docs/github.md')}"
    if isinstance(error, BackendError):
        return "; try again later, or check PRECALC_GITHUB_API_URL and the network"
    return ""
