"""The errors that a person is meant to read: one line that names the thing, the reason and what to do.

The command line prints them without a traceback and exits with their `exit_code`. Standard library only: the platform
builds its own errors on these, also in its Lambdas.
"""


class PrecalcError(Exception):
    """The work could not be done; the message says what to do about it."""

    exit_code = 1


class UsageError(PrecalcError):
    """The request names something that does not exist, or is not well formed: it has to change."""

    exit_code = 2


class MoleculeFileError(PrecalcError):
    """A file of molecules is missing, empty, damaged or unreadable."""


class OneModelError(PrecalcError):
    """One model cannot be read or run; the others are not concerned."""


class ChangedError(OneModelError):
    """A model was loaded again while it was read: earlier rows are of another release or library."""


class ApiError(PrecalcError):
    """An API did not answer, or refused; `status` and `code` are those of its answer, 0 and empty if it gave none."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class DownloadError(PrecalcError):
    """A file could not be downloaded, or its content is not the one that was listed."""
