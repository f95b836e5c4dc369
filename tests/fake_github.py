"""A fake GitHub on loopback, for the tests of all folders: its state, its answers, and its faults.

`FakeGitHub` holds runs, jobs, and the faults of later requests. It serves the endpoints that the platform uses over
HTTP (`serving`), with whole objects, as GitHub's own description requires. For runs that do something, a test gives
`on_dispatch`, which is called in its own thread, and reports with `begin_job`, `end_job` and `end_run`.
"""

import base64
import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from precalc_assets.settings import Settings

REPOSITORY = "ersilia-os/precalc"
WORKFLOW = "predict-parallel.yml"
REF = "main"
TOKEN = "github_pat_of_the_tests"
INSTALLATION = 71
INPUTS = ("model-id", "sample-only", "n-workers", "shards", "key")

WORKFLOW_FILE = "name: Run Inference in Parallel\non:\n  workflow_dispatch:\n    inputs:\n" + "".join(
    f"      {name}:\n        type: string\n" for name in INPUTS
)

_SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """A fault of one request: a wrong answer, or no answer if `status` is None.

    With `done`, the request is carried out all the same.
    """

    status: int | None
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    done: bool = False


BAD_GATEWAY = Fault(502, "Server Error")
BAD_GATEWAY_DONE = Fault(502, "Server Error", done=True)
DROPPED = Fault(None)
DROPPED_DONE = Fault(None, done=True)
TOO_MANY = Fault(429, "API rate limit exceeded for installation ID 71.", {"retry-after": "30"})
USED_UP = Fault(
    403, "API rate limit exceeded for installation ID 71.", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"}
)
SECONDARY = Fault(
    403,
    "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
    {"retry-after": "45"},
)
SECONDARY_BARE = Fault(403, SECONDARY.message)
UNAUTHORIZED = Fault(401, "Bad credentials")
FORBIDDEN = Fault(403, "Resource not accessible by personal access token")
NOT_FOUND = Fault(404, "Not Found")
UNPROCESSABLE = Fault(422, 'Unexpected inputs provided: ["shards"]')


class RefusalError(Exception):
    """GitHub answers with a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass
class FakeJob:
    """A job of a run."""

    id: int
    name: str
    created_at: datetime
    status: str = "queued"
    conclusion: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass
class FakeRun:
    """A run of the workflow."""

    id: int
    inputs: dict[str, str]
    created_at: datetime
    status: str = "queued"
    conclusion: str | None = None
    jobs: dict[str, FakeJob] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The run-name that the workflow gives it."""
        return f"{self.inputs.get('model-id')} [{self.inputs.get('key', 'by hand')}]"


class FakeGitHub:
    """One repository with one workflow, and its runs.

    A new run is missing from lists during `list_lag`, and cannot be read by its id during `show_lag`. `faults` holds by
    endpoint (dispatch, list_runs, get_run, list_jobs, cancel, force_cancel, token, …) the faults of the next requests,
    in order. `asked` lists the endpoints of all requests. `before_answer` is called after a request over HTTP is
    carried out and before it is answered, with its path, its answer and the client's port.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_dispatch: Callable[[dict[str, str], int], None] | None = None,
    ) -> None:
        self.now = now
        self.on_dispatch = on_dispatch
        self.runs: dict[int, FakeRun] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.asked: list[str] = []
        self.list_lag = timedelta()
        self.show_lag = timedelta()
        self.workflow_file = WORKFLOW_FILE
        self.workflow_state = "active"
        self.archived = False
        self.may_write = True
        self.stubborn = False
        self.describe_run = run_object
        self.before_answer: Callable[[str, dict | None, int], None] = lambda *_: None
        self._ids = iter(range(1001, 1_000_000))
        self._lock = threading.RLock()

    # -- events on the runners

    def begin_run(self, run_id: int) -> None:
        """Begin a run."""
        self.runs[run_id].status = "in_progress"

    def begin_job(self, run_id: int, name: str) -> None:
        """Begin a job of a run, which may be new or waiting."""
        with self._lock:
            self.begin_run(run_id)
            job = self.add_job(run_id, name)
            job.status, job.started_at = "in_progress", self.now()

    def add_job(self, run_id: int, name: str) -> FakeJob:
        """Return a job of a run. Adds a new job, which waits for a runner."""
        with self._lock:
            return self.runs[run_id].jobs.setdefault(name, FakeJob(next(self._ids), name, self.now()))

    def end_job(self, run_id: int, name: str, conclusion: str = "success") -> None:
        """End a job."""
        with self._lock:
            job = self.runs[run_id].jobs[name]
            job.status, job.conclusion, job.completed_at = "completed", conclusion, self.now()

    def end_run(self, run_id: int, conclusion: str = "success") -> None:
        """End a run."""
        with self._lock:
            run = self.runs[run_id]
            run.status, run.conclusion = "completed", conclusion

    # -- requests; each raises RefusalError

    def dispatch(self, ref: str, inputs: dict[str, str]) -> int:
        """Start a run and return its id."""
        fault = self._ask("dispatch")
        if fault and not fault.done:
            raise RefusalError(fault)
        if not self.may_write:
            raise RefusalError(FORBIDDEN)
        if ref != REF:
            raise RefusalError(Fault(422, f"No ref found for: {ref}"))
        unknown = [name for name in inputs if f"      {name}:" not in self.workflow_file]
        if unknown:
            raise RefusalError(Fault(422, f"Unexpected inputs provided: {json.dumps(unknown)}"))
        with self._lock:
            run = FakeRun(next(self._ids), inputs, self.now())
            self.runs[run.id] = run
        if self.on_dispatch:
            threading.Thread(target=self.on_dispatch, args=(inputs, run.id), daemon=True).start()
        if fault:
            raise RefusalError(fault)
        return run.id

    def list_runs(self) -> list[FakeRun]:
        """Return the runs that lists show already, newest first."""
        self._ask_or_refuse("list_runs")
        with self._lock:
            return [run for _, run in sorted(self.runs.items(), reverse=True) if self._is_older(run, self.list_lag)]

    def get_run(self, run_id: int) -> FakeRun:
        """Return a run."""
        self._ask_or_refuse("get_run")
        run = self.runs.get(run_id)
        if run is None or not self._is_older(run, self.show_lag):
            raise RefusalError(NOT_FOUND)
        return run

    def list_jobs(self, run_id: int) -> list[FakeJob]:
        """Return the jobs of a run."""
        self._ask_or_refuse("list_jobs")
        with self._lock:
            return list(self.runs[run_id].jobs.values())

    def cancel(self, run_id: int, *, force: bool) -> None:
        """Cancel a run. A stubborn one only ends by force."""
        self._ask_or_refuse("force_cancel" if force else "cancel")
        run = self.runs[run_id]
        if run.status == "completed":
            raise RefusalError(Fault(409, "Cannot cancel a workflow run that is completed."))
        if force or not self.stubborn:
            with self._lock:
                for name, job in run.jobs.items():
                    if job.status != "completed":
                        self.end_job(run_id, name, "cancelled")
                self.end_run(run_id, "cancelled")

    def _is_older(self, run: FakeRun, lag: timedelta) -> bool:
        return self.now() >= run.created_at + lag

    def _ask(self, endpoint: str) -> Fault | None:
        with self._lock:
            self.asked.append(endpoint)
            return self.faults[endpoint].popleft() if self.faults[endpoint] else None

    def _ask_or_refuse(self, endpoint: str) -> None:
        fault = self._ask(endpoint)
        if fault:
            raise RefusalError(fault)

    # -- over HTTP

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on loopback, and yield the address."""
        server = _Server(("127.0.0.1", 0), _Handler)
        server.fake = self
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, method: str, path: str, query: dict[str, str], body: dict) -> tuple[int, dict | None]:
        """Return the status and the body of an answer. Raises RefusalError."""
        if path == f"/app/installations/{INSTALLATION}/access_tokens" and method == "POST":
            self._ask_or_refuse("token")
            expires = datetime.now(UTC) + timedelta(hours=1)
            return 201, {"token": TOKEN, "expires_at": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
        inside = path.removeprefix(f"/repos/{REPOSITORY}")
        if inside == path:
            raise RefusalError(NOT_FOUND)
        for verb, pattern, answer in self._ENDPOINTS:
            found = re.fullmatch(pattern, inside)
            if found and verb == method:
                return answer(self, query, body, **found.groupdict())
        raise RefusalError(NOT_FOUND)

    def _answer_repository(self, query: dict, body: dict) -> tuple[int, dict]:
        self._ask_or_refuse("repository")
        return 200, full_repository(archived=self.archived)

    def _answer_workflow(self, query: dict, body: dict, name: str) -> tuple[int, dict]:
        self._ask_or_refuse("workflow")
        if name != WORKFLOW:
            raise RefusalError(NOT_FOUND)
        return 200, workflow_object(self.workflow_state)

    def _answer_contents(self, query: dict, body: dict, name: str) -> tuple[int, dict]:
        self._ask_or_refuse("contents")
        if query.get("ref", REF) != REF:
            raise RefusalError(Fault(404, f"No commit found for the ref {query['ref']}"))
        if name != f".github/workflows/{WORKFLOW}":
            raise RefusalError(NOT_FOUND)
        return 200, content_object(name, self.workflow_file)

    def _answer_ref(self, query: dict, body: dict, name: str) -> tuple[int, dict]:
        self._ask_or_refuse("ref")
        if name != f"heads/{REF}":
            raise RefusalError(NOT_FOUND)
        return 200, ref_object(name)

    def _answer_dispatch(self, query: dict, body: dict, name: str) -> tuple[int, dict]:
        if name != WORKFLOW:
            raise RefusalError(NOT_FOUND)
        run_id = self.dispatch(body["ref"], body.get("inputs", {}))
        urls = {"run_url": f"{_api()}/actions/runs/{run_id}", "html_url": f"{_html()}/actions/runs/{run_id}"}
        return 200, {"workflow_run_id": run_id, **urls}

    def _answer_runs(self, query: dict, body: dict, name: str) -> tuple[int, dict]:
        runs = self.list_runs()
        return 200, {"total_count": len(runs), "workflow_runs": [self.describe_run(run) for run in _page(runs, query)]}

    def _answer_run(self, query: dict, body: dict, run_id: str) -> tuple[int, dict]:
        return 200, self.describe_run(self.get_run(int(run_id)))

    def _answer_jobs(self, query: dict, body: dict, run_id: str) -> tuple[int, dict]:
        jobs = self.list_jobs(int(run_id))
        return 200, {"total_count": len(jobs), "jobs": [job_object(int(run_id), job) for job in _page(jobs, query)]}

    def _answer_log(self, query: dict, body: dict, job_id: str) -> tuple[int, None]:
        self._ask_or_refuse("log")
        return 302, None

    def _answer_cancel(self, query: dict, body: dict, run_id: str, force: str | None) -> tuple[int, dict]:
        self.cancel(int(run_id), force=bool(force))
        return 202, {}

    _ENDPOINTS = (
        ("GET", "", _answer_repository),
        ("GET", "/contents/(?P<name>.+)", _answer_contents),
        ("GET", "/git/ref/(?P<name>.+)", _answer_ref),
        ("GET", "/actions/workflows/(?P<name>[^/]+)", _answer_workflow),
        ("POST", "/actions/workflows/(?P<name>[^/]+)/dispatches", _answer_dispatch),
        ("GET", "/actions/workflows/(?P<name>[^/]+)/runs", _answer_runs),
        ("GET", r"/actions/runs/(?P<run_id>\d+)", _answer_run),
        ("GET", r"/actions/runs/(?P<run_id>\d+)/jobs", _answer_jobs),
        ("GET", r"/actions/jobs/(?P<job_id>\d+)/logs", _answer_log),
        ("POST", r"/actions/runs/(?P<run_id>\d+)/(?P<force>force-)?cancel", _answer_cancel),
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeGitHub

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *arguments: object) -> None:
        """Do not log requests."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        if path.startswith("/logs/"):
            self._send(200, f"The log of job {path.removeprefix('/logs/')}", {})
            return
        try:
            if not path.endswith("/access_tokens") and self.headers.get("authorization") != f"token {TOKEN}":
                raise RefusalError(UNAUTHORIZED)
            status, answer = self.server.fake.answer(self.command, path, query, json.loads(body or b"{}"))
            self.server.fake.before_answer(path, answer, self.client_address[1])
            # GitHub sends the reader of a log elsewhere.
            host, job_id = self.server.server_address, path.split("/")[-2] if status == 302 else ""
            headers = {"location": f"http://{host[0]}:{host[1]}/logs/{job_id}"} if job_id else {}
            self._send(status, answer, headers)
        except RefusalError as refusal:
            if refusal.fault.status is None:
                # Reset the connection, as a broken line does.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            else:
                said = {"message": refusal.fault.message, "documentation_url": "https://docs.github.com/rest"}
                self._send(refusal.fault.status, said, refusal.fault.headers)

    def _send(self, status: int, answer: dict | str | None, headers: Mapping[str, str]) -> None:
        content = b"" if status == 302 else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def github_settings(url: str = "http://127.0.0.1:9", **more: object) -> Settings:
    """Return settings for the fake at an address, independent of the environment."""
    named = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url, "n_shards": 4}
    return Settings(_env_file=None, **{**named, **more})


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


# -- whole objects


def _page(items: list, query: dict[str, str]) -> list:
    size, number = int(query.get("per_page", 30)), int(query.get("page", 1))
    return items[(number - 1) * size : number * size]


def _api() -> str:
    return f"https://api.github.com/repos/{REPOSITORY}"


def _html() -> str:
    return f"https://github.com/{REPOSITORY}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


@cache
def _user() -> dict:
    login = REPOSITORY.partition("/")[0]
    names = ("events", "followers", "following", "gists", "organizations", "received_events", "repos", "starred")
    urls = {f"{name}_url": f"https://api.github.com/users/{login}/{name}" for name in (*names, "subscriptions")}
    return {
        "id": 1,
        "login": login,
        "node_id": "U_1",
        "type": "Organization",
        "site_admin": False,
        "gravatar_id": "",
        "avatar_url": "https://avatars.githubusercontent.com/u/1",
        "html_url": f"https://github.com/{login}",
        "url": f"https://api.github.com/users/{login}",
        **urls,
    }


_REPOSITORY_URLS = (
    "archive",
    "assignees",
    "blobs",
    "branches",
    "collaborators",
    "comments",
    "commits",
    "compare",
    "contents",
    "contributors",
    "deployments",
    "downloads",
    "events",
    "forks",
    "git_commits",
    "git_refs",
    "git_tags",
    "hooks",
    "issue_comment",
    "issue_events",
    "issues",
    "keys",
    "labels",
    "languages",
    "merges",
    "milestones",
    "notifications",
    "pulls",
    "releases",
    "stargazers",
    "statuses",
    "subscribers",
    "subscription",
    "tags",
    "teams",
    "trees",
)


@cache
def _repository() -> dict:
    return {
        "id": 2,
        "node_id": "R_2",
        "name": REPOSITORY.partition("/")[2],
        "full_name": REPOSITORY,
        "owner": _user(),
        "private": False,
        "description": None,
        "fork": False,
        "html_url": _html(),
        "url": _api(),
        **{f"{name}_url": f"{_api()}/{name}" for name in _REPOSITORY_URLS},
    }


def full_repository(*, archived: bool) -> dict:
    """Return GitHub's full object for a repository."""
    moment = _time(datetime(2026, 1, 1, tzinfo=UTC))
    counts = "forks forks_count network_count open_issues open_issues_count size stargazers_count subscribers_count"
    features = "has_issues has_projects has_wiki has_pages has_discussions disabled"
    return {
        **_repository(),
        **dict.fromkeys(f"{counts} watchers watchers_count".split(), 0),
        **dict.fromkeys(features.split(), False),
        **dict.fromkeys(("homepage", "language", "license", "mirror_url")),
        **dict.fromkeys(("created_at", "pushed_at", "updated_at"), moment),
        "archived": archived,
        "default_branch": REF,
        "clone_url": f"{_html()}.git",
        "git_url": f"git:github.com/{REPOSITORY}.git",
        "ssh_url": f"git@github.com:{REPOSITORY}.git",
        "svn_url": f"https://svn.github.com/{REPOSITORY}",
    }


def workflow_object(state: str) -> dict:
    """Return GitHub's object for the workflow."""
    moment = _time(datetime(2026, 1, 1, tzinfo=UTC))
    return {
        "id": 3,
        "node_id": "W_3",
        "name": "Run Inference in Parallel",
        "path": f".github/workflows/{WORKFLOW}",
        "state": state,
        "created_at": moment,
        "updated_at": moment,
        "url": f"{_api()}/actions/workflows/3",
        "html_url": f"{_html()}/blob/{REF}/.github/workflows/{WORKFLOW}",
        "badge_url": f"{_html()}/workflows/x/badge.svg",
    }


def content_object(path: str, content: str) -> dict:
    """Return GitHub's object for a file."""
    url = f"{_api()}/contents/{path}"
    return {
        "type": "file",
        "encoding": "base64",
        "size": len(content),
        "name": path.rpartition("/")[2],
        "path": path,
        "content": base64.encodebytes(content.encode()).decode(),
        "sha": _SHA,
        "url": url,
        "git_url": f"{_api()}/git/blobs/{_SHA}",
        "html_url": f"{_html()}/blob/{REF}/{path}",
        "download_url": f"https://raw.githubusercontent.com/{REPOSITORY}/{REF}/{path}",
        "_links": {"self": url, "git": None, "html": None},
    }


def ref_object(name: str) -> dict:
    """Return GitHub's object for a branch or a tag."""
    return {
        "ref": f"refs/{name}",
        "node_id": "REF_1",
        "url": f"{_api()}/git/refs/{name}",
        "object": {"type": "commit", "sha": _SHA, "url": f"{_api()}/git/commits/{_SHA}"},
    }


def run_object(run: FakeRun) -> dict:
    """Return GitHub's object for a run."""
    url = f"{_api()}/actions/runs/{run.id}"
    moment = _time(run.created_at)
    names = ("jobs", "logs", "cancel", "rerun", "artifacts")
    return {
        "id": run.id,
        "node_id": f"WFR_{run.id}",
        "head_branch": REF,
        "head_sha": _SHA,
        "run_number": run.id - 1000,
        "run_attempt": 1,
        "display_title": run.title,
        "event": "workflow_dispatch",
        "status": run.status,
        "conclusion": run.conclusion,
        "path": f".github/workflows/{WORKFLOW}@{REF}",
        "workflow_id": 3,
        "pull_requests": [],
        "url": url,
        "html_url": f"{_html()}/actions/runs/{run.id}",
        "created_at": moment,
        "updated_at": moment,
        **{f"{name}_url": f"{url}/{name}" for name in names},
        "check_suite_url": f"{_api()}/check-suites/4",
        "workflow_url": f"{_api()}/actions/workflows/3",
        "head_commit": {
            "id": _SHA,
            "tree_id": _SHA,
            "message": "A commit",
            "timestamp": moment,
            "author": None,
            "committer": None,
        },
        "repository": _repository(),
        "head_repository": _repository(),
    }


def job_object(run_id: int, job: FakeJob) -> dict:
    """Return GitHub's object for a job. A queued job has a start time, too."""
    return {
        "id": job.id,
        "node_id": f"CR_{job.id}",
        "run_id": run_id,
        "run_url": f"{_api()}/actions/runs/{run_id}",
        "run_attempt": 1,
        "head_sha": _SHA,
        "head_branch": REF,
        "workflow_name": "Run Inference in Parallel",
        "name": job.name,
        "status": job.status,
        "conclusion": job.conclusion,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at or job.created_at),
        "completed_at": _time(job.completed_at) if job.completed_at else None,
        "steps": [],
        "url": f"{_api()}/actions/jobs/{job.id}",
        "html_url": f"{_html()}/actions/runs/{run_id}/job/{job.id}",
        "check_run_url": f"{_api()}/check-runs/{job.id}",
        "labels": ["ubuntu-latest"],
        **dict.fromkeys(("runner_id", "runner_group_id"), 0 if job.started_at else None),
        **dict.fromkeys(("runner_name", "runner_group_name"), "GitHub Actions 1" if job.started_at else None),
    }
