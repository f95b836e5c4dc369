"""The command line: wrong requests, bad libraries, stages out of order, reading predictions, overviews."""

import csv
import gzip
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from precalc.formats import LEADING
from precalc.molecules.smiles_workers import inchikey
from precalc_assets.library.library_manifest import read_manifest, read_shard
from precalc_assets.sharding import shard_keys
from precalc_assets.tables import REGISTRY, Item

MODEL = "eos9abc"
SHARDS = shard_keys(4)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4


def assert_error(done: subprocess.CompletedProcess[str], *words: str, code: int) -> None:
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


def assert_one_line_error(done: subprocess.CompletedProcess[str], *words: str, code: int) -> None:
    assert_error(done, *words, code=code)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


LIBRARIES = {
    "empty": (b"", "empty"),
    "only a header": (b"smiles\n", "no row below"),
    "nothing but bad rows": (b"smiles\nnot a molecule\nneither\n", "molecule"),
    "a PNG": (PNG, "no text"),
    "no SMILES column": (b"name,weight\nethanol,46\n", "smiles"),
}


def without_rejected_rows(objects: dict[str, object]) -> dict[str, object]:
    """Leave out the lists of rejected rows, which a refused build adds for its reader."""
    return {name: about for name, about in objects.items() if not name.startswith("library/rejected-")}


@pytest.mark.parametrize(("content", "word"), LIBRARIES.values(), ids=LIBRARIES)
def test_a_bad_library_is_a_one_line_error_and_leaves_nothing(world, content: bytes, word: str) -> None:
    (world.root / "molecules.csv").write_bytes(content)
    assert_one_line_error(world.precalc("library", "build", "molecules.csv"), "molecules.csv", word, code=1)
    assert not without_rejected_rows(world.objects())
    assert not (world.root / "tables.db").exists()


def test_a_library_that_is_missing_is_a_one_line_error(world) -> None:
    assert_one_line_error(world.precalc("library", "build", "none.csv"), "none.csv", "no such file", code=1)
    assert not world.objects()


def test_a_bad_library_leaves_the_one_before_as_it_was(served) -> None:
    before = served.objects()
    (served.root / "molecules.csv").write_text("smiles\nnot a molecule\n")
    assert_one_line_error(served.precalc("library", "build", "molecules.csv"), "molecules.csv", code=1)
    assert without_rejected_rows(served.objects()) == without_rejected_rows(before)
    assert before.items() <= served.objects().items()


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("predict", "eos3b5e; rm -rf /"),
        ("load", "../x"),
        ("get", "EOS3B5E"),
        ("status", "eos"),
    ],
)
def test_a_wrong_model_id_is_a_usage_error_of_one_line(world, command: str, model: str) -> None:
    done = world.precalc(command, model, *(["CCO"] if command == "get" else []))
    assert_one_line_error(done, repr(model), "is not a model id", code=2)


@pytest.mark.parametrize("command", ["predict", "load", "status"])
def test_unknown_model_is_a_usage_error_with_the_known_ones(served, command: str) -> None:
    assert_one_line_error(served.precalc(command, "eos9zzz"), "eos9zzz", MODEL, "PRECALC_MODELS_DIR", code=2)
    assert not (served.tables.has_table("eos9zzz"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shards", "04"), ["'04'", "no shard 4", "03"]),
        (("--sample", "0"), ["--sample"]),
        (("--sample", "5", "--shards", "00"), ["--sample", "--shards"]),
    ],
    ids=str,
)
def test_a_wrong_option_is_a_usage_error_that_names_it(world, arguments: tuple[str, ...], words: list[str]) -> None:
    world.write_model()
    world.build_library()
    assert_error(world.precalc("predict", MODEL, *arguments), *words, code=2)
    assert not world.objects("raw")
    assert not world.objects("samples")


def test_a_bad_setting_is_a_usage_error_of_one_line(world) -> None:
    assert_one_line_error(world.precalc("models", n_shards="many"), "PRECALC_N_SHARDS='many'", code=2)


def test_predicting_without_a_library_says_what_to_run(world) -> None:
    world.write_model()
    assert_one_line_error(world.precalc("predict", MODEL), "no reference library", "`precalc library build`", code=1)


def test_another_number_of_shards_than_the_librarys_is_refused(world) -> None:
    world.write_model()
    world.build_library()
    done = world.precalc("predict", MODEL, n_shards="5")
    assert_one_line_error(done, "4 shards", "PRECALC_N_SHARDS", code=1)
    assert not world.objects("raw")


def test_load_before_predict_names_it_and_makes_no_table(world) -> None:
    world.write_model()
    world.build_library()
    done = world.precalc("load", MODEL)
    assert_error(done, "shards 00-03:", "no raw predictions", f"`precalc predict {MODEL}`", code=1)
    assert len([line for line in done.stderr.splitlines() if "no raw predictions" in line]) == 1
    assert not world.tables.has_table(MODEL)
    assert not world.objects("predictions")
    assert world.precalc("status", MODEL).returncode == 0


def test_get_before_load_says_what_to_run_and_writes_no_file(world) -> None:
    world.write_model()
    done = world.precalc("get", MODEL, "CCO", "-o", "out.csv")
    assert_one_line_error(done, MODEL, f"`precalc load {MODEL}`", code=1)
    assert not (world.root / "out.csv").exists()


def test_getting_nothing_or_both_ways_at_once_is_a_usage_error(served) -> None:
    assert_one_line_error(served.precalc("get", MODEL), "-i", code=2)
    assert_one_line_error(served.precalc("get", MODEL, "CCO", "-i", "x.csv"), "-i", code=2)


def test_unreadable_molecule_on_the_command_line_is_an_error(served) -> None:
    done = served.precalc("get", MODEL, "CCO", "not a molecule", "-o", "out.csv")
    assert_one_line_error(done, "'not a molecule'", "SMILES", code=2)
    assert not (served.root / "out.csv").exists()


def test_bad_input_file_leaves_an_earlier_output_unchanged(served) -> None:
    (served.root / "out.csv").write_text("precious")
    assert_one_line_error(served.precalc("get", MODEL, "-i", "none.csv", "-o", "out.csv"), "none.csv", code=1)
    (served.root / "bad.csv").write_bytes(b"PK\x03\x04")
    assert_one_line_error(served.precalc("get", MODEL, "-i", "bad.csv", "-o", "out.csv"), "bad.csv", code=1)
    assert (served.root / "out.csv").read_text() == "precious"
    assert sorted(path.name for path in served.root.glob("out*")) == ["out.csv"]


def answer(smiles: str) -> list[str]:
    return [repr(len(smiles) / 3), str(len(smiles)), smiles]


def found(smiles: str, text: str) -> list[str]:
    return [inchikey(smiles), text, "found", "", "key", "", *answer(smiles)]


def test_molecules_are_answered_in_order_by_inchikey_or_smiles(served) -> None:
    done = served.precalc("get", MODEL, inchikey("CCCO"), "OC", "CO", inchikey("CCCO"))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        [*LEADING, "score", "atoms", "label"],
        found("CCCO", inchikey("CCCO")),
        found("CO", "OC"),
        found("CO", "CO"),
        found("CCCO", inchikey("CCCO")),
    ]


@pytest.mark.parametrize("suffix", [pytest.param(".csv", marks=pytest.mark.slow), ".csv.gz"])
def test_every_row_of_a_file_is_answered_in_order(served, suffix: str) -> None:
    asked = ["CCO", "c1ccccc1", "CO", "not a molecule", inchikey("CCN"), "CCO", inchikey("c1ccncc1")]
    content = "\n".join(["name,smiles", *(f"m{i},{text}" for i, text in enumerate(asked))]).encode()
    source = served.root / f"asked{suffix}"
    source.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    done = served.precalc("get", MODEL, "-i", source, "-o", "out.csv", "--missing", "missing.csv", "--only-predictions")
    assert (done.returncode, done.stdout) == (0, "")
    assert "4 found, 2 not_in_library, 1 unreadable; missing.csv lists 1\n" in done.stderr
    assert "1 given by InChIKey cannot be listed" in done.stderr
    assert "'not a molecule': text after the SMILES" in done.stderr
    assert f"out.csv: 7 molecules, {MODEL} v1.0.0, library {read_manifest(served.store).digest}" in done.stderr
    with (served.root / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    nothing = ["", "", "", "", ""]
    assert header == [*LEADING, "score", "atoms", "label"]
    assert rows == [
        found("CCO", "CCO"),
        [inchikey("c1ccccc1"), "c1ccccc1", "not_in_library", "", *nothing],
        found("CO", "CO"),
        ["", "not a molecule", "unreadable", "text after the SMILES", *nothing],
        found("CCN", inchikey("CCN")),
        found("CCO", "CCO"),
        [inchikey("c1ccncc1"), inchikey("c1ccncc1"), "not_in_library", "", *nothing],
    ]
    missing = (served.root / "missing.csv").read_text().splitlines()
    assert missing == ["smiles", "c1ccccc1"]
    again = served.precalc("get", MODEL, "-i", "missing.csv")
    assert again.returncode == 0
    assert [row[0] for row in csv.reader(io.StringIO(again.stdout))][1:] == missing[1:]


def test_file_of_inchikeys_needs_no_header(served) -> None:
    keys = [inchikey(smiles) for smiles in ("CCO", "CO", "CCN")]
    (served.root / "keys.csv").write_text("\n".join(keys) + "\n")
    done = served.precalc("get", MODEL, "-i", "keys.csv")
    assert [row[0] for row in csv.reader(io.StringIO(done.stdout))][1:] == keys


def test_commands_in_order_return_the_models_predictions(world) -> None:
    world.write_model()
    (world.root / "lib.csv").write_text("name,smiles\na,CCO\nb,CO\nc,OCC\nd,what\n\ne,CCCCN\n")
    built = world.precalc("library", "build", "lib.csv")
    assert built.returncode == 0
    assert "5 rows, 1 rejected, 1 duplicates, of them 0 other forms, 3 molecules in 4 shards" in built.stderr
    for command in ("predict", "load"):
        done = world.precalc(command, MODEL)
        assert (done.returncode, done.stdout) == (0, "")
        assert "4 shards, rows 3, quarantined 0" in done.stderr
    got = world.precalc("get", MODEL, "CCCCN", "CCO", "CO")
    _, *rows = csv.reader(io.StringIO(got.stdout))
    assert [row[len(LEADING) :] for row in rows] == [*map(answer, ("CCCCN", "CCO", "CO"))]
    assert [row[2:6] for row in rows] == [["found", "", "same", ""]] * 3


@pytest.mark.slow
def test_a_model_s_first_run_says_that_it_makes_an_environment(world, tmp_path: Path) -> None:
    world.write_model()
    world.build_library()
    runs = [world.precalc("predict", MODEL, "--shards", shard, cache_dir=str(tmp_path)) for shard in SHARDS[:2]]
    assert [run.returncode for run in runs] == [0, 0]
    assert [f"making the environment of {MODEL} (once)\n" in run.stderr for run in runs] == [True, False]


def test_only_the_shards_that_are_named_are_predicted_and_served(world) -> None:
    world.write_model()
    world.build_library()
    assert world.precalc("predict", MODEL, "--shards", "01,03").returncode == 0
    assert {name.split("/")[2] for name in world.objects("raw")} == {"shard=01", "shard=03"}
    assert world.precalc("load", MODEL, "--shards", "03").returncode == 0
    assert list(world.objects("predictions")) == [f"predictions/model={MODEL}/shard=03.parquet"]
    status = world.precalc("status", MODEL)
    assert status.returncode == 0
    lines = {line[:16].strip(): line[16:].split() for line in status.stdout.splitlines()}
    assert lines["raw predictions"] == ["2/4", "00,02"]
    assert lines["predictions"] == ["1/4", "00-02"]
    assert lines["prediction table"] == ["1/4", "00-02"]


def test_a_sample_goes_to_a_place_of_its_own_and_marks_no_shard(world) -> None:
    world.write_model()
    world.build_library()
    done = world.precalc("predict", MODEL, "--sample", "5")
    assert done.returncode == 0, done.stderr
    assert "5, twice; 0 quarantined" in done.stdout
    assert {name for name in world.objects() if not name.startswith("library")} == {
        f"samples/model={MODEL}.json",
        f"samples/model={MODEL}.parquet",
    }
    status = world.precalc("status", MODEL)
    assert status.stdout.count("0/4") == 3


def test_models_lists_runnable_models_and_faults_of_others(world) -> None:
    world.write_model()
    broken = world.write_model(model="eos9bad")
    (broken / "metadata.yml").write_text("Title: x\n")
    done = world.precalc("models", columns="200")
    assert (done.returncode, done.stderr) == (0, "")
    listed = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines() if line.strip()}
    assert listed[MODEL].startswith("A model for tests 3 v1.0.0")
    assert "cannot be used" in done.stdout
    assert "eos0aaa" in listed
    assert "eos0bbb" in listed


@pytest.mark.slow
def test_status_and_models_tell_of_what_an_older_release_left(served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "of an earlier release" not in served.precalc("status", MODEL).stdout
    assert "served:" not in served.precalc("models").stdout

    served.write_model(release="v2.0.0")
    assert served.precalc("predict", MODEL, "--shards", "01").returncode == 0

    told = f"of an earlier release (v1.0.0): 00,02-03; run `precalc predict {MODEL}`"
    assert told in served.precalc("status", MODEL).stdout
    assert "v2.0.0, served: v1.0.0" in served.precalc("models").stdout
    shutil.rmtree(served.models_dir / MODEL)
    assert told in served.precalc("status", MODEL).stdout


def test_a_damaged_card_hides_no_model_that_is_served(served) -> None:
    served.tables.create_table(REGISTRY)
    served.tables.put_many(REGISTRY, [Item(MODEL, b"{")])
    done = served.precalc("models")
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: the card of {MODEL} is damaged")
    [row] = [line.split() for line in done.stdout.splitlines() if line.startswith(MODEL)]
    assert row[-4:] == ["v1.0.0", "4/4", "60", "–"]


def test_status_tells_of_what_an_older_library_left(served) -> None:
    before = read_manifest(served.store)
    served.build_library([*read_all(served), "CBr"])
    after = read_manifest(served.store)
    (changed,) = [shard for shard in SHARDS if before.shards[shard].digest != after.shards[shard].digest]
    done = served.precalc("status", MODEL)
    assert done.returncode == 0
    assert f"of an earlier library: {changed}" in done.stdout
    assert f"`precalc predict {MODEL}`" in done.stdout


def read_all(world) -> list[str]:
    library = read_manifest(world.store)
    return [smiles for shard in SHARDS for smiles in read_shard(world.store, library, shard)["smiles"].to_pylist()]


@pytest.mark.parametrize("arguments", [("--help",), ("get", "--help")])
def test_help_is_given_without_a_store(world, arguments: tuple[str, ...]) -> None:
    done = world.precalc(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
    assert not Path(world.root / "data").exists()


def test_status_and_get_handle_a_table_that_was_never_loaded(world) -> None:
    """A killed `load` can leave such a table."""
    world.write_model()
    world.build_library()
    world.tables.create_table(MODEL)
    status = world.precalc("status", MODEL)
    assert (status.returncode, status.stdout.count("0/4")) == (0, 3), status.stderr
    assert_one_line_error(world.precalc("get", MODEL, "CCO"), f"`precalc load {MODEL}`", code=1)
