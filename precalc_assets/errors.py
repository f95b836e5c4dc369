"""The errors that a person is meant to read: one line that names the thing, the reason and the way out.

The command line prints them without a traceback and exits with their `exit_code`; Dagster shows them as the
failure's description. Anything that is not one of these is a defect of ours and keeps its traceback.
"""


class PrecalcError(Exception):
    """The work could not be done; the message says what to do about it."""

    exit_code = 1


class UsageError(PrecalcError):
    """What was asked for does not exist or is not well formed: the request has to change."""

    exit_code = 2


class LibraryError(PrecalcError):
    """The reference library, or a shard of it, is missing, empty, damaged or unreadable."""


class ModelError(PrecalcError):
    """The model as a whole cannot be used: trying its other shards would end the same way."""


class ColumnsError(ModelError):
    """A model's output has other columns than its run_columns.csv declares."""


class ShardError(PrecalcError):
    """One shard of one model failed; the others are not concerned."""


class TableError(PrecalcError):
    """A prediction table is missing, damaged, in use by another load, or cannot hold what it was given."""


class MissingTableError(TableError):
    """There is no such table, or nothing was ever loaded into it."""


class ExecutionError(PrecalcError):
    """An execution on GitHub's runners cannot be launched, followed or claimed; the others are not concerned."""
