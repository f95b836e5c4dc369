"""What lets a reader keep an answer, and ask whether it is still the one: ETag, If-None-Match, Cache-Control, Vary."""

import re
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import Any

FRESH = "private, max-age=60"
"""What is read of a table may be a minute old already, see `CACHE_SECONDS`; kept for one more it is two at most.
Private, since whoever asks needs a key."""

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_GZIP = "-gzip"

Response = dict[str, Any]


def add_validators(response: Response, if_none_match: str) -> Response:
    """Return an answer to GET with its validators; 304 without a body if the reader has it already.

    The tag is a digest of the answer. The generation of a shard would do for its rows, but an answer also tells what
    the card says of the model, and the SMILES of another table, so this alone is exact. What a route does not want to
    be kept ("no-store") has none.
    """
    headers = response["multiValueHeaders"]
    if response["statusCode"] != HTTPStatus.OK or "no-store" in _first(headers, "Cache-Control"):
        return response
    headers.setdefault("Cache-Control", [FRESH])
    # A page has made its own.
    tag = _first(headers, "ETag").strip('"') or sha256((response["body"] or "").encode()).hexdigest()[:32]
    headers["ETag"] = [_quoted(tag)]
    known = set(_TAG.findall(if_none_match))
    held = next((t for t in (tag, tag + _GZIP) if t in known), tag if if_none_match.strip() == "*" else None)
    if held is None:
        return response
    kept = {name: headers[name] for name in ("Cache-Control", "Vary") if name in headers}
    return {
        "statusCode": HTTPStatus.NOT_MODIFIED.value,
        "body": "",
        "isBase64Encoded": False,
        "multiValueHeaders": {**kept, "ETag": [_quoted(held)]},
    }


def add_vary(response: Response, field: str) -> None:
    """Say that an answer is another one for another value of this header field."""
    headers = response["multiValueHeaders"]
    fields = [f.strip() for f in _first(headers, "Vary").split(",") if f.strip()]
    if field not in fields:
        headers["Vary"] = [", ".join([*fields, field])]


def mark_compressed(response: Response) -> None:
    """Give the compressed form of an answer a tag of its own, since its bytes are others."""
    headers = response["multiValueHeaders"]
    if "ETag" in headers:
        headers["ETag"] = [_quoted(_first(headers, "ETag").strip('"') + _GZIP)]


def _quoted(tag: str) -> str:
    return f'"{tag}"'


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    return next(iter(headers.get(name, ())), "")
