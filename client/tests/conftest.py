"""What the client's tests share. None of them needs the platform, but for those that ask whether it is missing."""

import pytest
from full_disk import no_room  # noqa: F401


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own API keys and URLs."""
    for name in ("PRECALC_API_KEY", "PRECALC_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
