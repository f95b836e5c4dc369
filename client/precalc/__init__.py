"""Read precalculated predictions of the Ersilia Model Hub: from an API, or with the platform from its tables.

`Client` is for Python, `cli` for the terminal. `source` says what predictions are read from; `remote` is an API, whose
answers `bounded_answers` bounds, `reasons` says why a model failed, and `plugins` finds what the platform adds.
`molecules` reads molecules and finds their InChIKeys, `getting` writes their predictions into files of `formats`,
`joining` reads several models as one, `partial_files` lets an interrupted file continue, and `downloading` fetches
whole files.
"""

from typing import TYPE_CHECKING

from precalc.errors import ApiError, ChangedError, DownloadError, PrecalcError, UsageError

if TYPE_CHECKING:
    from precalc.client import Client

__all__ = ["ApiError", "ChangedError", "Client", "DownloadError", "PrecalcError", "UsageError"]


def __getattr__(name: str) -> object:
    """Import `Client` on first use: the platform's Lambdas import this package for its errors alone."""
    if name == "Client":
        from precalc.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
