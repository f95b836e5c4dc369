"""The GitHub backend over HTTP: the error for each fault, what it retries, and how it authenticates."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fake_github import (
    BAD_GATEWAY,
    DROPPED,
    INSTALLATION,
    SECONDARY,
    SECONDARY_BARE,
    TOO_MANY,
    UNAUTHORIZED,
    USED_UP,
    FakeGitHub,
    Fault,
    github_settings,
)
from simulation import MEANINGS

from precalc_assets.executions.compute_backend import BackendError, NotNowError, RefusedError, UnansweredError
from precalc_assets.executions.github import GitHubBackend, open_github
from precalc_assets.executions.records import Intent, Run
from precalc_assets.platform_errors import UsageError

INPUTS = {"model-id": "eos9abc", "shards": "00-03", "key": "eos9abc-0001"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
INTENT = Intent(
    key="eos9abc-0001",
    model="eos9abc",
    compute="github",
    library_digest="d",
    shards=("00", "01", "02", "03"),
    created_at=LONG_AGO,
)


@pytest.fixture(scope="module")
def private_key() -> str:
    """An App's private key in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(*pem, serialization.NoEncryption()).decode()


def test_launch_gives_the_workflow_its_inputs(backend: GitHubBackend, fake: FakeGitHub) -> None:
    run = backend.launch(INTENT)
    assert fake.runs[run.run_id].inputs == {**INPUTS, "n-workers": "50"}
    assert run.url.endswith(f"/actions/runs/{run.run_id}")


@pytest.mark.parametrize("name", MEANINGS)
def test_dispatch_is_sent_once_whatever_the_answer(name: str, backend: GitHubBackend, fake: FakeGitHub) -> None:
    fault, kind = MEANINGS[name]
    fake.faults["dispatch"].append(fault)
    with pytest.raises(BackendError, match=fault.message.replace("[", r"\[") or "no answer") as error:
        backend.dispatch(INPUTS)
    assert type(error.value) is kind
    assert fake.asked == ["dispatch"]
    assert len(fake.runs) == fault.done


@pytest.mark.parametrize(("fault", "seconds"), [(TOO_MANY, 30), (SECONDARY, 45), (SECONDARY_BARE, 60)])
def test_rate_limit_waits_as_told_or_for_a_minute(
    fault: Fault, seconds: int, backend: GitHubBackend, fake: FakeGitHub
) -> None:
    fake.faults["dispatch"].append(fault)
    with pytest.raises(NotNowError) as error:
        backend.dispatch(INPUTS)
    assert error.value.wait == timedelta(seconds=seconds)


def test_used_up_limit_waits_until_its_reset(backend: GitHubBackend, fake: FakeGitHub) -> None:
    reset = datetime.now(UTC) + timedelta(minutes=20)
    headers = {**USED_UP.headers, "x-ratelimit-reset": str(int(reset.timestamp()))}
    fake.faults["dispatch"].append(Fault(403, USED_UP.message, headers))
    with pytest.raises(NotNowError) as error:
        backend.dispatch(INPUTS)
    assert timedelta(minutes=19) < error.value.wait <= timedelta(minutes=20)


def test_late_answer_leaves_open_what_was_done(
    open_backend: Callable[..., GitHubBackend], fake: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precalc_assets.executions.github._TIMEOUT", 0.2)
    backend = open_backend()
    fake.before_answer = lambda *_: time.sleep(0.6)
    with pytest.raises(UnansweredError, match="no answer to POST"):
        backend.dispatch(INPUTS)
    assert len(fake.runs) == 1


def test_unreachable_github_has_started_nothing() -> None:
    with pytest.raises(NotNowError, match="no answer to POST"):
        open_github(github_settings(), read_pauses=()).dispatch(INPUTS)


@pytest.mark.parametrize("fault", [BAD_GATEWAY, DROPPED])
def test_read_is_retried_twice(fault: Fault, backend: GitHubBackend, fake: FakeGitHub) -> None:
    fake.faults["list_runs"].extend([fault, fault])
    assert backend.look_up(INTENT) is None
    fake.faults["list_runs"].extend([fault, fault, fault])
    with pytest.raises(UnansweredError):
        backend.look_up(INTENT)
    assert len(fake.asked) == 6


@pytest.mark.parametrize("fault", [TOO_MANY, USED_UP, UNAUTHORIZED])
def test_refused_read_is_not_retried(fault: Fault, backend: GitHubBackend, fake: FakeGitHub) -> None:
    fake.faults["get_run"].append(fault)
    with pytest.raises(BackendError):
        backend.status(INTENT, Run(run_id=1, url=""))
    assert fake.asked == ["get_run"]


def test_lists_are_read_to_their_end(backend: GitHubBackend, fake: FakeGitHub) -> None:
    first = fake.dispatch("main", INPUTS)
    for _ in range(230):
        fake.dispatch("main", {**INPUTS, "key": "eos9abc-0002"})
    for number in range(256):
        fake.add_job(first, f"Predict {number}")
    found = backend.look_up(INTENT)
    assert found is not None
    assert found.run_id == first
    status = backend.status(INTENT, found)
    assert status is not None
    assert {job.name for job in status.jobs} == {f"Predict {number}" for number in range(256)}


def test_runs_are_read_no_further_back_than_needed(backend: GitHubBackend, fake: FakeGitHub) -> None:
    for _ in range(230):
        fake.runs[fake.dispatch("main", INPUTS)].created_at = LONG_AGO
    recent = fake.dispatch("main", INPUTS)
    fake.asked.clear()
    found = backend.look_up(INTENT.model_copy(update={"created_at": LONG_AGO + timedelta(days=1)}))
    assert found is not None
    assert found.run_id == recent
    assert fake.asked == ["list_runs"]


@pytest.mark.parametrize(
    ("status", "conclusion", "begun"),
    [("queued", None, False), ("in_progress", None, True), ("completed", "skipped", False), ("completed", "x", True)],
)
def test_queued_or_skipped_job_has_not_started(
    status: str, conclusion: str | None, *, begun: bool, backend: GitHubBackend, fake: FakeGitHub
) -> None:
    run_id = fake.dispatch("main", INPUTS)
    job = fake.add_job(run_id, "Predict 00-01")
    job.status, job.conclusion = status, conclusion
    described = backend.status(INTENT, Run(run_id=run_id, url=""))
    assert described is not None
    [found] = described.jobs
    assert (found.status, found.shards) == (conclusion or status, ("00", "01"))
    assert (found.started_at is not None) == begun


def _app(private_key: str) -> dict[str, object]:
    return {
        "github_token": "",
        "github_app_id": "12",
        "github_private_key": private_key,
        "github_installation": INSTALLATION,
    }


@pytest.mark.parametrize("newline", ["\n", "\\n"])
def test_app_gets_one_token_of_its_installation(
    newline: str, private_key: str, open_backend: Callable[..., GitHubBackend], fake: FakeGitHub
) -> None:
    app = open_backend(**_app(private_key.replace("\n", newline)))
    assert app.dispatch(INPUTS)
    assert app.look_up(INTENT)
    assert fake.asked.count("token") <= 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(UNAUTHORIZED, RefusedError), (BAD_GATEWAY, NotNowError), (DROPPED, NotNowError), (TOO_MANY, NotNowError)],
)
def test_app_without_a_token_has_started_nothing(
    fault: Fault,
    kind: type[BackendError],
    private_key: str,
    open_backend: Callable[..., GitHubBackend],
    fake: FakeGitHub,
) -> None:
    app = open_backend(**{**_app(private_key), "github_app_id": f"{fault.status}"})
    fake.faults["token"].append(fault)
    with pytest.raises(kind):
        app.dispatch(INPUTS)
    assert fake.asked == ["token"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"github_repository": ""}, "PRECALC_GITHUB_REPOSITORY is not set"),
        ({"github_token": ""}, "set PRECALC_GITHUB_TOKEN or, for an App"),
        ({"github_app_id": "12"}, "unset the one or the other"),
        ({"github_token": "", "github_app_id": "12"}, "PRECALC_GITHUB_PRIVATE_KEY and PRECALC_GITHUB_INSTALLATION"),
        (
            {"github_token": "", "github_app_id": "1", "github_private_key": "key", "github_installation": 1},
            "not a private key in PEM",
        ),
    ],
)
def test_missing_settings_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_github(github_settings(**settings))
