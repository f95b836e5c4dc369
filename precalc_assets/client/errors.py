"""What readers' work fails of, beside what the tables and the library fail of themselves."""

from precalc_assets.errors import PrecalcError


class ApiError(PrecalcError):
    """An API did not answer, or not as asked; `status` and `code` are its own, 0 and empty if it said nothing."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ChangedError(PrecalcError):
    """A model was loaded anew while it was read: what was read before is not of the same release or library."""


class DownloadError(PrecalcError):
    """A file could not be downloaded, or is not the one that was promised."""
