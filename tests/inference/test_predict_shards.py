"""Raw predictions of real models: what is computed, what is reused, and which failures affect only one shard."""

import csv
import gzip
import io
import json
import math
import subprocess
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import obstore
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process_model import Echo

from precalc.molecules.smiles_workers import inchikey
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.predict import predict_shards
from precalc_assets.inference.stored_parts import PartName
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import LibraryManifest, read_manifest, read_shard
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.cells import read_text_csv
from precalc_assets.predictions.shard_manifest import RawManifest, require_manifest
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_index, shard_keys, shard_of

MODEL = "eos9abc"
SHARDS = shard_keys(4)
BATCH_SIZE = 5
MOLECULES = tuple("C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl"))
WRITE = """write("\\n".join([HEADER, *map(answer, given)]) + "\\n")"""
ANSWERED = """return f'{len(smiles) / 3!r},{len(smiles)},"{smiles}"'"""


def raw_text(world, shard: str) -> pl.DataFrame:
    """Return the rows of the parts in a shard's manifest."""
    manifest = require_manifest(world.store, MODEL, shard)
    return pl.concat([read_text_csv(gzip.decompress(world.path(part.name).read_bytes())) for part in manifest.parts])


def molecules(world, shard: str) -> dict[str, list[str]]:
    return read_shard(world.store, read_manifest(world.store), shard).to_pydict()


def asked(world) -> Counter[str]:
    return Counter(smiles for call in world.calls() for smiles in call)


def test_each_shard_lands_with_parts_manifest_and_quarantine(world) -> None:
    world.write_model()
    library = world.build_library()
    outcomes = {outcome.shard: outcome for outcome in world.predict()}
    assert sorted(outcomes) == SHARDS
    for shard, outcome in outcomes.items():
        rows = library.shards[shard].rows
        manifest = RawManifest.model_validate_json(
            world.path(f"raw/model={MODEL}/shard={shard}/manifest.json").read_bytes()
        )
        assert (manifest.model, manifest.shard, manifest.release) == (MODEL, shard, "v1.0.0")
        assert (manifest.rows, manifest.quarantined) == (rows, 0)
        assert manifest.shard_digest == library.shards[shard].digest == outcome.source_digest
        assert [part.rows for part in manifest.parts] == [BATCH_SIZE] * (rows // BATCH_SIZE) + (
            [rows % BATCH_SIZE] if rows % BATCH_SIZE else []
        )
        assert outcome.digest == manifest.digest
        assert (outcome.facts["rows"], outcome.facts["parts"]) == (rows, len(manifest.parts))
        assert outcome.facts["bytes"] == sum(world.path(part.name).stat().st_size for part in manifest.parts)
        assert world.path(f"quarantine/model={MODEL}/shard={shard}.csv").read_text() == "inchikey,input,reason\n"
        given = molecules(world, shard)
        text = raw_text(world, shard)
        assert text["key"].to_list() == given["inchikey"]
        assert text["input"].to_list() == given["smiles"]
        assert text.select("score", "atoms", "label").rows() == [
            (repr(len(s) / 3), str(len(s)), s) for s in given["smiles"]
        ]
    assert set(asked(world).values()) == {1}
    assert sum(asked(world).values()) == library.molecules


def test_small_shards_share_calls_and_each_keeps_its_own_files(predicted) -> None:
    n_parts = sum(len(require_manifest(predicted.store, MODEL, shard).parts) for shard in SHARDS)
    assert len(predicted.calls()) < n_parts / 2
    for shard in SHARDS:
        names = list(predicted.objects(f"raw/model={MODEL}/shard={shard}"))
        manifest = require_manifest(predicted.store, MODEL, shard)
        assert sorted(names) == sorted(
            [f"raw/model={MODEL}/shard={shard}/manifest.json", *(part.name for part in manifest.parts)]
        )


def test_a_second_call_writes_nothing_and_never_starts_the_model(predicted) -> None:
    class Untouchable(FrameworkBackend):
        def __enter__(self):
            raise AssertionError("the model was started")

    objects = predicted.objects()
    backend = predicted.backend()
    backend.__class__ = Untouchable
    again = list(
        predict_shards(
            predicted.store,
            read_manifest(predicted.store),
            MODEL,
            backend,
            SHARDS,
            settings=Settings(batch_size=5, max_failure_rate=0.1),
        )
    )
    assert [outcome.failure for outcome in again] == [""] * len(SHARDS)
    assert sum(int(outcome.facts["rows"]) for outcome in again) == 60
    assert predicted.objects() == objects


def test_another_release_is_computed_and_replaces_the_first(predicted) -> None:
    before = {shard: require_manifest(predicted.store, MODEL, shard) for shard in SHARDS}
    predicted.write_model(release="v2.0.0", answer="return f'0.5,{len(smiles)},new'")
    predicted.predict()
    for shard in SHARDS:
        manifest = require_manifest(predicted.store, MODEL, shard)
        assert manifest.release == "v2.0.0"
        assert set(raw_text(predicted, shard)["label"]) == {"new"}
        assert manifest.digest != before[shard].digest
        assert not {part.name for part in before[shard].parts} & set(predicted.objects())
    assert set(asked(predicted).values()) == {2}


def test_another_set_of_columns_is_computed_again(predicted) -> None:
    predicted.write_model(columns=[("score", "float")], answer="return '0.5'")
    assert [outcome.failure for outcome in predicted.predict()] == [""] * len(SHARDS)
    assert set(raw_text(predicted, "00").columns) == {"key", "input", "quarantine", "score"}


def test_a_new_library_costs_only_its_new_molecules(predicted) -> None:
    before = read_manifest(predicted.store)
    printed = {smiles: cells for shard in SHARDS for _, smiles, *cells in raw_text(predicted, shard).rows()}
    calls = len(predicted.calls())
    objects = predicted.objects("raw")
    predicted.write_model(answer="return f'0.5,{len(smiles)},new'")
    library = predicted.build_library([*MOLECULES[5:], "CBr", "CCBr"])
    changed = [shard for shard in SHARDS if library.shards[shard].digest != before.shards[shard].digest]
    assert [outcome.failure for outcome in predicted.predict()] == [""] * len(SHARDS)
    assert sorted(smiles for call in predicted.calls()[calls:] for smiles in call) == ["CBr", "CCBr"]
    for shard in SHARDS:
        text = raw_text(predicted, shard)
        assert text["input"].to_list() == molecules(predicted, shard)["smiles"]
        for _, smiles, quarantine, *cells in text.rows():
            assert [quarantine, *cells] == printed.get(smiles, [None, "0.5", str(len(smiles)), "new"])
    untouched = {name: tag for name, tag in objects.items() if not any(f"shard={shard}/" in name for shard in changed)}
    assert {name: predicted.objects("raw")[name] for name in untouched} == untouched


def test_rows_of_an_interrupted_run_serve_a_later_library(predicted) -> None:
    for shard in SHARDS:
        predicted.path(f"raw/model={MODEL}/shard={shard}/manifest.json").unlink()
    calls = len(predicted.calls())
    predicted.build_library([*MOLECULES, "CBr"])
    assert [outcome.failure for outcome in predicted.predict()] == [""] * len(SHARDS)
    assert [smiles for call in predicted.calls()[calls:] for smiles in call] == ["CBr"]


def test_parts_of_an_older_library_are_deleted(predicted) -> None:
    predicted.build_library(MOLECULES[::2])
    calls = len(predicted.calls())
    predicted.predict()
    assert len(predicted.calls()) == calls
    named = {part.name for shard in SHARDS for part in require_manifest(predicted.store, MODEL, shard).parts}
    assert {name for name in predicted.objects("raw") if not name.endswith("manifest.json")} == named


def test_a_run_out_of_time_stops_and_the_next_run_resumes(world) -> None:
    world.write_model(script="time.sleep(0.5)\n" + WRITE)
    world.build_library()
    arguments = {"settings": Settings(batch_size=BATCH_SIZE, max_failure_rate=0.1)}
    library = read_manifest(world.store)
    deadline = time.monotonic() + 1.6
    first = list(predict_shards(world.store, library, MODEL, world.backend(), SHARDS, deadline=deadline, **arguments))
    assert time.monotonic() < deadline
    assert sorted(outcome.shard for outcome in first) == SHARDS
    assert {outcome.failure for outcome in first} == {""}
    assert not all(outcome.landed for outcome in first)
    assert 0 < sum(asked(world).values()) < library.molecules
    second = list(predict_shards(world.store, library, MODEL, world.backend(), SHARDS, **arguments))
    assert all(outcome.landed for outcome in second)
    assert set(asked(world).values()) == {1}
    assert sum(asked(world).values()) == library.molecules


def test_a_run_without_time_only_reuses_stored_parts(predicted) -> None:
    predicted.build_library([*MOLECULES, "CBr"])
    calls = len(predicted.calls())
    library = read_manifest(predicted.store)
    outcomes = list(
        predict_shards(
            predicted.store,
            library,
            MODEL,
            predicted.backend(),
            SHARDS,
            deadline=0.0,
            settings=Settings(batch_size=5, max_failure_rate=0.1),
        )
    )
    assert len(predicted.calls()) == calls
    assert sorted(outcome.unfinished for outcome in outcomes) == [False, False, False, True]


def test_a_hanging_call_ends_at_the_deadline_without_failures(world) -> None:
    world.write_model(script="time.sleep(30)\n" + WRITE)
    world.build_library()
    arguments = {"settings": Settings(batch_size=BATCH_SIZE, max_failure_rate=0.1)}
    library = read_manifest(world.store)
    started = time.monotonic()
    backend = world.backend(batch_timeout=60.0)
    first = list(predict_shards(world.store, library, MODEL, backend, SHARDS, deadline=started + 2, **arguments))
    assert time.monotonic() - started < 10
    assert [(outcome.failure, outcome.unfinished) for outcome in first] == [("", True)] * len(SHARDS)
    assert not world.objects("raw")
    assert not world.objects("quarantine")
    world.write_model()
    second = list(predict_shards(world.store, library, MODEL, world.backend(), SHARDS, **arguments))
    assert all(outcome.landed and not outcome.facts["quarantined"] for outcome in second)


def test_a_killed_run_leaves_no_scratch_folder(world, tmp_path) -> None:
    world.write_model(script="time.sleep(30)\n" + WRITE)
    world.build_library()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**world.environment, "TMPDIR": str(scratch)}
    with subprocess.Popen(world.command("predict", MODEL), env=environment, cwd=world.root) as process:
        deadline = time.monotonic() + 60
        while not world.calls() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(scratch.iterdir())
        process.kill()
    while list(scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(scratch.iterdir())


def test_a_call_timeout_still_blames_the_hanging_molecule(world) -> None:
    world.build_library()
    hanging = molecules(world, "00")["smiles"][0]
    world.write_model(answer=f"if smiles == {hanging!r}: time.sleep(30)\n{ANSWERED}")
    arguments = {"settings": Settings(batch_size=BATCH_SIZE, max_failure_rate=0.5), "deadline": time.monotonic() + 60}
    backend = world.backend(batch_timeout=1.0)
    library = read_manifest(world.store)
    (landed,) = predict_shards(world.store, library, MODEL, backend, ["00"], **arguments)
    assert (landed.landed, landed.facts["quarantined"]) == (True, 1)


def reshard(world, n_shards: int) -> LibraryManifest:
    """Rebuild the library with this number of shards."""
    source = world.root / "library.smi"
    source.write_text("\n".join(MOLECULES) + "\n")
    return build_library(world.store, source, n_shards=n_shards, processes=1)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.data())
def test_resharding_never_computes_a_molecule_twice(new_world, numbers: list[int], data: st.DataObject) -> None:
    world, model = new_world(f"world-{uuid.uuid4()}"), Echo()
    for n_shards in numbers:
        reshard(world, n_shards)
        shards = data.draw(st.lists(st.sampled_from(shard_keys(n_shards)), unique=True, min_size=1))
        assert all(outcome.landed for outcome in world.predict(shards, backend=model))
        assert sum(map(len, model.calls)) == len(model.answered)
        for shard in shards:
            given = molecules(world, shard)["smiles"]
            assert _column(world, shard, "input") == given
            assert _column(world, shard, "label") == given


def test_parts_of_another_number_of_shards_stay_unchanged(predicted, caplog: pytest.LogCaptureFixture) -> None:
    theirs = {name: tag for name, tag in predicted.objects("raw").items() if "/part-" in name}
    reshard(predicted, 3)
    caplog.clear()
    assert all(outcome.landed for outcome in predicted.predict(shard_keys(3)))
    (said,) = caplog.messages
    assert f"{len(theirs)} parts of the raw predictions of {MODEL}" in said
    assert min(theirs) in said
    reshard(predicted, len(SHARDS))
    objects = predicted.objects("raw")
    assert theirs.items() <= objects.items()
    assert all(outcome.landed for outcome in predicted.predict())
    assert set(asked(predicted).values()) == {1}
    assert theirs.items() <= predicted.objects("raw").items()


def test_another_release_s_parts_are_neither_used_nor_deleted(predicted) -> None:
    theirs = {name: tag for name, tag in predicted.objects("raw").items() if "/part-" in name}
    reshard(predicted, 3)
    predicted.write_model(release="v2.0.0", answer="return f'0.5,{len(smiles)},new'")
    assert all(outcome.landed for outcome in predicted.predict(shard_keys(3)))
    assert set(raw_text(predicted, "00")["label"]) == {"new"}
    assert theirs.items() <= predicted.objects("raw").items()


@pytest.mark.slow
def test_too_many_failures_are_retried_after_resharding(world) -> None:
    world.build_library()
    world.write_model(answer=f"if smiles.endswith('Cl'): sys.exit('no')\n{ANSWERED}")
    world.predict(max_failure_rate=0.5)
    reshard(world, 3)
    assert not any(outcome.landed for outcome in world.predict(shard_keys(3), max_failure_rate=0.1))
    calls = len(world.calls())
    world.write_model()
    assert all(outcome.landed for outcome in world.predict(shard_keys(3), max_failure_rate=0.1))
    assert all(smiles.endswith("Cl") for call in world.calls()[calls:] for smiles in call)


@given(st.integers(0, 2**64 - 1), st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_molecule_s_old_part_may_concern_its_new_shard(h: int, before: int, after: int) -> None:
    part = PartName("raw/model=eos9abc/shard=07", 0, shard_index(h, before), before, "0" * 8, "0" * 12)
    assert part.may_concern(shard_index(h, after), after)
    concerned = [shard for shard in range(after) if part.may_concern(shard, after)]
    assert len(concerned) <= after // before + 2


@given(st.integers(0, 20_000), st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_part_s_name_is_parsed_to_its_fields(index: int, shard: int, n_shards: int) -> None:
    for environment in ("", "framework-0123456789ab", "ersilia-0.1.63"):
        part = PartName(f"raw/model=eos9abc/shard={shard:02d}", index, shard, n_shards, "0a" * 4, "b1" * 6, environment)
        assert PartName.parse(str(part)) == part


BROMIDES = ["C" * n + "Br" for n in range(1, 16)]


def test_a_broken_model_blames_no_new_molecule(predicted) -> None:
    predicted.build_library([*MOLECULES, *BROMIDES[:2]])
    predicted.write_model(run="echo no GPU here >&2\nexit 9\n")
    changed = [outcome for outcome in predicted.predict() if not outcome.landed]
    assert changed
    assert all("no GPU here" in outcome.failure for outcome in changed)
    predicted.write_model()
    assert all(outcome.landed and not outcome.facts["quarantined"] for outcome in predicted.predict())


def test_any_number_of_new_bad_molecules_is_quarantined(world) -> None:
    world.build_library()
    world.predict(backend=Echo())
    world.build_library([*MOLECULES, *BROMIDES])
    outcomes = world.predict(backend=Echo(refuses=BROMIDES))
    assert [outcome.failure for outcome in outcomes] == [""] * len(SHARDS)
    assert sum(outcome.facts["quarantined"] for outcome in outcomes) == len(BROMIDES)


def test_a_shard_over_the_failure_limit_fails_alone(world) -> None:
    world.build_library()
    refused = molecules(world, "00")["smiles"][1:13]
    for _ in range(2):
        done = world.predict(max_failure_rate=0.1, backend=Echo(refuses=refused))
        outcomes = {outcome.shard: outcome.failure for outcome in done}
        assert f"{len(refused)} of" in outcomes["00"]
        assert [outcomes[shard] for shard in SHARDS[1:]] == ["", "", ""]
        for shard in SHARDS[1:]:
            obstore.delete(world.store, f"raw/model={MODEL}/shard={shard}/manifest.json")


def test_finished_shards_stay_landed_if_the_model_or_time_fails(predicted) -> None:
    before = read_manifest(predicted.store)
    library = predicted.build_library([*MOLECULES, "CBr"])
    changed = [shard for shard in SHARDS if library.shards[shard].digest != before.shards[shard].digest]
    predicted.write_model(run="exit 9\n")
    for deadline in (math.inf, 0.0):
        arguments = {"settings": Settings(batch_size=1, max_failure_rate=0.1), "deadline": deadline}
        order = [*changed, *(shard for shard in SHARDS if shard not in changed)]
        outcomes = predict_shards(predicted.store, library, MODEL, predicted.backend(), order, **arguments)
        assert [outcome.shard for outcome in outcomes if not outcome.landed] == changed


@pytest.mark.parametrize("sizes", [(5, 5), (5, 3)], ids=["the same batches", "other batches"])
def test_two_runs_of_the_same_shards_leave_whole_data(predicted, sizes: tuple[int, int]) -> None:
    library = predicted.build_library([*MOLECULES[3:], "CBr", "CCBr", "CCCBr", "CCCCBr"])

    def run(size: int) -> list[ShardOutcome]:
        arguments = {"settings": Settings(batch_size=size, max_failure_rate=0.1)}
        return list(predict_shards(predicted.store, library, MODEL, predicted.backend(), SHARDS, **arguments))

    with ThreadPoolExecutor() as pool:
        both = [outcome for outcomes in pool.map(run, sizes) for outcome in outcomes]
    assert {outcome.failure for outcome in both if "at the same time" not in outcome.failure} <= {""}
    assert all(outcome.landed for outcome in run(sizes[0]))
    assert [outcome.failure for outcome in predicted.validate()] == [""] * len(SHARDS)


LIBRARIES = st.lists(st.sets(st.sampled_from(MOLECULES[:20]), min_size=1), min_size=2, max_size=4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIBRARIES, st.data())
def test_no_molecule_that_stays_is_computed_again(new_world, libraries: list[set[str]], data: st.DataObject) -> None:
    world = new_world(f"world-{uuid.uuid4()}")
    there: set[str] = set()
    for chosen in libraries:
        world.build_library(sorted(chosen))
        model = Echo()
        interrupted = data.draw(st.booleans())
        shards = SHARDS[: data.draw(st.integers(1, 4))] if interrupted else SHARDS
        world.predict(shards, backend=model)
        new = [smiles for call in model.calls for smiles in call]
        done = {smiles for shard in shards for smiles in molecules(world, shard)["smiles"]}
        assert sorted(new) == sorted(done - there)
        there = {smiles for smiles in there if shard_of(inchikey(smiles), len(SHARDS)) not in shards} | done
        for shard in shards:
            assert _column(world, shard, "input") == molecules(world, shard)["smiles"]


def test_parts_of_an_interrupted_run_are_reused(predicted) -> None:
    kept = {}
    for shard in SHARDS:
        manifest = require_manifest(predicted.store, MODEL, shard)
        predicted.path(f"raw/model={MODEL}/shard={shard}/manifest.json").unlink()
        obstore.delete(predicted.store, manifest.parts[-1].name)
        kept |= {part.name: predicted.objects("raw")[part.name] for part in manifest.parts[:-1]}
    calls = len(predicted.calls())
    assert [outcome.failure for outcome in predicted.predict()] == [""] * len(SHARDS)
    assert {name: predicted.objects("raw")[name] for name in kept} == kept
    last = [smiles for shard in SHARDS for smiles in raw_text(predicted, shard)["input"].to_list()[-5:]]
    new = [smiles for call in predicted.calls()[calls:] for smiles in call]
    assert len(new) <= 5 * len(SHARDS)
    assert set(new) <= set(last)


@pytest.mark.parametrize("damage", [b"", b"no gzip at all", None], ids=["empty", "text", "cut short"])
def test_a_damaged_part_of_an_interrupted_run_is_computed_again(predicted, damage: bytes | None) -> None:
    part = require_manifest(predicted.store, MODEL, "01").parts[0]
    whole = predicted.path(part.name).read_bytes()
    predicted.path(part.name).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    predicted.path(f"raw/model={MODEL}/shard=01/manifest.json").unlink()
    assert [outcome.failure for outcome in predicted.predict()] == [""] * len(SHARDS)
    assert predicted.path(part.name).read_bytes() == whole


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_the_remedy_for_a_lost_or_damaged_part_works(predicted, damage: str) -> None:
    part = require_manifest(predicted.store, MODEL, "02").parts[0]
    path = predicted.path(part.name)
    whole = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(bytes(byte ^ 0xFF for byte in whole))
        (failed,) = predicted.validate(["02"])
        assert "delete it and predict the shard again" in failed.failure
    path.unlink()
    (failed,) = predicted.validate(["02"])
    assert "predict the shard again" in failed.failure
    predicted.predict(["02"])
    assert path.exists()
    assert path.read_bytes() == whole
    assert [outcome.failure for outcome in predicted.validate(["02"])] == [""]


def test_a_damaged_library_shard_fails_alone(world) -> None:
    world.write_model()
    world.build_library()
    world.library_shard("01").write_bytes(b"PAR1 not quite PAR1")
    outcomes = {outcome.shard: outcome.failure for outcome in world.predict()}
    assert "library/shard=01/" in outcomes.pop("01")
    assert outcomes == {"00": "", "02": "", "03": ""}


def test_a_damaged_manifest_fails_alone_and_names_the_remedy(predicted) -> None:
    predicted.path(f"raw/model={MODEL}/shard=02/manifest.json").write_text("no JSON")
    outcomes = {outcome.shard: outcome.failure for outcome in predicted.predict()}
    assert "shard=02/manifest.json is damaged" in outcomes["02"]
    assert "delete it and predict shard 02 again" in outcomes.pop("02")
    assert set(outcomes.values()) == {""}
    predicted.path(f"raw/model={MODEL}/shard=02/manifest.json").unlink()
    assert [outcome.failure for outcome in predicted.predict(["02"])] == [""]


def test_a_model_that_fails_on_a_whole_shard_loses_only_it(world) -> None:
    library = world.build_library()
    refused = molecules(world, "02")["smiles"]
    outcomes = {outcome.shard: outcome for outcome in world.predict(backend=Echo(refuses=refused))}
    assert "cannot do it" in outcomes["02"].failure or "quarantined" in outcomes["02"].failure
    assert {shard for shard, outcome in outcomes.items() if outcome.landed} == {"00", "01", "03"}
    for shard in ("00", "01", "03"):
        assert require_manifest(world.store, MODEL, shard).rows == library.shards[shard].rows


def test_bad_molecules_have_a_reason_and_a_row_of_nulls(world) -> None:
    world.build_library()
    refused, misprinted = molecules(world, "00")["smiles"][3], molecules(world, "02")["smiles"][0]
    world.write_model(
        answer=f"if smiles == {refused!r}:\n    sys.exit('bad valence')\n"
        f"if smiles == {misprinted!r}:\n    return 'unknown,,'\n{ANSWERED}"
    )
    outcomes = {outcome.shard: outcome for outcome in world.predict()}
    assert {shard: outcome.facts["quarantined"] for shard, outcome in outcomes.items()} == dict(
        zip(SHARDS, (1, 0, 1, 0), strict=True)
    )
    for shard, smiles, reason in (
        ("00", refused, "run.sh exited 1: bad valence"),
        ("02", misprinted, "score is 'unknown', not a finite number"),
    ):
        listed = world.path(f"quarantine/model={MODEL}/shard={shard}.csv").read_text()
        expected = [["inchikey", "input", "reason"], [inchikey(smiles), smiles, reason]]
        assert list(csv.reader(io.StringIO(listed))) == expected
        text = raw_text(world, shard)
        bad = text.filter(pl.col("input") == smiles)
        assert bad.select("quarantine", "score", "atoms", "label").rows() == [(reason, None, None, None)]
        good = text.filter(pl.col("input") != smiles)
        assert good["quarantine"].null_count() == good.height
        assert good["label"].to_list() == good["input"].to_list()


def test_too_many_failures_fail_the_shard_but_keep_its_rows(world) -> None:
    world.build_library()
    given = molecules(world, "00")["smiles"]
    world.write_model(answer=f"if smiles in {given[::3]!r}:\n    return 'x,,'\n{ANSWERED}")
    outcomes = {outcome.shard: outcome for outcome in world.predict(max_failure_rate=0.1)}
    assert f"{len(given[::3])} of {len(given)} molecules quarantined" in outcomes["00"].failure
    assert "PRECALC_MAX_FAILURE_RATE" in outcomes["00"].failure
    assert [outcomes[shard].failure for shard in ("01", "02", "03")] == ["", "", ""]
    calls = len(world.calls())
    assert [outcome.failure for outcome in world.predict(max_failure_rate=0.5)] == [""] * len(SHARDS)
    assert len(world.calls()) == calls


ODD_LINES = (
    ('1.0e-05,2.0,"two\nlines"', ("1.0e-05", "2.0", "two\nlines")),
    ('1E5,+7,"say ""hi"", you"', ("1E5", "+7", 'say "hi", you')),
    (",,", (None, None, None)),
    ('-0.0,0,""', ("-0.0", "0", "")),
    ("nan,NA,nan", ("nan", "NA", "nan")),
    (
        ' 0.1000000000000000055511151231257827,9223372036854775807," padded "',
        (" 0.1000000000000000055511151231257827", "9223372036854775807", " padded "),
    ),
    ("5e-324,-9223372036854775808,ünï🧪", ("5e-324", "-9223372036854775808", "ünï🧪")),
)


def test_raw_predictions_are_exactly_the_printed_text(world) -> None:
    lines = [line for line, _ in ODD_LINES]
    world.write_model(answer=f"return {lines!r}[len(smiles) % {len(lines)}]")
    world.build_library()
    assert [outcome.failure for outcome in world.predict()] == [""] * len(SHARDS)
    seen = set()
    for shard in SHARDS:
        for smiles, *cells in raw_text(world, shard).select("input", "score", "atoms", "label").rows():
            assert tuple(cells) == ODD_LINES[len(smiles) % len(lines)][1]
            seen.add(len(smiles) % len(lines))
    assert seen == set(range(len(lines)))


def test_parts_are_gzipped_csv_that_any_program_reads(predicted) -> None:
    part = require_manifest(predicted.store, MODEL, "00").parts[0]
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(predicted.path(part.name).read_bytes()).decode())))
    assert list(rows[0]) == ["key", "input", "quarantine", "score", "atoms", "label"]
    assert all(row["label"] == row["input"] for row in rows)


def test_key_and_input_columns_are_allowed_in_any_order(world) -> None:
    world.write_model(header="label,key,score,input,atoms", answer="return f'{smiles},K,0.5,{smiles},{len(smiles)}'")
    world.build_library()
    assert [outcome.failure for outcome in world.predict()] == [""] * len(SHARDS)
    text = raw_text(world, "00")
    assert text.columns == ["key", "input", "quarantine", "score", "atoms", "label"]
    assert text["label"].to_list() == text["input"].to_list()
    assert set(text["score"]) == {"0.5"}


def test_rows_in_another_order_are_never_accepted(world) -> None:
    world.write_model(
        header="input,score,atoms,label",
        answer="return f'{smiles},0.5,1,{smiles}'",
        script="""write("\\n".join([HEADER, *map(answer, reversed(given))]) + "\\n")""",
    )
    world.build_library(["CC", "CCO", "CCN", "CCC", "CCCO"])
    for outcome in world.predict():
        assert not outcome.failure
        if outcome.facts["rows"]:
            text = raw_text(world, outcome.shard)
            assert text["label"].to_list() == text["input"].to_list()


def test_an_empty_shard_lands_with_no_rows(world) -> None:
    world.write_model()
    library = world.build_library(["CCO"])
    outcomes = {outcome.shard: outcome for outcome in world.predict()}
    assert {shard: outcome.facts["rows"] for shard, outcome in outcomes.items()} == {
        shard: info.rows for shard, info in library.shards.items()
    }
    assert [outcome.failure for outcome in outcomes.values()] == [""] * len(SHARDS)
    assert sorted(info.rows for info in library.shards.values()) == [0, 0, 0, 1]


def test_progress_counts_each_molecule_once_on_any_run(world) -> None:
    world.build_library()
    bad = molecules(world, "00")["smiles"][0]
    world.write_model(answer=f"if smiles == {bad!r}:\n    return 'x,,'\n{ANSWERED}")
    for _ in range(2):
        told: list[tuple[int, int]] = []
        list(
            predict_shards(
                world.store,
                read_manifest(world.store),
                MODEL,
                world.backend(),
                SHARDS,
                settings=Settings(batch_size=BATCH_SIZE, max_failure_rate=0.5),
                on_progress=lambda molecules, quarantined, told=told: told.append((molecules, quarantined)),
            )
        )
        assert (sum(n for n, _ in told), sum(n for _, n in told)) == (60, 1)


def test_the_model_sees_no_secret_and_no_precalc_variable(world, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PRECALC_STORE_URL", "DAGSTER_HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "s3://secret")
    world.write_model(
        columns=[("variables", "string")],
        answer="""return '"' + json.dumps(sorted(os.environ)).replace('"', '""') + '"'""",
    )
    world.build_library(["CCO"])
    world.predict()
    (variables,) = {cell for shard in SHARDS for cell in _column(world, shard, "variables")}
    seen = json.loads(variables)
    assert "PATH" in seen
    assert not [name for name in seen if name.startswith(("AWS_", "GITHUB_", "PRECALC_", "DAGSTER_", "PYTHON"))]


def _column(world, shard: str, name: str) -> list[str]:
    manifest = require_manifest(world.store, MODEL, shard)
    return raw_text(world, shard)[name].to_list() if manifest.parts else []


@pytest.mark.slow
def test_a_shard_with_too_many_failures_retries_them(world):
    world.build_library()
    world.write_model(answer="if smiles.endswith('Cl'): raise ValueError('no')\n" + ANSWERED)
    before = world.predict(max_failure_rate=0.1)
    calls = len(world.calls())
    assert all(not outcome.landed for outcome in before)

    world.write_model()
    after = world.predict(max_failure_rate=0.1)

    assert all(outcome.landed and outcome.facts["quarantined"] == 0 for outcome in after)
    assert all(smiles.endswith("Cl") for call in world.calls()[calls:] for smiles in call)
    assert {outcome.shard: outcome.facts["rows"] for outcome in after} == {
        shard: info.rows for shard, info in read_manifest(world.store).shards.items()
    }


def test_a_molecule_without_a_printed_value_is_quarantined(world):
    world.build_library(["CCO", "CCN", "CCC", "CCCl", "CCF", "CCBr"])
    world.write_model(answer="return ',,' if smiles == 'CCN' else '1,1,x'")

    outcomes = world.predict(max_failure_rate=1.0)

    assert sum(outcome.facts["quarantined"] for outcome in outcomes) == 1
    lists = [world.path(name).read_text() for name in world.objects("quarantine")]
    listed = [line for text in lists for line in text.splitlines()[1:]]
    assert listed == [f"{inchikey('CCN')},CCN,the model printed no value"]
