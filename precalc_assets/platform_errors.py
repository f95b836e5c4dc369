"""The platform's errors, and those that it shares with the client.

A message says what failed, on which thing, why, and what helps. The command line prints it without a traceback and
exits with the error's `exit_code`; Dagster shows it as the failure's description. Any other exception is a defect and
keeps its traceback.
"""

from precalc.errors import OneModelError
from precalc.errors import PrecalcError as PrecalcError
from precalc.errors import UsageError as UsageError


class LibraryError(PrecalcError):
    """The reference library, or a shard of it, is missing, empty, damaged or unreadable."""


class ModelError(OneModelError):
    """The model as a whole cannot be used, so its other shards would fail, too."""


class InfrastructureError(ModelError):
    """The machine, its programs or its network are at fault and not the model: another attempt may succeed."""


class ColumnsError(ModelError):
    """A model's output has other columns than its run_columns.csv declares."""


class ShardError(PrecalcError):
    """One shard of one model failed; the others are not affected."""


class TableError(OneModelError):
    """A prediction table is missing, damaged, in use by another load, or cannot hold the rows."""


class MissingTableError(TableError):
    """The table does not exist, or nothing was ever loaded into it."""


class ExecutionError(PrecalcError):
    """An execution cannot be launched, followed or claimed; the others are not affected."""


class CampaignError(PrecalcError):
    """A campaign is not in a state for what was asked, or its records are damaged."""


def is_models_fault(error: BaseException) -> bool:
    """Return whether a model failed in a way in which it would on any machine: unknown, refused, or broken."""
    return isinstance(error, ModelError | UsageError) and not isinstance(error, InfrastructureError)
