"""`precalc get` with the real ersilia CLI, which computes missing molecules and reads the list of them."""

import csv
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from precalc.formats import LEADING
from precalc.molecules.smiles_workers import inchikey
from precalc_assets.models.environment import ersilia_program

ERSILIA = Path(__file__).parents[1] / "ersilia"
MODEL = "eos9obe"
NEW = ["CCCCCCCCCCCCCCCCCO", "CCCCCCCCCCCCCCCCCCO", "CCCCCCCCCCCCCCCCCO"]

pytestmark = pytest.mark.slow


class _Connected(BaseHTTPRequestHandler):
    """A proxy that answers the CLI's check for a network."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the CLI needs on a machine: programs on the PATH, and a network."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Connected) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("PATH", f"{ERSILIA / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1,0.0.0.0,localhost")
        yield
        server.shutdown()


@pytest.mark.usefixtures("online")
def test_ersilia_cli_computes_and_reads_missing_molecules(world) -> None:
    shutil.copytree(ERSILIA / "models" / MODEL, world.models_dir / MODEL)
    world.build_library()
    (world.root / "asked.csv").write_text("\n".join(["smiles", "CCO", *NEW, "no molecule"]) + "\n")
    for command in (
        ["predict", MODEL],
        ["load", MODEL],
        ["get", MODEL, "-i", "asked.csv", "-o", "out.csv", "--compute-missing", "--only-predictions"],
        ["get", MODEL, "-i", "asked.csv", "-o", "found.csv", "--missing", "missing.csv"],
    ):
        done = world.precalc(*command, model_backend="ersilia")
        assert done.returncode == 0, done.stderr

    computed = [[inchikey(text), text, "computed", "", "same", "", repr(len(text) / 3), str(len(text))] for text in NEW]
    with (world.root / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            [*LEADING, "score", "atoms"],
            [inchikey("CCO"), "CCO", "found", "", "key", "", "1.0", "3"],
            *computed,
            ["", "no molecule", "unreadable", "text after the SMILES", "", "", "", ""],
        ]
    assert _run_ersilia(world, "missing.csv") == [[text, float(score)] for _, text, *_, score, _ in computed]


def _run_ersilia(world, name: str) -> list[list[object]]:
    """Return the input and the score of each row that `ersilia run -i` prints."""
    home = world.cache_dir / "ersilia" / f"{MODEL}-0" / "home"
    for arguments in (["serve", MODEL], ["run", "-i", name, "-o", "ersilia.csv"], ["close"]):
        done = subprocess.run(
            [ersilia_program(world.cache_dir), *arguments],
            cwd=world.root,
            env={**os.environ, "HOME": str(home), "ERSILIA_SESSION": "by_hand"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with (world.root / "ersilia.csv").open(newline="") as file:
        return [[row["input"], float(row["score"])] for row in csv.DictReader(file)]
