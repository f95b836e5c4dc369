"""Answers of an API within a bound: httpx decompresses without one, and some MB can stand for as many GB."""

import zlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import cast

import httpx

from precalc.errors import ApiError

MAX_ANSWER_BYTES = 32 << 20
"""The longest answer, decompressed. A hundred thousand values take 2 MB, and Python some times as much."""

_GZIP = 16 + zlib.MAX_WBITS


class BoundedTransport(httpx.BaseTransport):
    """Passes on what an inner transport answers, decompressed."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer; reading its body raises ApiError of status 413 if that is too long."""
        request.headers["accept-encoding"] = "gzip"
        response = self._inner.handle_request(request)
        encoding = response.headers.pop("content-encoding", "identity")
        if encoding not in ("identity", "gzip"):
            raise httpx.DecodingError(f"its encoding is {encoding!r}, not the gzip that it was asked for")
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_BoundedStream(response, str(request.url.copy_with(query=None)), is_gzip=encoding == "gzip"),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """See `BaseTransport.close`."""
        self._inner.close()


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, response: httpx.Response, url: str, *, is_gzip: bool) -> None:
        self._stream = cast(httpx.SyncByteStream, response.stream)
        self._url = url
        self._is_gzip = is_gzip

    def __iter__(self) -> Iterator[bytes]:
        """Yield the content. Raises ApiError beyond the bound."""
        left = MAX_ANSWER_BYTES
        gzip = zlib.decompressobj(_GZIP)
        for raw in self._stream:
            try:
                content = gzip.decompress(raw, left + 1) if self._is_gzip else raw
            except zlib.error as error:
                raise httpx.DecodingError(str(error)) from None
            left -= len(content)
            if left < 0:
                raise ApiError(
                    f"{self._url} answers with more than {MAX_ANSWER_BYTES >> 20} MB; is it the URL of a precalc API?",
                    status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                )
            yield content
        if self._is_gzip and not gzip.eof:
            raise httpx.DecodingError("its compressed content is cut short")

    def close(self) -> None:
        self._stream.close()
