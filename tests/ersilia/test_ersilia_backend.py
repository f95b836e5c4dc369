"""The real ersilia CLI on models in local folders: fetch, serve, call, close and kill."""

import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rdkit import RDConfig

from precalc_assets.inference.batching import PatientCaller
from precalc_assets.inference.call_size import CallSize
from precalc_assets.models.recipe import read_recipe
from precalc_assets.platform_errors import ModelError
from precalc_assets.settings import BUILT_IN_MODELS

pytestmark = pytest.mark.slow

FIRST_5K = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
BAD = ("not a molecule", "C1CC", "c1ccc")


def molecules(number: int) -> list[str]:
    lines = FIRST_5K.read_text().splitlines()
    return [line.split()[0] for line in lines[:number] if line.split()]


def with_system_mode(model: str, obedient: Path, tmp_path: Path) -> Path:
    """Return a copy of a built-in model that the CLI runs in the system's Python."""
    folder = tmp_path / model
    shutil.copytree(BUILT_IN_MODELS / model, folder)
    shutil.copy(obedient / "config.json", folder)
    steps = read_recipe(folder).steps
    lines = "".join(f"RUN pip install {' '.join(step.arguments)}\n" for step in steps)
    (folder / "Dockerfile").write_text((obedient / "Dockerfile").read_text() + lines)
    return folder


def test_a_built_in_model_gives_the_framework_backend_s_answers(machine, obedient: Path, tmp_path: Path) -> None:
    folder = with_system_mode("eos0aaa", obedient, tmp_path)
    smiles = molecules(497)
    smiles[100:100] = BAD
    answers = {}
    for kind in ("framework", "ersilia"):
        with machine.backend(folder, kind) as backend:
            (answers[kind],) = PatientCaller("eos0aaa", backend, CallSize(1000)).answer([smiles])
    assert answers["ersilia"] == answers["framework"]
    assert len(answers["ersilia"].records) == len(smiles)
    assert set(answers["ersilia"].failures) >= {100, 101, 102}
    assert machine.left() == []


def test_bad_molecules_are_found_despite_the_circuit_breaker(machine, obedient: Path) -> None:
    smiles = ["C" * n for n in range(1, 65)]
    smiles[5], smiles[40] = "BAD1", "BAD2"
    with machine.backend(obedient, batch_size=64) as backend:
        (answer,) = PatientCaller("eos9obe", backend, CallSize(1000)).answer([smiles])
    assert answer.failures == {
        5: "the server answered 500: cannot parse BAD1",
        40: "the server answered 500: cannot parse BAD2",
    }


def test_two_workers_do_not_disturb_each_other(machine, obedient: Path) -> None:
    with machine.backend(obedient) as one, machine.backend(obedient) as other:
        assert one.predict(["C"]) == other.predict(["C"])
        assert len(machine.servers()) == 2
        other.restart()
        assert one.predict(["CC"]) == other.predict(["CC"])
    assert machine.left() == []


def test_two_models_at_the_same_time_do_not_disturb_each_other(machine, obedient: Path, tmp_path: Path) -> None:
    folder = with_system_mode("eos0aaa", obedient, tmp_path)
    smiles = molecules(200)
    with machine.backend(folder, "framework") as backend:
        (expected,) = PatientCaller("eos0aaa", backend, CallSize(1000)).answer([smiles])
    with machine.backend(obedient) as one, machine.backend(folder) as other, ThreadPoolExecutor() as pool:
        both = [pool.submit(one.predict, ["C" * n for n in range(1, 40)]) for _ in range(3)]
        both += [pool.submit(other.predict, smiles) for _ in range(3)]
        first, *_, last = [future.result() for future in both]
        assert len(machine.servers()) == 2
    assert last == expected.records
    assert first == both[1].result() == both[2].result()
    assert machine.left() == []


def test_a_killed_server_is_unhealthy_and_restarts(machine, obedient: Path) -> None:
    with machine.backend(obedient) as backend:
        assert backend.is_healthy()
        machine.servers()[0].kill()
        assert not backend.is_healthy()
        backend.restart()
        assert backend.is_healthy()
        assert len(backend.predict(["C"])) == 1


def test_a_server_is_restarted_every_restart_batches(machine, obedient: Path) -> None:
    with machine.backend(obedient, batch_size=2, restart_batches=2) as backend:
        first = machine.servers()
        backend.predict(["C", "CC"])
        backend.predict(["C", "CC"])
        assert machine.servers() == first
        backend.predict(["C"])
        assert machine.servers() != first


HOLDER = """
import sys, time
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.settings import Settings
settings = Settings(models_dir=sys.argv[1], model_backend="ersilia", cache_dir=sys.argv[2])
with open_backend(open_model("eos9obe", settings), settings) as backend:
    print(len(backend.predict(["C"])), flush=True)
    time.sleep(100)
"""


def test_a_kill_leaves_no_server_and_keeps_the_fetched_model(machine, obedient: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(obedient.parent), str(machine.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "1\n"
        fetched = machine.fetched_at("eos9obe")
        holder.send_signal(signal.SIGKILL)
    with machine.backend(obedient) as backend:
        assert len(machine.servers()) == 1
        assert len(backend.predict(["C"])) == 1
    assert machine.fetched_at("eos9obe") == fetched
    deadline = time.monotonic() + 20
    while machine.left():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_failed_fetch_says_why_and_can_be_repeated(machine, obedient: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eos9bad"
    shutil.copytree(obedient, folder)
    metadata = folder / "metadata.yml"
    metadata.write_text(metadata.read_text().replace("eos9obe", "eos9bad"))
    columns = folder / "model" / "framework" / "columns" / "run_columns.csv"
    good = columns.read_text()
    columns.write_text(good.replace("Characters of the text", "Short"))
    with pytest.raises(ModelError, match=r"ersilia fetch eos9bad exited 1: .*[Dd]escription is too short"):
        machine.backend(folder).__enter__()
    assert machine.left() == []
    columns.write_text(good)
    with machine.backend(folder) as backend:
        assert len(backend.predict(["C"])) == 1
