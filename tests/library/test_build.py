"""Building the library: laws of the partition, unchanged shards, and errors for bad files."""

import csv
import hashlib
import io
import random
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from unittest.mock import ANY

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore, ObjectStore

from precalc.errors import MoleculeFileError
from precalc_assets import storage
from precalc_assets.library import build as build_module
from precalc_assets.library.build import build_library, demo_library, in_order
from precalc_assets.library.library_manifest import (
    LibraryManifest,
    read_manifest,
    read_sample,
    read_shard,
    require_shards,
)
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

    def build(
        lines: list[str], n_shards: int = 5, processes: int = 1, accept_rejected: bool = False
    ) -> LibraryManifest:
        source = tmp_path / "molecules.smi"
        source.write_text("\n".join(lines) + "\n")
        return build_library(store, source, n_shards=n_shards, processes=processes, accept_rejected=accept_rejected)

    return build


def objects(store: ObjectStore) -> dict[str, str | None]:
    return {entry["path"]: entry["e_tag"] for chunk in obstore.list(store) for entry in chunk}


def listed(store: ObjectStore, name: str) -> list[dict[str, str]]:
    content = obstore.get(store, name).bytes().to_bytes().decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))


def rejected_rows(store: ObjectStore) -> list[dict[str, str]]:
    return listed(store, read_manifest(store).rejected_file)


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
        with pytest.raises(LibraryError, match="name another file, or its column"):
            build(lines, n_shards)
        return
    library = build(lines, n_shards, accept_rejected=True)
    found = []
    for shard in shard_keys(n_shards):
        table = read_shard(store, library, shard)
        keys = table["inchikey"].to_pylist()
        assert keys == sorted(keys, key=key_hash)
        assert {shard_of(key, n_shards) for key in keys} <= {shard}
        found += table["smiles"].to_pylist()
    assert sorted(found) == sorted(set(good))  # they are canonical
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


def test_a_molecule_is_stored_as_its_canonical_smiles(build: Build, store: ObjectStore) -> None:
    library = build(["OCC", "CCO", "C([OH:3])[CH3:1]", "[2H]C", "CCC"])
    assert (library.molecules, library.duplicates, library.other_forms) == (3, 2, 0)
    assert library.rdkit == version("rdkit")
    smiles = {row["inchikey"]: row["smiles"] for row in read_sample(store, library, 9).to_pylist()}
    assert smiles[KEY] == "CCO"
    assert set(smiles.values()) == {"CCO", "[2H]C", "CCC"}
    assert listed(store, library.other_forms_file) == []


def test_other_forms_of_a_molecule_are_counted_and_listed(build: Build, store: ObjectStore) -> None:
    library = build(["Oc1ccccn1", "[NH3+]CC(=O)[O-]", "n1ccccc1O", "O=c1cccc[nH]1", "C(N)C(O)=O", "[nH]1ccccc1=O"])
    assert (library.molecules, library.duplicates, library.other_forms) == (2, 4, 3)
    smiles = {row["smiles"] for row in read_sample(store, library, 9).to_pylist()}
    assert smiles == {"Oc1ccccn1", "[NH3+]CC(=O)[O-]"}
    pyridone = {"inchikey": "UBQKCCHYAOITMY-UHFFFAOYSA-N", "form": "O=c1cccc[nH]1", "smiles": "Oc1ccccn1"}
    glycine = {"inchikey": "DHMQDGOQFOQNFH-UHFFFAOYSA-N", "form": "NCC(=O)O", "smiles": "[NH3+]CC(=O)[O-]"}
    found = sorted(listed(store, library.other_forms_file), key=lambda row: row["row"])
    assert found == [{"row": "4"} | pyridone, {"row": "5"} | glycine, {"row": "6"} | pyridone]


def test_building_again_touches_no_shard(build: Build, store: ObjectStore) -> None:
    first = build(MOLECULES)
    before = objects(store)
    second = build(MOLECULES)
    after = objects(store)
    assert first.digest == second.digest
    assert before.keys() == after.keys()
    kept = {storage.LIBRARY_MANIFEST, second.source_file, second.rejected_file, second.other_forms_file}
    assert {name for name in before if before[name] != after[name]} <= kept


def test_a_new_molecule_touches_its_shard_only(build: Build, store: ObjectStore) -> None:
    build(MOLECULES)
    before = objects(store)
    library = build([*MOLECULES, "c1ccccc1"])
    after = objects(store)
    changed = {name for name in after if before.get(name) != after[name] and name.endswith(".parquet")}
    shard = shard_of("UHOVQNZJYSORNB-UHFFFAOYSA-N", 5)
    assert changed == {storage.library_shard(shard, library.shards[shard].digest)}


def test_shards_of_a_finer_library_are_deleted(build: Build, store: ObjectStore) -> None:
    build(MOLECULES, n_shards=12)
    library = build(MOLECULES, n_shards=3)
    shards = {storage.library_shard(shard, library.shards[shard].digest) for shard in shard_keys(3)}
    others = {library.rejected_file, library.other_forms_file, library.source_file, storage.LIBRARY_MANIFEST}
    assert set(objects(store)) == shards | others
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
    with pytest.raises(LibraryError, match=r"2 of 2 rows are no molecules \(row 1: SMILES .*; row 3: too m") as refusal:
        build(["C(", "", "C[N](C)(C)(C)C"])
    [name] = objects(store).keys() - before.keys()
    assert f"{name} in {store} lists them" in str(refusal.value)
    assert [row["input"] for row in listed(store, name)] == ["C(", "C[N](C)(C)(C)C"]
    assert before.items() <= objects(store).items()
    assert read_manifest(store) == library
    build(MOLECULES)
    assert objects(store).keys() == before.keys()


def test_after_a_refused_first_build_the_demo_can_be_built(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, demo = tmp_path / "names.csv", tmp_path / "demo.smi"
    names.write_text("smiles\naspirin\n")
    demo.write_text("CCO\n")
    monkeypatch.setattr(build_module, "demo_library", lambda: demo)
    with pytest.raises(LibraryError, match="name another file, or its column"):
        build_library(store, names, n_shards=3, processes=1)
    assert build_library(store, None, n_shards=3, processes=1).molecules == 1


def test_file_of_mostly_rejected_rows_is_refused_unless_accepted(
    build: Build, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = build(MOLECULES)
    source = tmp_path / "names.csv"
    source.write_text("smiles\nCCO\naspirin\nC1CC\nc1cccc1\nC(\n")
    with pytest.raises(
        LibraryError, match=r"4 of 5 rows .*row 3: .*; row 4: .*; row 5: .*\. The library stays as it was.*--accept"
    ):
        build_library(store, source, n_shards=3, processes=1)
    assert read_manifest(store) == library
    accepted = build_library(store, source, n_shards=3, processes=1, accept_rejected=True)
    assert (accepted.molecules, accepted.rejected) == (1, 4)
    [said] = [line for line in warnings(caplog) if "no molecules" in line]
    assert f"{accepted.rejected_file} in {store} lists them" in said
    # What was accepted once is built again without a question.
    assert build_library(store, None, n_shards=3, processes=1).molecules == 1


def test_named_column_is_read_and_read_again(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "drugs.csv"
    source.write_text("Drug_ID,Drug\n1,CCO\n2,CCN\n")
    assert build_library(store, source, n_shards=3, processes=1, column="Drug").molecules == 2
    assert build_library(store, None, n_shards=2, processes=1).molecules == 2


def test_an_error_names_a_file_without_rows(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "header.csv"
    source.write_text("smiles\n")
    with pytest.raises(MoleculeFileError, match=r"header\.csv: there is a header, and no row below it"):
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
    progress: list[int] = []
    totals: list[int] = []
    source = demo_library()

    def show(total: int):
        totals.append(total)
        return nullcontext(lambda done, _: progress.append(done))

    library = build_library(store, None, n_shards=50, processes=2, show=show)
    assert library.source == source.name
    # 8 rows are no valid SMILES, and one is a ferrocene with a bond that InChI does not know.
    assert (library.rows, library.rejected, library.duplicates, library.molecules) == (4999, 9, 99, 4891)
    assert library.other_forms == 0
    assert library.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert totals == [4999] == [sum(progress)]
    assert min(progress) > 0
    reasons = {row["row"]: row["reason"] for row in rejected_rows(store)}
    assert reasons["3400"] == "coordinate bond to a metal; InChI cannot express it"
    assert reasons["4509"] == "too many bonds at atom 3 (O, valence 4)"
    for shard, info in library.shards.items():
        assert read_shard(store, library, shard).num_rows == info.rows
        assert obstore.head(store, storage.library_shard(shard, info.digest))["size"] == info.bytes


def test_two_molecules_with_the_same_hash_are_refused() -> None:
    with pytest.raises(LibraryError, match="A and B have the same hash"):
        in_order({"B": "CC", "A": "C"}, place=lambda inchikey: 7)


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
    other = build([*MOLECULES, *(f"[13C]{molecule}" for molecule in MOLECULES)])
    content = obstore.get(store, storage.library_shard("00", other.shards["00"].digest)).bytes().to_bytes()
    library = build(MOLECULES)
    name = storage.library_shard("00", library.shards["00"].digest)
    obstore.put(store, name, content)
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
    name = storage.library_shard("00", library.shards["00"].digest)
    content = bytearray(obstore.get(store, name).bytes().to_bytes())
    content[len(content) // 3] ^= 1
    obstore.put(store, name, bytes(content))
    with pytest.raises(LibraryError, match="is damaged"):
        read_shard(store, library, "00")
    build(MOLECULES, n_shards=1)
    assert read_shard(store, library, "00").num_rows == len(MOLECULES)


def rebuild(store: ObjectStore) -> LibraryManifest:
    return build_library(store, None, n_shards=5, processes=1)


def test_the_library_is_built_again_from_its_source(build: Build, store: ObjectStore, tmp_path: Path) -> None:
    library = build(MOLECULES)
    (tmp_path / "molecules.smi").unlink()
    assert rebuild(store) == library.model_copy(update={"built_at": ANY, "seconds": ANY})
    obstore.delete(store, storage.LIBRARY_MANIFEST)
    assert rebuild(store).digest == library.digest
    obstore.put(store, storage.LIBRARY_MANIFEST, b"{")
    assert rebuild(store).digest == library.digest


def test_a_damaged_source_is_not_built_from(build: Build, store: ObjectStore) -> None:
    library = build(MOLECULES)
    content = bytearray(obstore.get(store, library.source_file).bytes().to_bytes())
    content[len(content) // 2] ^= 1
    obstore.put(store, library.source_file, bytes(content))
    before = objects(store)
    with pytest.raises(LibraryError, match=r"is damaged.* `precalc library build PATH` .* of molecules\.smi"):
        rebuild(store)
    obstore.put(store, storage.LIBRARY_MANIFEST, b"{")
    with pytest.raises(LibraryError, match=r"is damaged.* `precalc library build PATH`"):
        rebuild(store)
    obstore.put(store, storage.LIBRARY_MANIFEST, library.model_dump_json().encode())
    obstore.delete(store, library.source_file)
    with pytest.raises(LibraryError, match=r"source file of the library .* is missing"):
        rebuild(store)
    assert objects(store).keys() == before.keys() - {library.source_file}
    build(MOLECULES)
    assert rebuild(store).digest == library.digest


@pytest.mark.parametrize("change", [{"shards": {}}, {"n_shards": 10**12}, {"n_shards": 0}, {"rows": 0}])
def test_a_manifest_that_lacks_a_shard_is_damaged(build: Build, store: ObjectStore, change: dict) -> None:
    library = build(MOLECULES)
    obstore.put(store, storage.LIBRARY_MANIFEST, library.model_copy(update=change).model_dump_json().encode())
    with pytest.raises(LibraryError, match=r"manifest\.json is damaged .*; run `precalc library build`"):
        read_manifest(store)


class KilledError(BaseException):
    """The process is killed."""


def read_whole(store: ObjectStore) -> tuple[str, int]:
    """Return the library's digest and its molecules; all shards are read, and the rejected rows."""
    library = read_manifest(store)
    assert len(rejected_rows(store)) == library.rejected
    return library.digest, sum(read_shard(store, library, shard).num_rows for shard in library.shards)


def test_a_kill_at_any_write_leaves_the_old_library_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed before each of its writes; then somebody builds again without naming the file."""
    writes = 0
    killed_at = -1

    def at_risk(work: Callable[..., object]) -> Callable[..., object]:
        def write(*arguments: object, **options: object) -> object:
            nonlocal writes
            writes += 1
            if writes == killed_at:
                raise KilledError
            return work(*arguments, **options)

        return write

    for name in ("put", "delete"):
        monkeypatch.setattr(obstore, name, at_risk(getattr(obstore, name)))

    def build(store: ObjectStore, lines: list[str]) -> tuple[str, int]:
        source = tmp_path / "molecules.smi"
        source.write_text("\n".join(lines) + "\n")
        build_library(store, source, n_shards=3, processes=1)
        return read_whole(store)

    old_lines, new_lines = MOLECULES[:40], [*MOLECULES[20:], "bad"]
    store = MemoryStore()
    old, old_objects = build(store, old_lines), set(objects(store))
    writes = 0
    new, new_objects = build(store, new_lines), set(objects(store))
    seen = []
    for at in range(1, writes + 1):
        store, killed_at = MemoryStore(), -1
        build(store, old_lines)
        writes, killed_at = 0, at
        with pytest.raises(KilledError):
            build(store, new_lines)
        seen.append(read_whole(store))
        build_library(store, None, n_shards=3, processes=1)
        assert read_whole(store) == seen[-1]
        assert set(objects(store)) == (old_objects if seen[-1] == old else new_objects)
    assert set(seen) == {old, new}
    assert seen == sorted(seen, key=[old, new].index)


def test_of_two_builds_at_a_time_one_stands_and_one_fails(
    build: Build, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = obstore.put

    def put_while_another_builds(target: ObjectStore, name: str, content: object) -> None:
        put(target, name, content)
        if name.startswith("library/rejected-"):
            monkeypatch.setattr(obstore, "put", put)
            build(MOLECULES[:9])

    build(MOLECULES[:5])
    monkeypatch.setattr(obstore, "put", put_while_another_builds)
    with pytest.raises(LibraryError, match=r"another build .* run the same command again"):
        build(MOLECULES)
    assert read_whole(store)[1] == 9


def test_files_of_others_in_the_folder_stay(build: Build, store: ObjectStore) -> None:
    obstore.put(store, "library/notes.txt", b"ours")
    build(MOLECULES)
    build(MOLECULES[:9])
    assert "library/notes.txt" in objects(store)
