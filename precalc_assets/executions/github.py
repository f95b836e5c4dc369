"""GitHub as a compute backend: an execution is a run of a workflow on GitHub's runners.

It speaks GitHub's REST API, version 2026-03-10, through githubkit. Only the fields in use are read of an answer: a
dispatch has started a run, whatever the other fields of its answer are.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import quote

import githubkit
import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from githubkit.exception import GitHubException, RateLimitExceeded, RequestError, RequestFailed
from pydantic import ValidationError

from precalc_assets.executions.compute_backend import (
    BackendError,
    LimitError,
    NotNowError,
    RefusedError,
    RunStatus,
    UnansweredError,
    tail,
)
from precalc_assets.executions.records import Intent, Job, Run
from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import Settings
from precalc_assets.sharding import format_shards, parse_shards

_VERSION = {"X-GitHub-Api-Version": "2026-03-10"}
"""The first version whose dispatch answers with the run's id."""

_TIMEOUT = 12.0
"""Seconds for an answer. GitHub itself ends what it cannot answer in 10 ("Troubleshooting the REST API: Timeouts")."""

_READ_PAUSES = (1.0, 4.0)
"""Seconds before a failed read is retried. After that, the caller's next look retries it."""

_PER_PAGE = 100
"""The longest page of a list that GitHub gives."""

_MOST_PAGES = 20
"""2,000 runs since an execution was opened, or jobs of a run, which has 256 at most in a matrix."""

_REACH_WAIT = timedelta(seconds=30)
"""Pause before the next request after one that did not reach GitHub."""

_LIMIT_WAIT = timedelta(seconds=60)
"""GitHub's documentation: wait for at least a minute after a secondary limit that does not say how long."""

_LIMIT_WORDS = ("rate limit", "abuse detection")
"""GitHub also sends secondary limits as a 403 without any header: then its message tells."""

_TOKEN_PATH = "/access_tokens"  # noqa: S105 - where an App gets its tokens

_CLOCKS = timedelta(minutes=10)
"""Largest difference between GitHub's clock and ours. An older run is of another store's execution of the same key."""

_JOB_SHARDS = re.compile(r"predict\b.*?(?P<shards>[0-9][0-9,-]*)\)?", re.IGNORECASE)
"""How the workflow names the jobs that predict: `Predict 00-06,08`."""


Auth = githubkit.TokenAuthStrategy | githubkit.AppInstallationAuthStrategy


def open_github(settings: Settings, *, read_pauses: tuple[float, ...] = _READ_PAUSES) -> "GitHubBackend":
    """Return the backend for the settings' repository. Raises UsageError, naming the missing or wrong setting."""
    if not settings.github_repository:
        raise UsageError("PRECALC_GITHUB_REPOSITORY is not set; write owner/name of the repository with the workflow")
    return GitHubBackend(settings, _authenticate(settings), read_pauses)


def workflow_inputs(intent: Intent, machines: int) -> dict[str, str]:
    """Return the inputs of the workflow's dispatch, without those that are empty."""
    inputs = {
        "model-id": intent.model,
        "sample-only": str(intent.sample or ""),
        "n-workers": str(machines),
        "shards": format_shards(intent.shards),
        "key": intent.key,
    }
    return {name: value for name, value in inputs.items() if value}


def computed_shards(job: str, n_shards: int) -> tuple[str, ...]:
    """Return the shards that a job computes, by its name; none if the job does something else."""
    found = _JOB_SHARDS.fullmatch(job)
    try:
        return tuple(parse_shards(found["shards"], n_shards)) if found else ()
    except UsageError:
        return ()


class GitHubBackend:
    """GitHub's runners: an execution is a run of the repository's workflow. Implements `ComputeBackend`."""

    def __init__(self, settings: Settings, auth: Auth, read_pauses: tuple[float, ...]) -> None:
        self.repository = settings.github_repository
        self.workflow = settings.github_workflow
        self.ref = settings.github_ref
        self._settings = settings
        self._read_pauses = read_pauses
        self._workflow_path = f"/actions/workflows/{quote(self.workflow, safe='')}"
        self._github = githubkit.GitHub(
            auth,
            base_url=settings.github_api_url,
            timeout=_TIMEOUT,
            http_cache=False,
            # Its default would send a dispatch again after a 502, and sleep until a rate limit is over.
            auto_retry=False,
        )

    def launch(self, intent: Intent) -> Run:
        """Dispatch the workflow; see `ComputeBackend`."""
        return self.dispatch(workflow_inputs(intent, self._settings.machines))

    def look_up(self, intent: Intent) -> Run | None:
        """Return the first run whose run-name holds the key in brackets; see `ComputeBackend`."""
        mine = [status.run for title, status in self._list_runs(intent) if f"[{intent.key}]" in title]
        return min(mine, key=lambda run: run.run_id, default=None)

    def status(self, intent: Intent, run: Run) -> RunStatus | None:
        """See `ComputeBackend`."""
        path = f"/actions/runs/{run.run_id}"
        found = self.find(path)
        # GitHub also answers 404 for all that a token may not see. A token that may list runs may see this one.
        listed = (status for _, status in self._list_runs(intent) if status.run.run_id == run.run_id)
        status = _run_status(found) if found else next(listed, None)
        if status is None:
            return None
        jobs = [_job(job, self._settings.n_shards) for job in self._list(f"{path}/jobs", "jobs")]
        return status.model_copy(update={"jobs": tuple(jobs)})

    def read_log(self, intent: Intent, job: Job) -> str:  # noqa: ARG002 - the protocol's signature
        """See `ComputeBackend`. A job's id is the end of its URL."""
        response = self._send("GET", f"/actions/jobs/{job.url.rpartition('/')[2]}/logs")
        return tail(response.text)

    def cancel(self, intent: Intent, run: Run, *, force: bool = False) -> None:  # noqa: ARG002 - the protocol's signature
        """See `ComputeBackend`."""
        try:
            self._ask("POST", f"/actions/runs/{run.run_id}/{'force-cancel' if force else 'cancel'}")
        except RefusedError as error:
            if error.status != httpx.codes.CONFLICT:  # GitHub's answer if the run has ended
                raise

    def dispatch(self, inputs: Mapping[str, str], *, ref: str | None = None) -> Run:
        """Start a run of the workflow at a branch or tag (default: the setting)."""
        body = {"ref": ref or self.ref, "inputs": dict(inputs)}
        answer = self._ask("POST", f"{self._workflow_path}/dispatches", json=body)
        with _reading("a dispatch"):
            return Run(run_id=answer["workflow_run_id"], url=answer["html_url"])

    def read(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON at a path below the repository's URL. Retries after pauses if server or network failed."""
        for pause in self._read_pauses:
            try:
                return self._ask("GET", path, params=parameters)
            except LimitError:
                raise
            except (NotNowError, UnansweredError):
                time.sleep(pause)
        return self._ask("GET", path, params=parameters)

    def find(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON at a path like `read`, or None if GitHub answers 404."""
        try:
            return self.read(path)
        except RefusedError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return None

    def _list_runs(self, intent: Intent) -> Iterator[tuple[str, RunStatus]]:
        """Yield the workflow's runs that can be an execution's, newest first, each with its run-name.

        Not filtered by GitHub: it answers filters from an index that lags more.
        """
        for run in self._list(f"{self._workflow_path}/runs", "workflow_runs"):
            with _reading("a run"):
                title, status = run["display_title"], _run_status(run)
            if status.created_at < intent.created_at - _CLOCKS:
                return
            yield title, status

    def _list(self, path: str, name: str) -> Iterator[Any]:
        for number in range(1, _MOST_PAGES + 1):
            answer = self.read(path, per_page=str(_PER_PAGE), page=str(number))
            with _reading("a list"):
                page = answer[name]
            yield from page
            if len(page) < _PER_PAGE:
                return

    def _ask(
        self, method: Literal["GET", "POST"], path: str, *, params: dict[str, str] | None = None, json: object = None
    ) -> Any:  # noqa: ANN401 - JSON
        response = self._send(method, path, params=params, json=json)
        try:
            return response.json() if response.raw_response.content else None
        except ValueError as error:
            raise UnansweredError(f"GitHub's answer to {method} {path} is not JSON: {error}") from error

    def _send(
        self, method: str, path: str, *, params: dict[str, str] | None = None, json: object = None
    ) -> githubkit.Response[Any]:
        path = f"/repos/{self.repository}{path}"
        try:
            return self._github.request(method, path, params=params, json=json, headers=_VERSION)
        except GitHubException as error:
            raise _explain(error, f"{method} {path}") from error


def _authenticate(settings: Settings) -> Auth:
    key = settings.github_private_key.get_secret_value().replace("\\n", "\n")
    app = {
        "PRECALC_GITHUB_APP_ID": settings.github_app_id,
        "PRECALC_GITHUB_PRIVATE_KEY": key,
        "PRECALC_GITHUB_INSTALLATION": settings.github_installation,
    }
    token = settings.github_token.get_secret_value()
    missing = [name for name, value in app.items() if not value]
    if token and len(missing) < len(app):
        raise UsageError("PRECALC_GITHUB_TOKEN is set, and so are an App's settings; unset the one or the other")
    if token:
        return githubkit.TokenAuthStrategy(token)
    if len(missing) == len(app):
        raise UsageError(f"set PRECALC_GITHUB_TOKEN or, for an App, {', '.join(app)}")
    if missing:
        raise UsageError(f"also set {' and '.join(missing)} for the GitHub App")
    try:
        load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError("PRECALC_GITHUB_PRIVATE_KEY is not a private key in PEM without a password") from None
    return githubkit.AppInstallationAuthStrategy(settings.github_app_id, key, settings.github_installation)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValidationError) as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UnansweredError(f"GitHub's answer about {what} cannot be read: {said}") from error


def _run_status(answer: Any) -> RunStatus:  # noqa: ANN401 - JSON
    with _reading("a run"):
        run = Run(run_id=answer["id"], url=answer["html_url"])
        ended = answer["status"] == "completed"
        conclusion = (answer["conclusion"] or "unknown") if ended else None
        return RunStatus(run=run, conclusion=conclusion, created_at=answer["created_at"])


def _job(answer: Any, n_shards: int) -> Job:  # noqa: ANN401 - JSON
    with _reading("a job"):
        # A queued job has a `started_at`, too: the time at which it was queued.
        has_begun = answer["status"] in ("in_progress", "completed") and answer["conclusion"] != "skipped"
        return Job(
            name=answer["name"],
            url=answer["html_url"] or "",
            status=answer["conclusion"] or answer["status"],
            shards=computed_shards(answer["name"], n_shards),
            queued_at=answer["created_at"],
            started_at=answer["started_at"] if has_begun else None,
            ended_at=answer["completed_at"],
        )


def _request_of(error: GitHubException) -> httpx.Request | None:
    """Return the request that failed; None if there was none, as where a private key is no key."""
    cause = error.exc if isinstance(error, RequestError) else None
    try:
        return cause.request if isinstance(cause, httpx.RequestError | httpx.HTTPStatusError) else None
    except RuntimeError:
        return None


def _explain(error: GitHubException, what: str) -> BackendError:
    """Translate an error into what it means for the request."""
    cause = error.exc if isinstance(error, RequestError) else error
    if isinstance(cause, GitHubException) and cause is not error:
        return _explain(cause, what)  # the request for the App's token, which came first
    request = _request_of(error)
    asked = request is None or not request.url.path.endswith(_TOKEN_PATH)
    if not isinstance(error, RequestFailed):
        message = f"no answer to {what}: {cause or type(cause).__name__}"
        reached = not isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return UnansweredError(message) if asked and reached else NotNowError(message, _REACH_WAIT)
    status = error.response.status_code
    message = _words(error, what if asked else f"{error.request.method} {error.request.url.path}")
    if isinstance(error, RateLimitExceeded):
        return LimitError(message, max(error.retry_after, timedelta(seconds=1)))
    limited = any(words in message.lower() for words in _LIMIT_WORDS)
    if status == httpx.codes.TOO_MANY_REQUESTS or (status == httpx.codes.FORBIDDEN and limited):
        return LimitError(message, _LIMIT_WAIT)
    if status < httpx.codes.INTERNAL_SERVER_ERROR:
        return RefusedError(message, status)
    return UnansweredError(message) if asked else NotNowError(message, _REACH_WAIT)


def _words(error: RequestFailed, what: str) -> str:
    status = error.response.status_code
    try:
        answer = error.response.json()
        details = [each if isinstance(each, str) else each.get("message", "") for each in answer.get("errors", [])]
        parts = [answer["message"], *details]
    except (ValueError, KeyError, TypeError, AttributeError):
        parts = [error.response.text.strip().partition("\n")[0][:200]]
    return f"GitHub answers {status} to {what}: {'; '.join(filter(None, parts)) or 'it gives no reason'}"
