"""Each known fault of the hub's models, run through `precalc predict` with both backends."""

import csv
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rdkit import RDConfig

from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.predictions.shard_manifest import require_manifest
from precalc_assets.sharding import shard_keys

pytestmark = pytest.mark.slow

MODEL = "eos9abc"
SHARDS = shard_keys(4)
ANSWER = "return f'{len(smiles) / 3!r},{len(smiles)}'"
EXAMPLE = "CBr"
"""The model's example. The CLI runs it during the fetch, and rejects a model that does not answer it."""
NUMBERS = (("score", "float"), ("atoms", "integer"))
WRITE = """write("\\n".join([HEADER, *map(answer, given)]) + "\\n")"""

DIES_AFTER_2000 = f"""\
keeper = int(open(f"/proc/{{os.getppid()}}/stat").read().rpartition(")")[2].split()[1])
counter = COUNTS + f"/{{keeper}}"
total = len(given) + (int(open(counter).read()) if os.path.exists(counter) else 0)
with open(counter, "w") as file:
    file.write(str(total))
if total > 2000:
    os.kill(keeper, 9)
    sys.exit(1)
{WRITE}"""
"""Kills the process that started run.sh, a server or a guard, after it has run 2,000 molecules."""


@pytest.fixture(params=["framework", "ersilia"])
def predict(request, world, machine, obedient: Path) -> Callable[..., object]:
    """A function that runs `precalc predict` over a model with this fault, with the parametrized backend."""

    def run(molecules: list[str], settings: dict[str, str], steps: str = "", **model: object):
        folder = world.write_model(**{"columns": NUMBERS, "answer": ANSWER, **model})
        metadata = (obedient / "metadata.yml").read_text().replace("Identifier: eos9obe", f"Identifier: {MODEL}")
        (folder / "metadata.yml").write_text(metadata)
        shutil.copy(obedient / "config.json", folder)
        (folder / "Dockerfile").write_text((obedient / "Dockerfile").read_text() + steps)
        examples = folder / "model" / "framework" / "examples"
        examples.mkdir(exist_ok=True)
        columns = [name for name, _ in model.get("columns", NUMBERS)]
        (examples / "run_input.csv").write_text(f"smiles\n{EXAMPLE}\n")
        (examples / "run_output.csv").write_text(f"{','.join(columns)}\n{','.join('1' for _ in columns)}\n")
        world.build_library(molecules)
        done = world.precalc(
            "predict", MODEL, **{"model_backend": request.param, "max_failure_rate": "0.5", **settings}
        )
        assert "Traceback" not in done.stderr
        assert machine.left() == []
        return done

    return run


def chains(number: int) -> list[str]:
    return ["C" * n + end for n in range(1, number // 4 + 1) for end in ("", "O", "N", "Cl")]


def quarantined(world) -> dict[str, str]:
    found = {}
    for shard in SHARDS:
        with world.path(f"quarantine/model={MODEL}/shard={shard}.csv").open(newline="") as file:
            found |= {row["input"]: row["reason"] for row in csv.DictReader(file)}
    return found


def rows(world) -> int:
    return sum(require_manifest(world.store, MODEL, shard).rows for shard in SHARDS)


def test_a_model_that_dies_every_2000_molecules_answers_all(world, predict) -> None:
    counts = world.root / "counts"
    counts.mkdir()
    first = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()[:4500]
    script = DIES_AFTER_2000.replace("COUNTS", repr(str(counts)))
    done = predict([line.split()[0] for line in first], {"batch_size": "500"}, script=script)
    assert done.returncode == 0, done.stderr
    assert rows(world) == read_manifest(world.store).molecules > 4000
    assert quarantined(world) == {}
    assert len(list(counts.iterdir())) > 2


def test_a_molecule_that_fails_is_lost_alone_with_its_message(world, predict) -> None:
    done = predict(chains(40), {}, answer=f"if smiles == 'CCCO': sys.exit('bad valence')\n{ANSWER}")
    assert done.returncode == 0, done.stderr
    (reason,) = [why for smiles, why in quarantined(world).items() if smiles == "CCCO"]
    assert "bad valence" in reason
    assert len(quarantined(world)) == 1
    assert rows(world) == 40


def test_a_molecule_that_hangs_is_lost_alone(world, predict) -> None:
    done = predict(
        ["C", "CCO", "CCCO"],
        {"max_failure_rate": "1", "batch_timeout": "3", "batch_size": "3"},
        answer=f"if smiles == 'CCCO': time.sleep(100)\n{ANSWER}",
    )
    assert done.returncode == 0, done.stderr
    assert list(quarantined(world)) == ["CCCO"]
    assert "PRECALC_BATCH_TIMEOUT" in quarantined(world)["CCCO"]


def test_a_model_that_answers_only_nulls_is_stopped_early(world, predict) -> None:
    done = predict(chains(400), {"batch_size": "50"}, answer=f"if smiles != {EXAMPLE!r}: return ','\n{ANSWER}")
    assert done.returncode == 1
    assert "the model printed no value" in done.stderr
    assert not world.objects("raw")
    assert sum(map(len, world.calls())) < 200


def test_a_model_that_prints_strings_for_numbers_is_stopped(world, predict) -> None:
    done = predict(chains(40), {}, answer=f"if smiles != {EXAMPLE!r}: return 'high,high'\n{ANSWER}")
    assert done.returncode == 1
    assert "is 'high', not a" in done.stderr
    assert not world.objects("raw")


def test_a_model_of_3200_columns_is_answered(world, predict) -> None:
    columns = [(f"c{i}", "float") for i in range(3200)]
    done = predict(
        chains(40), {}, columns=columns, answer="return ','.join(repr(len(smiles) / (i + 1)) for i in range(3200))"
    )
    assert done.returncode == 0, done.stderr
    assert rows(world) == 40
    assert quarantined(world) == {}


def test_a_failed_install_shows_the_installer_s_message(world, predict) -> None:
    done = predict(chains(8), {}, steps="RUN echo no compiler >&2; exit 3\n")
    assert done.returncode == 1
    assert "no compiler" in done.stderr
    assert MODEL in done.stderr
    assert not world.objects("raw")


def test_a_model_that_omits_one_row_loses_only_that_molecule(world, predict) -> None:
    script = """write("\\n".join([HEADER, *(answer(s) for s in given if s != "CCCO")]) + "\\n")"""
    done = predict(chains(40), {"batch_size": "10"}, script=script)
    assert done.returncode == 0, done.stderr
    assert list(quarantined(world)) == ["CCCO"]
    assert "0 rows for 1 molecules" in quarantined(world)["CCCO"]
    assert rows(world) == 40


@pytest.mark.parametrize("predict", ["ersilia"], indirect=True)
def test_a_killed_predict_resumes_and_leaves_no_server(world, predict, machine) -> None:
    assert predict(chains(4), {}).returncode == 0  # fetches the model
    shutil.rmtree(world.path("raw"))
    world.build_library(chains(40))
    slow = {**world.environment, "PRECALC_MODEL_BACKEND": "ersilia", "PRECALC_BATCH_SIZE": "2"}
    process = subprocess.Popen(world.command("predict", MODEL), env=slow, cwd=world.root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(world.path("raw").rglob("part-*"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in world.path("raw").rglob("part-*")}
    done = world.precalc("predict", MODEL, model_backend="ersilia", batch_size="2")
    assert done.returncode == 0, done.stderr
    assert rows(world) == 40
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert machine.left() == []
