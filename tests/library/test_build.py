"""Building the library: laws of the partition, unchanged shards, and errors for bad files."""

import csv
import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore, ObjectStore

from precalc_assets import storage
from precalc_assets.library import (
    LibraryManifest,
    build_library,
    demo_library,
    ensure_source,
    fetch_source,
    put_source,
    read_manifest,
    read_sample,
    read_shard,
    require_shards,
)
from precalc_assets.library.build import distinct
from precalc_assets.platform_errors import LibraryError
from precalc_assets.sharding import key_hash, shard_keys, shard_of

MOLECULES = ["C" * n + end for n in range(1, 30) for end in ("", "O", "N", "Cl", "C(=O)O")]
KEY = "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"

Build = Callable[..., LibraryManifest]


@pytest.fixture
def store() -> ObjectStore:
    return MemoryStore()


@pytest.fixture
def build(store: ObjectStore, tmp_path: Path) -> Build:
    """Build the library in `store` from lines of SMILES."""

    def build(lines: list[str], n_shards: int = 5, processes: int = 1) -> LibraryManifest:
        source = tmp_path / "molecules.smi"
        source.write_text("\n".join(lines) + "\n")
        return build_library(store, source, n_shards=n_shards, processes=processes)

    return build


def objects(store: ObjectStore) -> dict[str, str | None]:
    return {entry["path"]: entry["e_tag"] for chunk in obstore.list(store) for entry in chunk}


def rejected_rows(store: ObjectStore) -> list[dict[str, str]]:
    content = obstore.get(store, storage.REJECTED).bytes().to_bytes().decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from([*MOLECULES, "bad", "C(", "*"]), min_size=1, max_size=40),
    n_shards=st.integers(1, 12),
)
def test_every_molecule_is_in_the_shard_of_its_hash(
    lines: list[str], n_shards: int, build: Build, store: ObjectStore
) -> None:
    good = [line for line in lines if line in MOLECULES]
    if not good:
        with pytest.raises(LibraryError, match="none of its"):
            build(lines, n_shards)
        return
    library = build(lines, n_shards)
    found = []
    for shard in shard_keys(n_shards):
        table = read_shard(store, library, shard)
        keys = table["inchikey"].to_pylist()
        assert keys == sorted(keys, key=key_hash)
        assert {shard_of(key, n_shards) for key in keys} <= {shard}
        found += table["smiles"].to_pylist()
    assert sorted(found) == sorted(set(good))
    assert library.rows == len(lines) == library.molecules + library.duplicates + library.rejected
    assert library.molecules == len(found)
    assert [(row["row"], row["input"]) for row in rejected_rows(store)] == [
        (str(number), line) for number, line in enumerate(lines, start=1) if line not in MOLECULES
    ]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(MOLECULES[:40]))
def test_the_order_of_the_file_does_not_matter(order: list[str], build: Build) -> None:
    assert build(order).digest == build(MOLECULES[:40]).digest


def test_the_number_of_processes_does_not_matter(build: Build) -> None:
    lines = [f"[{100 + i}C]{molecule}" for i in range(8) for molecule in MOLECULES]
    random.Random(1).shuffle(lines)
    alone, together = build(lines), build(lines, processes=2)
    assert alone.shards == together.shards
    assert alone.molecules == len(lines)


def test_the_first_row_of_a_molecule_is_kept(build: Build, store: ObjectStore) -> None:
    library = build(["OCC", "CCO", "C(O)C", "CCC"])
    assert (library.molecules, library.duplicates) == (2, 2)
    smiles = {row["inchikey"]: row["smiles"] for row in read_sample(store, library, 9).to_pylist()}
    assert smiles[KEY] == "OCC"


def test_building_again_touches_no_shard(build: Build, store: ObjectStore) -> None:
    first = build(MOLECULES)
    before = objects(store)
    second = build(MOLECULES)
    after = objects(store)
    assert first.digest == second.digest
    assert {name for name in before if before[name] != after[name]} <= {storage.LIBRARY_MANIFEST, storage.REJECTED}


def test_a_new_molecule_touches_its_shard_only(build: Build, store: ObjectStore) -> None:
    build(MOLECULES)
    before = objects(store)
    build([*MOLECULES, "c1ccccc1"])
    after = objects(store)
    changed = {name for name in after if before[name] != after[name] and name.endswith(".parquet")}
    assert changed == {storage.library_shard(shard_of("UHOVQNZJYSORNB-UHFFFAOYSA-N", 5))}


def test_shards_of_a_finer_library_are_deleted(build: Build, store: ObjectStore) -> None:
    build(MOLECULES, n_shards=12)
    library = build(MOLECULES, n_shards=3)
    shards = {storage.library_shard(shard) for shard in shard_keys(3)}
    assert set(objects(store)) == {*shards, storage.REJECTED, storage.LIBRARY_MANIFEST}
    assert list(library.shards) == shard_keys(3)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = caplog.messages.copy()
    caplog.clear()
    return said


def test_predictions_of_other_shards_stay_with_a_warning(
    build: Build, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    build(MOLECULES, n_shards=4)
    theirs = [place("eos9abc", shard) for place in (storage.predictions, storage.quarantine) for shard in shard_keys(4)]
    for name in [*theirs, f"{storage.raw_prefix('eos9abc', '03')}/manifest.json"]:
        obstore.put(store, name, b"")
    build(MOLECULES, n_shards=4)
    assert warnings(caplog) == []

    build(MOLECULES, n_shards=3)
    [said] = warnings(caplog)
    assert all(words in said for words in ("8 files in predictions/ and quarantine/", theirs[0], "with 4 shards again"))
    assert objects(store).keys() >= {*theirs, f"{storage.raw_prefix('eos9abc', '03')}/manifest.json"}

    build(MOLECULES, n_shards=3)
    [said] = warnings(caplog)
    assert all(words in said for words in ("2 files in", storage.predictions("eos9abc", "03")))
    obstore.delete(store, theirs)
    build(MOLECULES, n_shards=3)
    assert warnings(caplog) == []


def test_a_bad_file_leaves_the_library_unchanged(build: Build, store: ObjectStore) -> None:
    library = build(MOLECULES)
    before = objects(store)
    with pytest.raises(LibraryError, match=r"none of its 2 rows is a molecule \(row 1: SMILES .*; row 3: Expl"):
        build(["C(", "", "C[N](C)(C)(C)C"])
    assert objects(store) == before
    assert read_manifest(store) == library


def test_an_error_names_a_file_without_rows(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "header.csv"
    source.write_text("smiles\n")
    with pytest.raises(LibraryError, match=r"header\.csv: there are no rows below the header"):
        build_library(store, source, n_shards=5, processes=1)
    assert objects(store) == {}


@pytest.mark.parametrize("text", ['a "b", c', "=1+1", "Ⓒ,é", "x\ny", "'"])
def test_any_rejected_text_is_read_back_unchanged(text: str, store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "odd.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["smiles", "name"], ["CCO", "good"], [text, "odd"]])
    build_library(store, source, n_shards=2, processes=1)
    [row] = rejected_rows(store)
    assert (row["row"], row["input"]) == ("3", text)
    assert row["reason"]


def test_the_demo_library_is_real_and_dirty(store: ObjectStore) -> None:
    progress: list[tuple[int, int]] = []
    source = demo_library()
    library = build_library(
        store, source, n_shards=50, processes=2, on_progress=lambda done, total: progress.append((done, total))
    )
    # 8 rows are no valid SMILES, and one is a ferrocene with a bond that InChI does not know.
    assert (library.rows, library.rejected, library.duplicates, library.molecules) == (4999, 9, 99, 4891)
    assert library.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert progress[-1] == (4999, 4999)
    assert progress == sorted(progress)
    reasons = {row["row"]: row["reason"] for row in rejected_rows(store)}
    assert reasons["3400"] == "no InChI: Unrecognized bond type: 0"
    assert reasons["4509"] == "Explicit valence for atom # 2 O, 4, is greater than permitted"
    for shard, info in library.shards.items():
        assert read_shard(store, library, shard).num_rows == info.rows
        assert obstore.head(store, storage.library_shard(shard))["size"] == info.bytes


def test_two_molecules_with_the_same_hash_are_refused() -> None:
    with pytest.raises(LibraryError, match="A and B have the same hash"):
        distinct([("B", "CC"), ("A", "C")], place=lambda inchikey: 7)


@pytest.mark.parametrize("n", [0, 1, 50, 10_000])
def test_a_sample_is_the_first_molecules_by_hash(n: int, build: Build, store: ObjectStore) -> None:
    library = build(MOLECULES)
    everything = [key for shard in library.shards for key in read_shard(store, library, shard)["inchikey"].to_pylist()]
    assert everything == sorted(everything, key=key_hash)
    assert read_sample(store, library, n)["inchikey"].to_pylist() == everything[:n]


def test_a_missing_library_is_an_error_with_a_remedy(store: ObjectStore) -> None:
    with pytest.raises(LibraryError, match=r"no reference library in .*; run `precalc library build`"):
        read_manifest(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}'])
def test_an_error_names_a_damaged_manifest(content: bytes, store: ObjectStore) -> None:
    obstore.put(store, storage.LIBRARY_MANIFEST, content)
    with pytest.raises(
        LibraryError, match=r"library/manifest\.json is damaged .*; run `precalc library build` for "
    ) as raised:
        read_manifest(store)
    assert "\n" not in str(raised.value)


def test_another_number_of_shards_is_refused(build: Build) -> None:
    library = build(["CCO"])
    assert require_shards(library, 5) is library
    with pytest.raises(LibraryError, match="has 5 shards, but PRECALC_N_SHARDS is 50"):
        require_shards(library, 50)


def test_a_shard_that_is_not_in_the_manifest_is_refused(build: Build, store: ObjectStore) -> None:
    library = build(MOLECULES)
    name = storage.library_shard("00")
    content = obstore.get(store, name).bytes().to_bytes()
    build([*MOLECULES, *(f"[13C]{molecule}" for molecule in MOLECULES)])
    with pytest.raises(LibraryError, match="is not the one in the manifest"):
        read_shard(store, library, "00")
    obstore.put(store, name, content[: len(content) // 2])
    with pytest.raises(LibraryError, match="is damaged"):
        read_shard(store, library, "00")
    obstore.delete(store, name)
    with pytest.raises(LibraryError, match="is missing"):
        read_shard(store, library, "00")


def test_rebuilding_repairs_a_shard_with_a_flipped_bit(build: Build, store: ObjectStore) -> None:
    library = build(MOLECULES, n_shards=1)
    name = storage.library_shard("00")
    content = bytearray(obstore.get(store, name).bytes().to_bytes())
    content[len(content) // 3] ^= 1
    obstore.put(store, name, bytes(content))
    with pytest.raises(LibraryError, match="is damaged"):
        read_shard(store, library, "00")
    build(MOLECULES, n_shards=1)
    assert read_shard(store, library, "00").num_rows == len(MOLECULES)


def test_the_source_is_put_into_the_store_and_fetched(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"no reference_library\.csv or .* in"):
        fetch_source(store, tmp_path)
    ensure_source(store)
    assert fetch_source(store, tmp_path).read_bytes() == demo_library().read_bytes()
    source = tmp_path / "mine.CSV"
    source.write_text("smiles\nCCO\n")
    assert put_source(store, source) == "reference_library.csv"
    ensure_source(store)
    assert list(objects(store)) == ["reference_library.csv"]
    assert fetch_source(store, tmp_path).read_text() == "smiles\nCCO\n"


def test_an_error_names_two_sources_in_the_store(store: ObjectStore, tmp_path: Path) -> None:
    obstore.put(store, "reference_library.csv", b"smiles\nC\n")
    obstore.put(store, "reference_library.smi", b"C\n")
    with pytest.raises(LibraryError, match=r"reference_library\.csv and reference_library\.smi are both in"):
        fetch_source(store, tmp_path)
