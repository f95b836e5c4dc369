"""What the platform asks of GitHub, how it asks, and what GitHub's refusals mean. When it asks is in `launch`.

GitHub's REST API, version 2026-03-10, through githubkit. Answers are read into models of the few fields that are used
here: a dispatch whose answer has a new or missing field elsewhere has started a run all the same.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

import githubkit
import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from githubkit.exception import GitHubException, RateLimitExceeded, RequestError, RequestFailed
from githubkit.retry import RetryOption
from pydantic import BaseModel, ConfigDict, ValidationError

from precalc_assets.errors import ExecutionError, UsageError
from precalc_assets.executions.records import Run
from precalc_assets.settings import Settings

_VERSION = {"X-GitHub-Api-Version": "2026-03-10"}
"""The first version whose dispatch answers with the run's id."""

_TIMEOUT = 12.0
"""Seconds for an answer. GitHub itself ends what it cannot answer in 10 ("Troubleshooting the REST API: Timeouts")."""

_READ_PAUSES = (1.0, 4.0)
"""Seconds before a read is tried again. What fails after that is tried at the caller's next look."""

_PER_PAGE = 100
"""The most that GitHub gives of a list."""

_MOST_PAGES = 20
"""2,000 runs since an execution was opened, or jobs of a run, which has 256 at most in a matrix."""

_REACH_WAIT = timedelta(seconds=30)
"""Before GitHub is tried again that was not reached."""

_LIMIT_WAIT = timedelta(seconds=60)
"""GitHub's documentation: wait for at least a minute after a secondary limit that does not say how long."""

_LIMIT_WORDS = ("rate limit", "abuse detection")

_TOKEN_PATH = "/access_tokens"  # noqa: S105 - where an App gets its tokens


class GitHubError(ExecutionError):
    """GitHub did not do what it was asked for."""


class RefusedError(GitHubError):
    """GitHub said no, for good: nothing was done, and asking again changes nothing."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotNowError(GitHubError):
    """Nothing was done, and it may be asked for again after `wait`: a rate limit, or GitHub was not reached at all."""

    def __init__(self, message: str, wait: timedelta) -> None:
        super().__init__(message)
        self.wait = wait


class LimitError(NotNowError):
    """A rate limit, which is on all that an installation or a user asks for."""


class UnansweredError(GitHubError):
    """It was asked for, and nobody knows whether it was done: a server's error, no answer, or one that says nothing."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class WorkflowRun(_Answer):
    """A workflow run. `display_title` is its run-name; `conclusion` is None until its status is completed."""

    id: int
    display_title: str
    status: str | None
    conclusion: str | None
    html_url: str
    created_at: datetime

    @property
    def completed(self) -> bool:
        """Whether the run has come to its end."""
        return self.status == "completed"


class Job(_Answer):
    """A job of a run. A queued one has a `started_at` too: when it was queued."""

    id: int
    name: str
    status: str
    conclusion: str | None
    html_url: str | None
    created_at: datetime
    started_at: datetime
    completed_at: datetime | None


class GitHub(Protocol):
    """What is asked of GitHub.

    All raise NotNowError and UnansweredError, and RefusedError with GitHub's message for anything that GitHub refuses.
    Reads are tried again by themselves; what changes something is asked for once.
    """

    def dispatch(self, inputs: Mapping[str, str]) -> Run | None:
        """Start a run of the workflow; None where GitHub does not say which."""

    def list_runs(self, since: datetime) -> list[WorkflowRun]:
        """Return the workflow's dispatched runs since then, newest first. The list lags behind."""

    def get_run(self, run_id: int) -> WorkflowRun:
        """Return a run."""

    def list_jobs(self, run_id: int) -> list[Job]:
        """Return the jobs of a run, each in its last attempt."""

    def cancel(self, run_id: int, *, force: bool = False) -> None:
        """Ask for a run to be cancelled, which takes its time; with `force`, also one that does not stop by itself."""


Auth = githubkit.TokenAuthStrategy | githubkit.AppInstallationAuthStrategy


def open_github(settings: Settings, *, read_pauses: tuple[float, ...] = _READ_PAUSES) -> "GitHubClient":
    """Return the client of the repository that the settings name. Raises UsageError if they do not say enough."""
    if not settings.github_repository:
        raise UsageError("PRECALC_GITHUB_REPOSITORY is not set; write owner/name of the repository with the workflow")
    return GitHubClient(settings, _authenticate(settings), read_pauses)


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
        raise UsageError("PRECALC_GITHUB_TOKEN is set and an App's settings are, too; unset the ones or the other")
    if token:
        return githubkit.TokenAuthStrategy(token)
    if len(missing) == len(app):
        raise UsageError(f"set PRECALC_GITHUB_TOKEN, or, for an App, {', '.join(app)}")
    if missing:
        raise UsageError(f"set {' and '.join(missing)}, too, for the GitHub App")
    try:
        load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError("PRECALC_GITHUB_PRIVATE_KEY is no private key in PEM without a password") from None
    return githubkit.AppInstallationAuthStrategy(settings.github_app_id, key, settings.github_installation)


AnswerType = TypeVar("AnswerType", bound=_Answer)


class GitHubClient:
    """GitHub, asked through githubkit."""

    def __init__(self, settings: Settings, auth: Auth, read_pauses: tuple[float, ...]) -> None:
        self.repository = settings.github_repository
        self.workflow = settings.github_workflow
        self.ref = settings.github_ref
        self._workflow_path = f"/actions/workflows/{quote(self.workflow, safe='')}"
        self._github = githubkit.GitHub(
            auth,
            base_url=settings.github_api_url,
            timeout=_TIMEOUT,
            http_cache=False,
            # Its default would send a dispatch again after a 502, and sleep until a rate limit is over.
            auto_retry=_ReadRetry(read_pauses),
        )

    def dispatch(self, inputs: Mapping[str, str], *, ref: str | None = None) -> Run | None:
        """See `GitHub.dispatch`; `ref` stands in for the one that is set."""
        answer = self._ask(
            "POST", f"{self._workflow_path}/dispatches", json={"ref": ref or self.ref, "inputs": dict(inputs)}
        )
        return _parse(_Dispatched, answer).run if answer else None

    def list_runs(self, since: datetime) -> list[WorkflowRun]:
        """See `GitHub.list_runs`. Not filtered by GitHub: it answers filters from an index that lags more."""
        runs: list[WorkflowRun] = []
        for page in self._pages(f"{self._workflow_path}/runs", "workflow_runs"):
            runs += [_parse(WorkflowRun, run) for run in page]
            if runs and runs[-1].created_at < since:
                break
        return [run for run in runs if run.created_at >= since]

    def get_run(self, run_id: int) -> WorkflowRun:
        """See `GitHub.get_run`."""
        return _parse(WorkflowRun, self._ask("GET", f"/actions/runs/{run_id}"))

    def list_jobs(self, run_id: int) -> list[Job]:
        """See `GitHub.list_jobs`."""
        return [_parse(Job, job) for page in self._pages(f"/actions/runs/{run_id}/jobs", "jobs") for job in page]

    def cancel(self, run_id: int, *, force: bool = False) -> None:
        """See `GitHub.cancel`."""
        self._ask("POST", f"/actions/runs/{run_id}/{'force-cancel' if force else 'cancel'}")

    def read(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        """Return what GitHub has below the repository's own address, as JSON."""
        return self._ask("GET", path, params=parameters)

    def _pages(self, path: str, name: str) -> Iterator[list[object]]:
        for number in range(1, _MOST_PAGES + 1):
            page: list[object] = self.read(path, per_page=str(_PER_PAGE), page=str(number))[name]
            yield page
            if len(page) < _PER_PAGE:
                return

    def _ask(
        self, method: Literal["GET", "POST"], path: str, *, params: dict[str, str] | None = None, json: object = None
    ) -> Any:  # noqa: ANN401 - JSON
        path = f"/repos/{self.repository}{path}"
        what = f"{method} {path}"
        try:
            response = self._github.request(method, path, params=params, json=json, headers=_VERSION)
            return response.json() if response.raw_response.content else None
        except GitHubException as error:
            raise _explain(error, what) from error
        except ValueError as error:
            raise UnansweredError(f"GitHub's answer to {what} is no JSON: {error}") from error


class _ReadRetry:
    """Tries reads again, after these pauses, that a server's error or the network has spoiled; nothing else."""

    def __init__(self, pauses: tuple[float, ...]) -> None:
        self._pauses = pauses

    def __call__(self, error: GitHubException, retried: int) -> RetryOption:
        """Say whether to try again; see githubkit."""
        request = _request_of(error)
        failed = not isinstance(error, RequestFailed) or error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
        if request is None or request.method != "GET" or not failed or retried >= len(self._pauses):
            return RetryOption(do_retry=False)
        return RetryOption(do_retry=True, retry_after=timedelta(seconds=self._pauses[retried]))


class _Dispatched(_Answer):
    """What a dispatch is answered with."""

    workflow_run_id: int
    html_url: str

    @property
    def run(self) -> Run:
        return Run(run_id=self.workflow_run_id, url=self.html_url)


def _parse(kind: type[AnswerType], answer: object) -> AnswerType:
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnansweredError(f"GitHub's answer is no {kind.__name__}: {place}: {first['msg']}") from error


def _request_of(error: GitHubException) -> httpx.Request | None:
    """Return the request that failed; None if there was none, as where a private key is no key."""
    cause = error.exc if isinstance(error, RequestError) else None
    try:
        return cause.request if isinstance(cause, httpx.RequestError | httpx.HTTPStatusError) else None
    except RuntimeError:
        return None


def _explain(error: GitHubException, what: str) -> GitHubError:
    """Return what an error means for what was asked for."""
    if isinstance(error, RequestError) and isinstance(error.exc, GitHubException):
        # The App's token could not be had, on the way.
        return _explain(error.exc, what)
    cause = error.exc if isinstance(error, RequestError) else error
    request = _request_of(error)
    asked = request is None or not request.url.path.endswith(_TOKEN_PATH)
    if isinstance(error, RequestFailed):
        status = error.response.status_code
        message = _words(error, what if asked else f"{error.request.method} {error.request.url.path}")
        if isinstance(error, RateLimitExceeded):
            return LimitError(message, max(error.retry_after, timedelta(seconds=1)))
        if status == httpx.codes.TOO_MANY_REQUESTS or (status == httpx.codes.FORBIDDEN and _is_limit(message)):
            return LimitError(message, _LIMIT_WAIT)
        if status < httpx.codes.INTERNAL_SERVER_ERROR:
            return RefusedError(message, status)
        return UnansweredError(message) if asked else NotNowError(message, _REACH_WAIT)
    message = f"no answer to {what}: {cause or type(cause).__name__}"
    reached = not isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return UnansweredError(message) if asked and reached else NotNowError(message, _REACH_WAIT)


def _is_limit(message: str) -> bool:
    """Return whether a 403 is a rate limit by its words: GitHub also sends secondary limits without any header."""
    return any(words in message.lower() for words in _LIMIT_WORDS)


def _words(error: RequestFailed, what: str) -> str:
    """Return GitHub's own message."""
    status = error.response.status_code
    try:
        answer = error.response.json()
        message = answer["message"]
        details = [
            detail if isinstance(detail, str) else detail.get("message", "") for detail in answer.get("errors", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        message, details = error.response.text.strip().partition("\n")[0][:200], []
    said = "; ".join(part for part in (message, *details) if part) or "it gives no reason"
    return f"GitHub answers {status} to {what}: {said}"
