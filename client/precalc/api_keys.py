"""The key of an API: from the environment, or from the machine's keyring; never from the command line.

A key on a command line is in the shell's history, and in the list of processes for everybody to see.
"""

import logging
import os
from importlib.util import find_spec
from urllib.parse import urlsplit

import httpx

from precalc.errors import UsageError
from precalc.extras import require

_log = logging.getLogger(__name__)

KEY_VARIABLE = "PRECALC_API_KEY"
_SERVICE = "precalc"
_SHOWN = 100
"""Characters of a malformed URL that a message shows."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def normal_url(url: str) -> str:
    """Return an API's URL without a slash at its end. Raises UsageError if it cannot be the URL of an API."""
    text = url.strip().rstrip("/")
    try:
        if any(character.isspace() or not character.isprintable() for character in text):
            raise ValueError("it has a blank or a control character")
        parts = urlsplit(text)
        _ = parts.port
        _ = httpx.URL(text).host  # is decoded when it is read
        _ = (parts.hostname or "").encode("idna")
    except (ValueError, httpx.InvalidURL) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{url[:_SHOWN]!r} is not the URL of an API: {reason}; write https://host/path") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{url[:_SHOWN]!r} is not the URL of an API; write https://host/path")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(f"the URL of {parts.hostname} has more than a host and a path; write https://host/path")
    return text


def check_key(url: str, key: str) -> str:
    """Return the key. Raises UsageError if it is malformed, or would cross a network unencrypted."""
    if not key:
        raise UsageError(f"no key was given for {url}; copy it from whoever runs that API")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError("the API's key has characters that no key has; copy it again")
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(
            f"a key would be sent to {parts.hostname} unencrypted; write https://, or unset {KEY_VARIABLE}"
        )
    return key


def find_key(url: str) -> str | None:
    """Return the key for an API: PRECALC_API_KEY, else the one in the keyring, else None."""
    key = os.environ.get(KEY_VARIABLE, "").strip() or _stored_key(url)
    return check_key(url, key) if key else None


def store_key(url: str, key: str) -> None:
    """Store a key in the machine's keyring. Raises UsageError if there is none, or one that stores nothing."""
    require("keyring", "keyring")
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(_SERVICE, url, check_key(url, key))
        stored = keyring.get_password(_SERVICE, url)
    except (KeyringError, OSError) as error:
        raise UsageError(_no_keyring(error)) from None
    if stored != key:
        raise UsageError(_no_keyring("it is switched off"))


def forget_key(url: str) -> bool:
    """Remove a key from the machine's keyring; return whether there was one. Raises UsageError without a keyring."""
    require("keyring", "keyring")
    import keyring
    from keyring.errors import KeyringError, PasswordDeleteError

    try:
        keyring.delete_password(_SERVICE, url)
    except PasswordDeleteError:
        return False
    except (KeyringError, OSError) as error:
        raise UsageError(_no_keyring(error)) from None
    return True


def _stored_key(url: str) -> str | None:
    """Return the keyring's key; None if it has none, is not there, or cannot be opened, which is logged."""
    if find_spec("keyring") is None:
        return None
    import keyring
    from keyring.errors import NoKeyringError

    try:
        return keyring.get_password(_SERVICE, url)
    except NoKeyringError:
        return None
    except Exception as error:  # noqa: BLE001 - a backend raises whatever its desktop raises, and many APIs want no key
        _log.warning("warning: %s", _no_keyring(error))
        return None


def _no_keyring(error: Exception | str) -> str:
    reason = str(error).partition(".")[0] or type(error).__name__
    return f"this machine's keyring cannot be used ({reason}); set {KEY_VARIABLE} in the environment instead"
