"""Answers screens by Amazon Athena, over the tables of the Glue database that `cards.glue_tables` fills.

Athena reads whatever files lie below a model's folder. So their sizes are compared with the models' tables before it is
asked, and again when it has answered: an answer is of the files that were loaded, or an error.
"""

import time
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from precalc.source import ScreenAnswer, Value
from precalc_assets import storage
from precalc_assets.aws import explain, open_session
from precalc_assets.cards.glue_tables import glue_columns, glue_table_name
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import PrecalcError, ShardError, UsageError
from precalc_assets.screening.plan import Entries, Find, Names, Plan, make_plan
from precalc_assets.screening.query import Query
from precalc_assets.screening.sql import quoted, write_sql
from precalc_assets.tables import KeyValueStore

_LONGEST_SQL = 262_144
"""Bytes of a query (Amazon Athena API Reference, StartQueryExecution)."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0
"""Seconds between two looks at a query's state. Athena itself ends a query after 30 minutes (its quotas)."""
_READ: dict[str, Any] = {"float": float, "integer": int, "string": str}


class AthenaEngine:
    """Answers screens by the workgroup that has the name of the Glue database.

    `find` returns a model's entry, None for an unknown model; `names` returns all models.
    """

    def __init__(self, store: ObjectStore, find: Find, names: Names, database: str) -> None:
        self._store = store
        self._find = find
        self._names = names
        self._database = database

    def answer(self, query: Query) -> ScreenAnswer:
        """Answer a screen.

        Raises UsageError as `make_plan`, and for what Athena cannot do; ShardError for files that are not those that
        the models' tables were loaded from; PrecalcError if Athena fails.
        """
        if query.distributions:
            raise UsageError("Athena counts no distributions; leave --engine out to have them")
        plan = make_plan(query, self._find, self._names)
        for name, column in plan.columns.items():
            if column not in glue_columns(plan.entries[name.partition(".")[0]].reader.columns):
                raise UsageError(f"{name} has a name that Athena cannot tell from another one; leave --engine out")
        statements = write_sql(plan, lambda model: f"{quoted(self._database)}.{quoted(glue_table_name(model))}")
        self._check_files(plan)
        try:
            client = open_session().client("athena")
            (screened, matched), *_ = self._run(client, statements.count)
            rows = self._run(client, statements.rows) if query.limit and int(matched or 0) else []
        except (BotoCoreError, ClientError) as error:
            raise PrecalcError(f"Athena, workgroup {self._database}: {explain(error)}") from error
        self._check_files(plan)
        readers = [str, str, *(_READ[plan.columns[name].type] for name in query.selected)]
        typed: list[list[Value]] = [
            [None if text is None else read(text) for read, text in zip(readers, row, strict=True)] for row in rows
        ]
        return plan.answer(int(matched or 0), int(screened or 0), typed)

    def _check_files(self, plan: Plan) -> None:
        """Raise ShardError if the files of a model are not those that its table was loaded from."""
        for model, entry in plan.entries.items():
            loaded = {storage.predictions(model, shard): each.file_bytes for shard, each in entry.directories.items()}
            prefix = storage.predictions(model, "").rpartition("/")[0]
            try:
                stored = storage.list_sizes(self._store, prefix)
            except BaseError as error:
                raise ShardError(f"{prefix} cannot be listed: {reason(error)}") from None
            if wrong := stored.items() ^ loaded.items():
                raise ShardError(
                    f"{min(wrong)[0]} is not what the table of {model} was loaded from, and Athena reads every file; "
                    f"wait until loading has ended, run `precalc load {model}`, or leave --engine out"
                )

    def _run(self, client: Any, sql: str) -> list[list[str | None]]:  # noqa: ANN401 - boto3 has no types of its own
        """Run a statement and return its rows. Raises PrecalcError if it fails."""
        if len(sql.encode()) > _LONGEST_SQL:
            raise UsageError(
                f"the question is longer than the {_LONGEST_SQL:,} bytes that Athena takes; shorten its lists"
            )
        query = client.start_query_execution(QueryString=sql, WorkGroup=self._database)["QueryExecutionId"]
        try:
            _wait(client, query)
        except BaseException:
            # Also when a person interrupts: what it scans is paid for. The first error is the one to tell.
            with suppress(BotoCoreError, ClientError):
                client.stop_query_execution(QueryExecutionId=query)
            raise
        pages = client.get_paginator("get_query_results").paginate(QueryExecutionId=query)
        rows = [row["Data"] for page in pages for row in page["ResultSet"]["Rows"]]
        # The first row has the names of the columns, and a null is a cell without a value.
        return [[cell.get("VarCharValue") for cell in row] for row in rows[1:]]


def open_athena(store: ObjectStore, tables: KeyValueStore, database: str) -> AthenaEngine:
    """Return an engine over a Glue database. Raises UsageError if none is named."""
    if not database:
        raise UsageError("--engine athena needs PRECALC_GLUE_DATABASE, the database that publishing fills; set it")
    entries = Entries(tables)
    return AthenaEngine(store, entries.find, entries.names, database)


def _wait(client: Any, query: str) -> None:  # noqa: ANN401
    """Wait until a query has succeeded. Raises PrecalcError if it fails."""
    pause = _FIRST_PAUSE
    while True:
        status = client.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]
        if status["State"] == "SUCCEEDED":
            return
        if status["State"] in ("FAILED", "CANCELLED"):
            why = " ".join(status.get("StateChangeReason", "").split()) or "it gives no reason"
            raise PrecalcError(
                f"Athena's query {query} ended as {status['State']}: {why}; `precalc load MODEL` publishes a table "
                "that is missing, and the workgroup limits the bytes of a query"
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
