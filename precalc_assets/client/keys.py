"""The key that an API wants: from the environment, or from the machine's own keyring. Never from a command line.

A key on a command line is in the shell's history, and in the list of processes for everybody to see.
"""

import logging
import os
from urllib.parse import urlsplit

from precalc_assets.errors import UsageError

_log = logging.getLogger(__name__)

KEY_VARIABLE = "PRECALC_API_KEY"
_SERVICE = "precalc"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def normal_url(url: str) -> str:
    """Return an API's URL without its last slash. Raises UsageError for what is no URL of an API."""
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not the URL of an API: {error}; write https://host/path") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{url!r} is not the URL of an API; write https://host/path")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(f"the URL of {parts.hostname} has more than a host and a path; write https://host/path")
    return text


def check_key(url: str, key: str) -> str:
    """Return a key that may be sent. Raises UsageError for one that is no key, or would cross a network in clear."""
    if not key:
        raise UsageError(f"no key was given for {url}; copy it from whoever runs that API")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError("the API's key has characters that no key has; copy it again")
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(f"a key would be sent to {parts.hostname} in clear; write https://, or unset {KEY_VARIABLE}")
    return key


def find_key(url: str) -> str | None:
    """Return the key for an API: that of PRECALC_API_KEY, or else of the keyring; None if neither has one."""
    key = os.environ.get(KEY_VARIABLE, "").strip() or _stored_key(url)
    return check_key(url, key) if key else None


def store_key(url: str, key: str) -> None:
    """Keep a key in the machine's keyring. Raises UsageError where there is none, or one that keeps nothing."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(_SERVICE, url, check_key(url, key))
        kept = keyring.get_password(_SERVICE, url)
    except (KeyringError, OSError) as error:
        raise UsageError(_no_keyring(error)) from None
    if kept != key:
        raise UsageError(_no_keyring("it is switched off"))


def forget_key(url: str) -> bool:
    """Remove a key from the machine's keyring; return whether there was one. Raises UsageError without a keyring."""
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
    """Return what the keyring has; None where it has nothing, is not there, or, which is told, cannot be opened."""
    import keyring
    from keyring.errors import NoKeyringError

    try:
        return keyring.get_password(_SERVICE, url)
    except NoKeyringError:
        return None
    except Exception as error:  # noqa: BLE001 - a backend raises what its desktop does, and many an API wants no key
        _log.warning("warning: %s", _no_keyring(error))
        return None


def _no_keyring(error: Exception | str) -> str:
    reason = str(error).partition(".")[0] or type(error).__name__
    return f"this machine's keyring cannot be used ({reason}); set {KEY_VARIABLE} in the environment instead"
