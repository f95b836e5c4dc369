"""Finding out whether executions could be launched, without launching one: credentials, workflow, ref, permission."""

import base64
import secrets
from collections.abc import Callable, Iterator
from urllib.parse import quote

import yaml

from precalc_assets.executions.github import GitHubClient, GitHubError, RefusedError
from precalc_assets.outcomes import Check

WORKFLOW_INPUTS = ("model-id", "sample-only", "n-workers", "shards", "key")
"""What the workflow is given; see `launch.workflow_inputs`."""

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _UNPROCESSABLE = 401, 403, 404, 422


def check(github: GitHubClient) -> Iterator[Check]:
    """Yield what was found, one thing after another, and end at the first that stands in the way of the next ones.

    Nothing is changed: whether a run may be started is found out by asking for one at a ref that does not exist, which
    GitHub refuses with 422 where it would start one, and with 403 or 404 where it would not.
    """
    checks: tuple[tuple[str, Callable[[GitHubClient], str]], ...] = (
        ("repository", _check_repository),
        ("ref", _check_ref),
        ("workflow", _check_workflow),
        ("inputs", _check_inputs),
        ("permission", _check_permission),
    )
    for name, find_out in checks:
        try:
            found = Check(name, passed=True, description=find_out(github))
        except _Wrong as wrong:
            found = Check(name, passed=False, description=str(wrong))
        except GitHubError as error:
            found = Check(name, passed=False, description=f"{error}; {_way_out(error)}")
        yield found
        if not found.passed:
            return


class _Wrong(Exception):  # noqa: N818 - a finding, not an error
    """Something that has to be put right; the message says what and how."""


def _check_repository(github: GitHubClient) -> str:
    repository = github.read("")
    if repository.get("archived"):
        raise _Wrong(f"{github.repository} is archived and runs nothing; unarchive it in its settings")
    return f"{repository.get('full_name')} can be read"


def _check_ref(github: GitHubClient) -> str:
    for kind in ("heads", "tags"):
        try:
            github.read(f"/git/ref/{quote(f'{kind}/{github.ref}', safe='')}")
        except RefusedError as error:
            if error.status != _NOT_FOUND:
                raise
        else:
            return f"{github.ref} is a {'branch' if kind == 'heads' else 'tag'}"
    raise _Wrong(
        f"{github.ref} is no branch and no tag of {github.repository}; set PRECALC_GITHUB_REF to one, or let "
        "the token read Contents"
    )


def _check_workflow(github: GitHubClient) -> str:
    try:
        state = github.read(f"/actions/workflows/{quote(github.workflow, safe='')}").get("state")
    except RefusedError as error:
        if error.status != _NOT_FOUND:
            raise
        raise _Wrong(
            f"there is no workflow {github.workflow} on the default branch of {github.repository}, where GitHub looks "
            "for it; merge it, or set PRECALC_GITHUB_WORKFLOW"
        ) from None
    if state != "active":
        raise _Wrong(f"{github.workflow} is {state}; enable it under Actions, or by `gh workflow enable`")
    return f"{github.workflow} is active"


def _check_inputs(github: GitHubClient) -> str:
    path = f"/contents/{quote(f'.github/workflows/{github.workflow}', safe='')}"
    file = github.read(path, ref=github.ref)
    try:
        workflow = yaml.safe_load(base64.b64decode(file["content"]))
        # YAML 1.1 reads the key `on` as true.
        triggers = workflow.get("on", workflow.get(True))
        declared = triggers["workflow_dispatch"]["inputs"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise _Wrong(
            f"{github.workflow} at {github.ref} has no workflow_dispatch with inputs; merge this version's file"
        ) from None
    missing = [name for name in WORKFLOW_INPUTS if name not in declared]
    if missing:
        raise _Wrong(f"{github.workflow} at {github.ref} has no input {', '.join(missing)}; merge this version's file")
    required = [
        name
        for name, about in declared.items()
        if name not in WORKFLOW_INPUTS and about and about.get("required") and "default" not in about
    ]
    if required:
        raise _Wrong(f"{github.workflow} at {github.ref} requires {', '.join(required)}, which nobody gives it")
    return f"{github.workflow} at {github.ref} takes {', '.join(WORKFLOW_INPUTS)}"


def _check_permission(github: GitHubClient) -> str:
    try:
        github.dispatch({}, ref=f"precalc-check-{secrets.token_hex(8)}")
    except RefusedError as error:
        if error.status == _UNPROCESSABLE:
            return "runs may be started"
        raise
    raise _Wrong("GitHub has started a run at a ref that does not exist; see the repository's Actions")


def _way_out(error: GitHubError) -> str:
    if not isinstance(error, RefusedError):
        return "try again later, or see that PRECALC_GITHUB_API_URL is right and the network reaches it"
    if error.status == _UNAUTHORIZED:
        return "the token has expired or was revoked, or the App's id and private key are not a pair: make new ones"
    if error.status == _NOT_FOUND:
        return "see that PRECALC_GITHUB_REPOSITORY is right, and that the token, or the App's installation, includes it"
    if error.status == _FORBIDDEN:
        return "give the token, or the App, the permissions Actions: write and Contents: read, and accept them"
    return "see docs/github.md"
