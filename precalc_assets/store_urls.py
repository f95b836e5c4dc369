"""The URLs of the object store and of the tables. Standard library only: the Lambda imports this module.

They are checked wherever one is opened, and as soon as the settings are read, so that no command stops halfway.
"""

import re
from urllib.parse import urlsplit

from precalc_assets.platform_errors import UsageError

_FOLDER = r"file://(?=/|\./|\.\./|~)[^\x00-\x1f]*[^\x00-\x1f/.~][^\x00-\x1f]*"
_BUCKET = r"s3://[A-Za-z0-9][\w.-]{1,254}(/[^\x00-\x1f?#]*)?"
_STORE = re.compile(rf"{_FOLDER}|{_BUCKET}", re.ASCII)

_FILE = r"sqlite:///[^\x00-\x1f:][^\x00-\x1f]*(?<!/)"
_TABLE_PREFIX = r"dynamodb://[a-z]{2,}(-[a-z]+)+-\d+/[\w.-]{1,200}"
_TABLES = re.compile(rf"{_FILE}|{_TABLE_PREFIX}", re.ASCII)


def is_server_url(text: str) -> bool:
    """Return whether a text is the URL of a server, with a port that exists if it names one."""
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"[!-~]+", text) is not None
    except ValueError:
        return False


def check_store_url(url: str) -> str:
    """Return the URL of a folder or bucket. Raises UsageError for any other text."""
    if not _STORE.fullmatch(url):
        raise UsageError(f"PRECALC_STORE_URL={url[:200]!r} is not a store; write file:///folder or s3://bucket")
    return url


def check_tables_url(url: str) -> str:
    """Return the URL of a SQLite file, or of a region of AWS and a prefix. Raises UsageError for any other text."""
    if not _TABLES.fullmatch(url):
        raise UsageError(
            f"PRECALC_TABLES_URL={url[:200]!r} is not a table store; write sqlite:///./path/tables.db or "
            "dynamodb://eu-central-1/precalc"
        )
    return url
