"""The key of an API: from the environment, else the keyring, never unencrypted over a network."""

import keyring
import keyring.backends.null
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, NoKeyringError, PasswordDeleteError

from precalc.api_keys import check_key, find_key, forget_key, normal_url, store_key
from precalc.errors import UsageError

URL = "https://api.example/v1"


class _Memory(KeyringBackend):
    priority = 1

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], str] = {}

    def get_password(self, service, username):
        return self.stored.get((service, username))

    def set_password(self, service, username, password):
        self.stored[service, username] = password

    def delete_password(self, service, username):
        if self.stored.pop((service, username), None) is None:
            raise PasswordDeleteError(username)


class _None(KeyringBackend):
    priority = 1

    def get_password(self, service, username):
        raise NoKeyringError("No recommended backend was available. Install one")

    def set_password(self, service, username, password):
        raise NoKeyringError("No recommended backend was available. Install one")


@pytest.fixture
def use():
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def test_stored_key_is_found_by_its_url_until_it_is_removed(use) -> None:
    use(_Memory())
    store_key(URL, "s3cret")
    assert find_key(URL) == "s3cret"
    assert find_key("https://other.example") is None
    assert forget_key(URL)
    assert not forget_key(URL)
    assert find_key(URL) is None


def test_the_environment_comes_first(use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(_Memory())
    store_key(URL, "s3cret")
    monkeypatch.setenv("PRECALC_API_KEY", " other\n")
    assert find_key(URL) == "other"


def test_storing_a_key_without_a_keyring_is_an_error(use) -> None:
    use(_None())
    assert find_key(URL) is None
    with pytest.raises(UsageError, match=r"keyring cannot be used .*PRECALC_API_KEY") as error:
        store_key(URL, "s3cret")
    assert "s3cret" not in str(error.value)
    assert not forget_key(URL)


@pytest.mark.parametrize(
    "problem", [KeyringLocked("Failed to unlock the collection!"), RuntimeError("no bus")], ids=str
)
def test_locked_keyring_is_logged_and_ignored(use, caplog, monkeypatch, problem) -> None:
    def fail(*_):
        raise problem

    backend = _Memory()
    monkeypatch.setattr(backend, "get_password", fail)
    use(backend)
    assert find_key(URL) is None
    assert f"keyring cannot be used ({problem}); set PRECALC_API_KEY" in caplog.text


def test_key_is_not_stored_in_a_disabled_keyring(use) -> None:
    use(keyring.backends.null.Keyring())
    with pytest.raises(UsageError, match="switched off"):
        store_key(URL, "s3cret")


def test_key_is_sent_unencrypted_to_this_machine_only() -> None:
    for url in (URL, "http://127.0.0.1:8000", "http://localhost", "http://[::1]:8000"):
        assert check_key(url, "k") == "k"
    with pytest.raises(UsageError, match="unencrypted"):
        check_key("http://api.example", "k")
    with pytest.raises(UsageError, match="no key was given"):
        check_key(URL, "")
    for key in ("two words", "line\nfeed", "naïve"):
        with pytest.raises(UsageError, match="copy it again"):
            check_key(URL, key)


def test_a_url_is_the_same_with_and_without_its_last_slash() -> None:
    assert normal_url(f"{URL}/ ") == URL
