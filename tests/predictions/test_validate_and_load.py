"""From raw predictions to Parquet to the table: values stay equal, and invalid data are refused."""

import csv
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from table_doubles import damage

from precalc_assets.cards.publishing import make_card
from precalc_assets.emptied_cells import EmptiedColumn, merge_emptied
from precalc_assets.library.library_manifest import read_manifest, read_shard
from precalc_assets.predictions import loading, parquet, shard_manifest
from precalc_assets.predictions.loading import load_library_shards, verify_shards
from precalc_assets.predictions.parquet import copy_predictions, open_parquet
from precalc_assets.predictions.shard_manifest import require_manifest
from precalc_assets.predictions.validate import PREDICTION_CHECKS
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys
from precalc_assets.tables import LIBRARY, Item, TableReader

MODEL = "eos9abc"
SHARDS = shard_keys(4)

PRINTED = (
    ('1.0e-05,2.0,"two\nlines"', (1.0e-05, 2, "two\nlines")),
    ("-0.0,9223372036854775807,NA", (-0.0, 9223372036854775807, "NA")),
    ('5e-324,-9223372036854775808,""', (5e-324, -9223372036854775808, "")),
    ("1e308,,", (1e308, None, None)),
    ('-1.7976931348623157e308,0,"ünï🧪, ""x"""', (-1.7976931348623157e308, 0, 'ünï🧪, "x"')),
    ("nan,NA,x", (None, None, "x")),
    ("0.30000000000000004,9007199254740993," + "long" * 2000, (0.30000000000000004, 9007199254740993, "long" * 2000)),
    (",,", (None, None, None)),
    ("2,1e3, padded ", (2.0, 1000, " padded ")),
    ("inf,7,inf", (None, 7, "inf")),
    ("-1e400,9223372036854775808,NaN", (None, None, "NaN")),
    ('"invalid value, (MAXsLi)",1.5,x', (None, None, "x")),
)


EMPTIED = {
    "score": {9: "inf", 10: "-1e400", 11: "invalid value, (MAXsLi)"},
    "atoms": {10: "9223372036854775808", 11: "1.5"},
}
"""The cells of PRINTED that are not of their column's type, by line."""


def write_odd_model(world) -> None:
    """Write a model that prints a line of PRINTED, chosen by the length of the molecule."""
    world.write_model(answer=f"return {[line for line, _ in PRINTED]!r}[len(smiles) % {len(PRINTED)}]")


def expected(smiles: str) -> tuple[object, ...]:
    return PRINTED[len(smiles) % len(PRINTED)][1]


@pytest.fixture(scope="module")
def predicted_once(make_world):
    world = make_world("odd")
    write_odd_model(world)
    world.build_library()
    assert [outcome.failure for outcome in world.predict()] == [""] * len(SHARDS)
    return world


@pytest.fixture(scope="module")
def validated_once(make_world, predicted_once):
    world = make_world("validated").copy(predicted_once)
    assert [outcome.failure for outcome in world.validate()] == [""] * len(SHARDS)
    return world


@pytest.fixture
def validated(world, validated_once):
    return world.copy(validated_once)


def parquet_path(world, shard: str) -> Path:
    return world.path(f"predictions/model={MODEL}/shard={shard}.parquet")


def table_rows(world, shard: str) -> list[object]:
    reader = TableReader(world.tables, MODEL)
    return reader.get(read_shard(world.store, read_manifest(world.store), shard)["inchikey"].to_pylist())


def file_rows(world, shard: str) -> list[tuple[object, ...]]:
    name = f"predictions/model={MODEL}/shard={shard}.parquet"
    with copy_predictions(world.store, name) as copy, open_parquet(copy.path, name) as (parquet, _):
        return list(zip(*parquet.read(["score", "atoms", "label"]).to_pydict().values(), strict=True))


def test_predictions_are_typed_and_equal_what_was_printed(validated) -> None:
    seen = set()
    for shard in SHARDS:
        table = pq.read_table(parquet_path(validated, shard), partitioning=None)
        assert table.schema.names == ["inchikey", "smiles", "score", "atoms", "label"]
        assert table.schema.types == [pa.string(), pa.string(), pa.float64(), pa.int64(), pa.string()]
        given = read_shard(validated.store, read_manifest(validated.store), shard)
        assert table.select(["inchikey", "smiles"]).equals(given)
        for row in table.to_pylist():
            assert repr((row["score"], row["atoms"], row["label"])) == repr(expected(row["smiles"]))
            seen.add(len(row["smiles"]) % len(PRINTED))
    assert seen == set(range(len(PRINTED)))


def test_row_groups_have_minimum_maximum_and_null_count(validated) -> None:
    name = f"predictions/model={MODEL}/shard=00.parquet"
    with copy_predictions(validated.store, name) as copy, open_parquet(copy.path, name) as (parquet, _):
        scores = parquet.read()["score"].to_pylist()
        column = parquet.schema_arrow.get_field_index("score")
        parts = [parquet.metadata.row_group(at).column(column).statistics for at in range(parquet.num_row_groups)]
    known = [score for score in scores if score is not None]
    assert (min(part.min for part in parts), max(part.max for part in parts)) == (min(known), max(known))
    assert sum(part.null_count for part in parts) == len(scores) - len(known)


def test_predictions_are_one_table_with_hive_partitions(validated) -> None:
    partitioning = ds.partitioning(pa.schema([("model", pa.string())]), flavor="hive")
    dataset = ds.dataset(validated.root / "store" / "predictions", format="parquet", partitioning=partitioning)
    table = dataset.to_table()
    assert table.num_rows == 60
    assert set(table["model"].to_pylist()) == {MODEL}
    assert dataset.to_table(filter=ds.field("atoms") == 9007199254740993)["score"].to_pylist()[0] == 0.30000000000000004


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_table_equals_the_file_and_the_printed_text(predicted, monkeypatch, size: str) -> None:
    validated = predicted
    if size == "large":
        # As if shards, parts and row groups were too large for memory.
        for module, name, value in (
            (shard_manifest, "_BLOCK_BYTES", 64),
            (shard_manifest, "_FIRST_BYTES", 16),
            (parquet, "_GROUP_CELLS", 9),
            (parquet, "_MOST_CHUNKS", 5),
            (parquet, "_LARGE_FOOTER", 0),
            (loading, "_KEPT_BYTES", 0),
            (loading, "_SPOOLED_COLUMNS", 3),
        ):
            monkeypatch.setattr(module, name, value)
    assert [outcome.failure for outcome in validated.validate()] == [""] * len(SHARDS)
    outcomes = validated.load()
    assert [outcome.failure for outcome in outcomes] == [""] * len(SHARDS)
    assert all(check.passed for outcome in outcomes for check in outcome.checks)
    for shard in SHARDS:
        assert repr(table_rows(validated, shard)) == repr(file_rows(validated, shard))
        smiles = read_shard(validated.store, read_manifest(validated.store), shard)["smiles"].to_pylist()
        assert repr(table_rows(validated, shard)) == repr([expected(text) for text in smiles])


def test_loading_again_writes_nothing(validated) -> None:
    first = validated.load()
    again = validated.load()
    assert sum(outcome.facts["write_units"] for outcome in first) > 0
    assert sum(outcome.facts["write_units"] for outcome in again) == 0
    assert [outcome.digest for outcome in again] == [outcome.digest for outcome in first]


def test_the_table_names_its_file_even_after_a_rewrite(validated) -> None:
    validated.load()
    before = TableReader(validated.tables, MODEL).directories()
    path = parquet_path(validated, "01")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata(pq.read_metadata(path).metadata), path, compression="gzip")
    again = {outcome.shard: outcome for outcome in validated.load()}
    assert [outcome.failure for outcome in again.values()] == [""] * len(SHARDS)
    assert {shard: outcome.facts["write_units"] for shard, outcome in again.items() if shard != "01"} == {
        shard: 0 for shard in SHARDS if shard != "01"
    }
    assert again["01"].facts["write_units"] == 1
    directories = TableReader(validated.tables, MODEL).directories()
    for shard, directory in directories.items():
        content = parquet_path(validated, shard).read_bytes()
        assert (directory.file_bytes, directory.file_sha256) == (len(content), sha256(content).hexdigest())
        assert directory.generation == before[shard].generation
    assert directories["01"].file_sha256 != before["01"].file_sha256


def test_each_shard_carries_every_check(validated) -> None:
    for outcome in validated.validate():
        assert {check.name for check in outcome.checks} == set(PREDICTION_CHECKS)
        assert all(check.passed for check in outcome.checks)
    assert {check.name for outcome in validated.load() for check in outcome.checks} == {"row_count", "read_back"}


def test_without_raw_predictions_each_shard_says_what_to_run(world) -> None:
    world.write_model()
    world.build_library()
    for outcome in world.validate():
        assert f"`precalc predict {MODEL}`" in outcome.failure
    assert not world.objects("predictions")


def test_without_predictions_each_shard_says_that_there_are_none(predicted) -> None:
    for outcome in predicted.load():
        assert "there are no predictions for this shard; run `precalc load`" in outcome.failure


def test_raw_predictions_of_an_older_shard_are_refused(validated) -> None:
    before = read_manifest(validated.store)
    files = validated.objects("predictions")
    library = validated.build_library(["C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl")] + ["CBr"])
    (changed,) = [shard for shard in SHARDS if library.shards[shard].digest != before.shards[shard].digest]
    outcomes = {outcome.shard: outcome.failure for outcome in validated.validate()}
    assert "another version of the library" in outcomes[changed]
    assert f"`precalc predict {MODEL} --shards {changed}`" in outcomes.pop(changed)
    assert set(outcomes.values()) == {""}
    name = f"predictions/model={MODEL}/shard={changed}.parquet"
    assert validated.objects("predictions")[name] == files[name]


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_a_refused_shard_keeps_its_earlier_predictions(validated, limit: float) -> None:
    given = read_shard(validated.store, read_manifest(validated.store), "01")["smiles"].to_pylist()
    bad = given[::4]
    files = validated.objects("predictions")
    validated.write_model(release="v2", answer=f"return 'x,,' if smiles in {bad!r} else '1,1,x'")
    validated.predict(max_failure_rate=1.0)
    outcomes = {outcome.shard: outcome for outcome in validated.validate(max_failure_rate=limit)}
    assert f"{len(bad)} of {len(given)} molecules quarantined" in outcomes["01"].failure
    assert [outcomes[shard].failure for shard in ("00", "02", "03")] == ["", "", ""]
    name = f"predictions/model={MODEL}/shard=01.parquet"
    assert validated.objects("predictions")[name] == files[name]


def test_a_quarantined_molecule_is_a_row_of_nulls(world) -> None:
    world.build_library()
    bad = read_shard(world.store, read_manifest(world.store), "01")["smiles"].to_pylist()[2]
    world.write_model(answer=f"return 'x,,' if smiles == {bad!r} else '1,1,x'")
    world.predict()
    (outcome,) = world.validate(["01"])
    assert (outcome.failure, outcome.facts["quarantined"]) == ("", 1)
    world.load(["01"])
    rows = table_rows(world, "01")
    assert [i for i, row in enumerate(rows) if row == (None, None, None)] == [2]
    assert repr(rows) == repr(file_rows(world, "01"))


def test_a_shard_of_only_nulls_is_refused_alone(world) -> None:
    world.build_library()
    given = read_shard(world.store, read_manifest(world.store), "02")["smiles"].to_pylist()
    world.write_model(answer=f"return ',,' if smiles in {given!r} else '1,1,x'")
    assert [outcome.failure for outcome in world.predict(max_failure_rate=1.0)] == [""] * len(SHARDS)
    outcomes = {outcome.shard: outcome for outcome in world.validate(max_failure_rate=1.0)}
    assert "null" in outcomes["02"].failure
    assert [(check.name, check.passed) for check in outcomes["02"].checks] == [("nulls", False)]
    assert sorted(world.objects("predictions")) == [
        f"predictions/model={MODEL}/shard={shard}.parquet" for shard in ("00", "01", "03")
    ]


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "another"])
def test_a_damaged_part_fails_its_shard_alone_and_is_named(predicted, damage: str) -> None:
    parts = require_manifest(predicted.store, MODEL, "03").parts
    path = predicted.path(parts[1].name)
    whole = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    elif damage == "cut":
        path.write_bytes(whole[:-10])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(predicted.path(parts[0].name).read_bytes())
    outcomes = {outcome.shard: outcome.failure for outcome in predicted.validate()}
    assert parts[1].name in outcomes["03"]
    assert "predict the shard again" in outcomes.pop("03")
    assert set(outcomes.values()) == {""}
    assert f"predictions/model={MODEL}/shard=03.parquet" not in predicted.objects("predictions")


@pytest.mark.parametrize("content", [b"", b"no JSON", b"{}", b"[]", b"\xff\0"], ids=repr)
def test_an_invalid_manifest_fails_its_shard_with_a_remedy(predicted, content: bytes) -> None:
    predicted.path(f"raw/model={MODEL}/shard=00/manifest.json").write_bytes(content)
    outcomes = {outcome.shard: outcome.failure for outcome in predicted.validate()}
    assert "shard=00/manifest.json is damaged" in outcomes["00"]
    assert "delete it and predict shard 00 again" in outcomes.pop("00")
    assert set(outcomes.values()) == {""}


def test_emptied_cells_are_counted_at_each_stage(predicted) -> None:
    library = read_manifest(predicted.store)
    outcomes = predicted.predict()
    for outcome, validated in zip(outcomes, predicted.validate(), strict=True):
        shard = outcome.shard
        smiles = read_shard(predicted.store, library, shard)["smiles"].to_pylist()
        expected = []
        for column, cells in EMPTIED.items():
            bad = [(cells[at], of) for of in smiles if (at := len(of) % len(PRINTED)) in cells]
            if bad:
                expected.append(EmptiedColumn(column=column, cells=len(bad), example=bad[0][0], smiles=bad[0][1]))
        assert sorted(require_manifest(predicted.store, MODEL, shard).emptied, key=str) == sorted(expected, key=str)
        assert sorted(outcome.emptied, key=str) == sorted(expected, key=str)
        total = sum(each.cells for each in expected)
        assert (outcome.facts["emptied_cells"], validated.facts["emptied_cells"]) == (total, total)
        (check,) = [check for check in outcome.checks if check.name == "cells"]
        assert not check.passed
        assert f"{expected[0].cells} in {expected[0].column}, such as {expected[0].example!r}" in check.description
        with predicted.path(f"emptied/model={MODEL}/shard={shard}.csv").open(newline="") as file:
            listed = [{**row, "cells": int(row["cells"])} for row in csv.DictReader(file)]
        assert listed == [each.model_dump() for each in outcome.emptied]
    predicted.load()
    card = make_card(predicted.store, predicted.tables, MODEL, Settings(models_dir=str(predicted.models_dir)))
    assert card.emptied == merge_emptied(each for outcome in outcomes for each in outcome.emptied)


def test_cells_emptied_beyond_the_manifest_s_are_refused(predicted) -> None:
    path = predicted.path(f"raw/model={MODEL}/shard=00/manifest.json")
    path.write_text(path.read_text().replace('"name":"label","type":"string"', '"name":"label","type":"float"'))
    (outcome,) = predicted.validate(["00"])
    assert "label is " in outcome.failure
    assert "not a finite number" in outcome.failure
    assert [(check.name, check.passed) for check in outcome.checks] == [("schema", False)]
    assert not predicted.objects("predictions")


def test_an_empty_shard_is_validated_and_loaded(world) -> None:
    world.write_model()
    library = world.build_library(["CCO"])
    world.predict()
    validated, loaded = world.validate(), world.load()
    assert [outcome.failure for outcome in [*validated, *loaded]] == [""] * 2 * len(SHARDS)
    assert [outcome.facts["rows"] for outcome in loaded] == [info.rows for info in library.shards.values()]


def test_damaged_predictions_are_never_served(validated) -> None:
    """Flip one byte at many places of the file: each time, the load fails or the table has the printed values."""
    path = parquet_path(validated, "01")
    whole = path.read_bytes()
    smiles = read_shard(validated.store, read_manifest(validated.store), "01")["smiles"].to_pylist()
    right = repr([expected(text) for text in smiles])
    served_wrongly = []
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        (outcome,) = validated.load(["01"])
        if outcome.landed and repr(table_rows(validated, "01")) != right:
            served_wrongly.append(place)
        (validated.root / "tables.db").unlink()
        for beside in validated.root.glob("tables.db-*"):
            beside.unlink()
    assert served_wrongly == []


def test_loading_two_releases_again_keeps_the_newer_columns(world) -> None:
    world.build_library()
    world.write_model()
    world.predict()
    world.validate()
    world.load()
    columns = (("score", "float"), ("atoms", "integer"), ("label", "string"), ("extra", "float"))
    world.write_model(columns=columns, answer="return '0.5,2,x,1.5'", release="v2.0.0")
    world.predict(["00"])
    world.validate(["00"])
    world.load(["00"])

    again = world.load()

    assert [outcome.facts["write_units"] for outcome in again] == [0] * len(SHARDS)
    assert [column.name for column in TableReader(world.tables, MODEL).columns] == [name for name, _ in columns]


@pytest.mark.parametrize(("how", "found"), [("lost", "lost"), ("flipped", "damaged"), ("changed", "different")])
def test_verify_finds_every_difference_and_repairs_it(validated, how: str, found: str) -> None:
    validated.load()
    library = read_manifest(validated.store)
    list(load_library_shards(validated.store, validated.tables, library, SHARDS))

    def verify(table: str, repair: bool = False) -> dict[str, str]:
        outcomes = verify_shards(validated.store, validated.tables, table, SHARDS, library=library, repair=repair)
        return {outcome.shard: outcome.failure for outcome in outcomes}

    for table in (MODEL, LIBRARY):
        assert set(verify(table).values()) == {""}
        damage(validated.tables, table, "02", how)
        for _ in range(2):
            differing = verify(table)
            assert f"1 are {found}, such as 02/" in differing["02"]
            assert f"`precalc verify {table} --repair`" in differing.pop("02")
            assert set(differing.values()) == {""}
        assert set(verify(table, repair=True).values()) == {""}
        assert set(verify(table).values()) == {""}


def test_verify_names_a_shard_that_was_loaded_from_other_predictions(validated) -> None:
    validated.load(["00", "01", "02"])
    library = read_manifest(validated.store)
    path = parquet_path(validated, "01")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(1).replace_schema_metadata(pq.read_metadata(path).metadata), path)
    outcomes = verify_shards(validated.store, validated.tables, MODEL, SHARDS, library=library, repair=False)
    failures = {outcome.shard: outcome.failure for outcome in outcomes}
    assert "molecules in the table" in failures["01"]
    assert "it is not loaded" in failures["03"]
    assert (failures["00"], failures["02"]) == ("", "")


@pytest.mark.parametrize("how", ["lost", "flipped", "a flipped record"])
def test_building_the_library_mends_its_table(validated, how: str) -> None:
    library = read_manifest(validated.store)
    list(load_library_shards(validated.store, validated.tables, library, SHARDS))
    rows = [TableReader(validated.tables, LIBRARY).get(keys) for keys in library_keys(validated, library)]
    if how == "a flipped record":
        item = validated.tables.get_many(LIBRARY, ["02"])["02"]
        validated.tables.put_many(LIBRARY, [Item("02", item.value[:-1] + b"x", item.version)])
    else:
        damage(validated.tables, LIBRARY, "02", how)
    outcomes = list(load_library_shards(validated.store, validated.tables, library, ["02"]))
    assert [outcome.failure for outcome in outcomes] == [""]
    assert [TableReader(validated.tables, LIBRARY).get(keys) for keys in library_keys(validated, library)] == rows


def library_keys(world, library) -> list[list[str]]:
    return [read_shard(world.store, library, shard)["inchikey"].to_pylist() for shard in SHARDS]
