"""The check that screens find what is in the files."""

import dataclasses

from precalc_assets.screening import full_scan
from precalc_assets.screening.engine import ScreeningEngine
from precalc_assets.storage import predictions

MODEL = "eos9abc"


def loaded(world):
    world.write_model(answer="""return f'{len(smiles) / 3!r},{len(smiles)},"x"' if "Cl" not in smiles else ',,'""")
    world.build_library()
    world.predict(max_failure_rate=0.9)
    world.validate(max_failure_rate=0.9)
    world.load()
    return full_scan.check_screens(world.store, world.tables, MODEL)


def test_screens_of_a_sound_table_pass(world):
    check = loaded(world)
    assert (check.passed, check.description) == (True, "screens by score, atoms, label equal a full scan")


def test_a_screen_that_misses_molecules_is_named(world, monkeypatch):
    answer = ScreeningEngine.answer
    monkeypatch.setattr(
        ScreeningEngine, "answer", lambda self, query: dataclasses.replace(answer(self, query), matched=7)
    )
    check = loaded(world)
    assert not check.passed
    assert "eos9abc.score is_null None: a screen finds 7, the files have 15" in check.description


def test_a_lost_file_fails_the_check_and_not_the_card(world):
    loaded(world)
    world.path(predictions(MODEL, "02")).unlink()
    check = full_scan.check_screens(world.store, world.tables, MODEL)
    assert not check.passed
    assert "shard=02.parquet" in check.description
