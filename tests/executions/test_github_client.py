"""The client over HTTP: what it makes of each fault, what it asks for again, and how it shows who it is."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from conftest import github_settings
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
)
from simulation import MEANINGS

from precalc_assets.errors import UsageError
from precalc_assets.executions.github import (
    GitHubClient,
    GitHubError,
    NotNowError,
    RefusedError,
    UnansweredError,
    open_github,
)

INPUTS = {"model-id": "eos9abc", "shards": "00-03", "key": "eos9abc-0001"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def private_key() -> str:
    """An App's private key in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(*pem, serialization.NoEncryption()).decode()


def test_a_dispatch_answers_with_the_run(client: GitHubClient, fake: FakeGitHub) -> None:
    run = client.dispatch(INPUTS)
    assert run is not None
    assert fake.runs[run.run_id].inputs == INPUTS
    assert run.url.endswith(f"/actions/runs/{run.run_id}")


@pytest.mark.parametrize("name", MEANINGS)
def test_a_dispatch_is_sent_once_whatever_comes_back(name: str, client: GitHubClient, fake: FakeGitHub) -> None:
    fault, kind = MEANINGS[name]
    fake.faults["dispatch"].append(fault)
    with pytest.raises(GitHubError, match=fault.message.replace("[", r"\[") or "no answer") as error:
        client.dispatch(INPUTS)
    assert type(error.value) is kind
    assert fake.asked == ["dispatch"]
    assert len(fake.runs) == fault.done


@pytest.mark.parametrize(("fault", "seconds"), [(TOO_MANY, 30), (SECONDARY, 45), (SECONDARY_BARE, 60)])
def test_a_limit_is_waited_for_as_told_and_for_a_minute_where_nothing_is_told(
    fault: Fault, seconds: int, client: GitHubClient, fake: FakeGitHub
) -> None:
    fake.faults["dispatch"].append(fault)
    with pytest.raises(NotNowError) as error:
        client.dispatch(INPUTS)
    assert error.value.wait == timedelta(seconds=seconds)


def test_a_used_up_limit_is_waited_for_until_it_is_reset(client: GitHubClient, fake: FakeGitHub) -> None:
    reset = datetime.now(UTC) + timedelta(minutes=20)
    headers = {**USED_UP.headers, "x-ratelimit-reset": str(int(reset.timestamp()))}
    fake.faults["dispatch"].append(Fault(403, USED_UP.message, headers))
    with pytest.raises(NotNowError) as error:
        client.dispatch(INPUTS)
    assert timedelta(minutes=19) < error.value.wait <= timedelta(minutes=20)


def test_an_answer_that_does_not_come_in_time_leaves_open_what_was_done(
    open_client: Callable[..., GitHubClient], fake: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precalc_assets.executions.github._TIMEOUT", 0.2)
    client = open_client()
    fake.before_answer = lambda *_: time.sleep(0.6)
    with pytest.raises(UnansweredError, match="no answer to POST"):
        client.dispatch(INPUTS)
    assert len(fake.runs) == 1


def test_a_github_that_is_not_reached_has_started_nothing() -> None:
    with pytest.raises(NotNowError, match="no answer to POST"):
        open_github(github_settings(), read_pauses=()).dispatch(INPUTS)


@pytest.mark.parametrize("fault", [BAD_GATEWAY, DROPPED])
def test_a_read_is_tried_again_and_not_for_ever(fault: Fault, client: GitHubClient, fake: FakeGitHub) -> None:
    fake.faults["list_runs"].extend([fault, fault])
    assert client.list_runs(LONG_AGO) == []
    fake.faults["list_runs"].extend([fault, fault, fault])
    with pytest.raises(UnansweredError):
        client.list_runs(LONG_AGO)
    assert len(fake.asked) == 6


@pytest.mark.parametrize("fault", [TOO_MANY, USED_UP, UNAUTHORIZED])
def test_a_read_that_is_refused_is_not_tried_again(fault: Fault, client: GitHubClient, fake: FakeGitHub) -> None:
    fake.faults["get_run"].append(fault)
    with pytest.raises(GitHubError):
        client.get_run(1)
    assert fake.asked == ["get_run"]


def test_lists_are_read_to_their_end(client: GitHubClient, fake: FakeGitHub) -> None:
    for _ in range(230):
        run_id = fake.dispatch("main", INPUTS)
    for number in range(256):
        fake.add_job(run_id, f"Predict {number}")
    assert len(client.list_runs(LONG_AGO)) == 230
    assert {job.name for job in client.list_jobs(run_id)} == {f"Predict {number}" for number in range(256)}


def test_runs_are_read_no_further_back_than_asked(client: GitHubClient, fake: FakeGitHub) -> None:
    for _ in range(230):
        fake.runs[fake.dispatch("main", INPUTS)].created_at = LONG_AGO
    recent = fake.dispatch("main", INPUTS)
    fake.asked.clear()
    assert [run.id for run in client.list_runs(LONG_AGO + timedelta(days=1))] == [recent]
    assert fake.asked == ["list_runs"]


def test_a_run_that_ended_cannot_be_cancelled(client: GitHubClient, fake: FakeGitHub) -> None:
    run_id = fake.dispatch("main", INPUTS)
    client.cancel(run_id)
    assert client.get_run(run_id).conclusion == "cancelled"
    with pytest.raises(RefusedError, match="completed") as error:
        client.cancel(run_id, force=True)
    assert error.value.status == 409


def _app(private_key: str) -> dict[str, object]:
    return {
        "github_token": "",
        "github_app_id": "12",
        "github_private_key": private_key,
        "github_installation": INSTALLATION,
    }


@pytest.mark.parametrize("newline", ["\n", "\\n"])
def test_an_app_gets_a_token_of_its_installation_once(
    newline: str, private_key: str, open_client: Callable[..., GitHubClient], fake: FakeGitHub
) -> None:
    app = open_client(**_app(private_key.replace("\n", newline)))
    assert app.dispatch(INPUTS)
    assert app.list_runs(LONG_AGO)
    assert fake.asked.count("token") <= 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(UNAUTHORIZED, RefusedError), (BAD_GATEWAY, NotNowError), (DROPPED, NotNowError), (TOO_MANY, NotNowError)],
)
def test_an_app_without_a_token_has_started_nothing(
    fault: Fault, kind: type[GitHubError], private_key: str, open_client: Callable[..., GitHubClient], fake: FakeGitHub
) -> None:
    app = open_client(**{**_app(private_key), "github_app_id": f"{fault.status}"})
    fake.faults["token"].append(fault)
    with pytest.raises(kind):
        app.dispatch(INPUTS)
    assert fake.asked == ["token"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"github_repository": ""}, "PRECALC_GITHUB_REPOSITORY is not set"),
        ({"github_token": ""}, "set PRECALC_GITHUB_TOKEN, or, for an App"),
        ({"github_app_id": "12"}, "unset the ones or the other"),
        ({"github_token": "", "github_app_id": "12"}, "PRECALC_GITHUB_PRIVATE_KEY and PRECALC_GITHUB_INSTALLATION"),
        (
            {"github_token": "", "github_app_id": "1", "github_private_key": "key", "github_installation": 1},
            "no private key in PEM",
        ),
    ],
)
def test_settings_that_do_not_say_enough_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_github(github_settings(**settings))
