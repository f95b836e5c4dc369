"""A model's table in a Glue database."""

from datetime import UTC, datetime

import pytest

from precalc_assets.cards.glue_tables import drop_glue_table, glue_columns, publish_glue_table
from precalc_assets.cards.model_card import ModelCard
from precalc_assets.columns import Column
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.settings import Settings

MODEL = "eos9abc-v2"


def column(name: str, kind: str = "float", description: str = "What it\nmeans") -> Column:
    return Column(name, kind, "", description)


def card(*columns: Column) -> ModelCard:
    return ModelCard(
        model=MODEL,
        metadata=ModelMetadata(identifier=MODEL, title="A model", release="v2.0.0"),
        columns=columns,
        n_shards=4,
        shards=("00",),
        molecules=1,
        quarantined=0,
        releases=("v2.0.0",),
        updated=datetime(2026, 11, 1, tzinfo=UTC),
    )


def settings(database: str = "cards", store_url: str = "s3://bucket/platform") -> Settings:
    return Settings(store_url=store_url, glue_database=database)


@pytest.mark.slow
def test_table_follows_the_card(aws):
    glue = aws.client("glue")
    glue.create_database(DatabaseInput={"Name": "cards"})
    publish_glue_table(settings(), card(column("Score"), column("atoms", "integer")))
    publish_glue_table(settings(), card(column("Score"), column("kind", "string", "x" * 999)))
    table = glue.get_table(DatabaseName="cards", Name="eos9abc_v2")["Table"]
    storage = table["StorageDescriptor"]
    assert storage["Location"] == f"s3://bucket/platform/predictions/model={MODEL}/"
    assert [(each["Name"], each["Type"], each["Comment"]) for each in storage["Columns"]] == [
        ("inchikey", "string", ""),
        ("smiles", "string", ""),
        ("score", "double", "What it means"),
        ("kind", "string", "x" * 255),
    ]
    assert not table.get("PartitionKeys")
    drop_glue_table(settings(), MODEL)
    assert glue.get_tables(DatabaseName="cards")["TableList"] == []
    with pytest.raises(TableError, match=r"^the table of eos9abc-v2 in the Glue database nowhere: EntityNotFound"):
        publish_glue_table(settings("nowhere"), card())


def test_nothing_is_published_without_a_database():
    publish_glue_table(settings(""), card())
    drop_glue_table(settings(""), MODEL)


def test_predictions_on_disk_have_no_table():
    with pytest.raises(UsageError, match=r"^PRECALC_GLUE_DATABASE=cards: Athena reads S3 alone"):
        publish_glue_table(settings(store_url="file:///data"), card())


def test_names_that_athena_cannot_tell_apart_have_no_column():
    columns = [column(name) for name in ("logP", "LogP", "the score", "a\tb", "é" * 200, "qed")]
    assert [each.name for each in glue_columns(columns)] == ["the score", "qed"]
