"""A model's table in a Glue database, by which Athena reads its Parquet files.

A table is a location and columns: every file below `predictions/model=…/` is in it as soon as it is written. Athena
finds columns in the files by their names, in which it does not tell upper from lower case.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from precalc_assets import storage
from precalc_assets.cards.model_card import ModelCard
from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.settings import Settings

_TYPES = {"float": "double", "integer": "bigint", "string": "string"}
# AWS Glue API Reference, "Column structure" and "TableInput structure".
_LONGEST_NAME, _LONGEST_COMMENT, _LONGEST_DESCRIPTION = 255, 255, 2048
_PARQUET = "org.apache.hadoop.hive.ql.io.parquet"


def publish_glue_table(settings: Settings, card: ModelCard) -> None:
    """Put a model's table into the Glue database that the settings name, if they do; it replaces an earlier one.

    Raises UsageError if predictions are not on S3, TableError if Glue refuses.
    """
    if not settings.glue_database:
        return
    if not settings.store_url.startswith("s3://"):
        raise UsageError(
            f"PRECALC_GLUE_DATABASE={settings.glue_database}: Athena reads S3 alone, and PRECALC_STORE_URL is "
            f"{settings.store_url}; unset the former"
        )
    table = _describe(settings, card)
    with _glue(settings.glue_database, card.model) as glue:
        try:
            glue.create_table(DatabaseName=settings.glue_database, TableInput=table)
        except glue.exceptions.AlreadyExistsException:
            glue.update_table(DatabaseName=settings.glue_database, TableInput=table, SkipArchive=True)


def drop_glue_table(settings: Settings, model: str) -> None:
    """Drop a model's table of the Glue database that the settings name, if there is one. Raises TableError."""
    if settings.glue_database:
        with _glue(settings.glue_database, model) as glue:
            try:
                glue.delete_table(DatabaseName=settings.glue_database, Name=glue_table_name(model))
            except glue.exceptions.EntityNotFoundException:
                return


def glue_table_name(model: str) -> str:
    """Return the name of a model's table: its id, with _ in place of the - that a MAJOR version brings."""
    return model.replace("-", "_")


def glue_columns(columns: Sequence[Column]) -> list[Column]:
    """Return the columns that Athena can tell apart and name ("Name databases, tables, and columns")."""
    counts = Counter(column.name.lower() for column in columns)
    return [
        column
        for column in columns
        if counts[column.name.lower()] == 1
        and column.name.isprintable()
        and len(column.name.lower().encode()) <= _LONGEST_NAME
    ]


def _describe(settings: Settings, card: ModelCard) -> dict[str, Any]:
    """Return the table of a model as Glue takes it."""
    columns = [Column("inchikey", "string", "", ""), Column("smiles", "string", "", ""), *glue_columns(card.columns)]
    prefix = storage.predictions(card.model, "").rpartition("/")[0]
    return {
        "Name": glue_table_name(card.model),
        "Description": _one_line(card.metadata.title or card.model, _LONGEST_DESCRIPTION),
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
        "StorageDescriptor": {
            "Columns": [
                {
                    "Name": column.name.lower(),
                    "Type": _TYPES[column.type],
                    "Comment": _one_line(column.description, _LONGEST_COMMENT),
                }
                for column in columns
            ],
            "Location": f"{settings.store_url.rstrip('/')}/{prefix}/",
            "InputFormat": f"{_PARQUET}.MapredParquetInputFormat",
            "OutputFormat": f"{_PARQUET}.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_PARQUET}.serde.ParquetHiveSerDe"},
        },
    }


def _one_line(text: str, longest: int) -> str:
    return " ".join(text.split())[:longest]


@contextmanager
def _glue(database: str, model: str) -> Iterator[Any]:
    """Yield a client of Glue. Raises TableError in place of its errors."""
    # boto3 takes a third of a second to load, and an installation without Glue needs none of it.
    from botocore.exceptions import BotoCoreError, ClientError

    from precalc_assets.aws import explain, open_session

    try:
        yield open_session().client("glue")
    except (BotoCoreError, ClientError) as error:
        raise TableError(f"the table of {model} in the Glue database {database}: {explain(error)}") from error
