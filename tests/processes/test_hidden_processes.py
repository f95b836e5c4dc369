"""What a model can read of our processes: none shows it the variables of the platform, with their credentials.

Root may read everything, so these programs run as root without a capability.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")]

UNPRIVILEGED = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for capability in range(64):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
SECRET = "the-secret-of-this-test"

SPY = f"""
import glob
found = []
for name in glob.glob("/proc/[0-9]*/environ"):
    try:
        with open(name, "rb") as file:
            if b"{SECRET}" in file.read():
                found.append(open(os.path.dirname(name) + "/cmdline").read().replace("\\\\0", " "))
    except OSError:
        continue
with open({{log!r}}, "a") as file:
    file.write(json.dumps(found) + "\\\\n")
write("\\\\n".join([HEADER, *map(answer, given)]) + "\\\\n")
"""


def unprivileged(*command: str | Path) -> list[str]:
    return [sys.executable, "-c", UNPRIVILEGED, *map(str, command)]


@pytest.mark.parametrize("command", [("predict", "--sample", "20"), ("predict",), ("run",)], ids=" ".join)
def test_a_model_reads_no_credentials_of_its_ancestors(world, command: tuple[str, ...]) -> None:
    log = world.root / "seen"
    world.write_model(script=SPY.replace("\\\\", "\\").format(log=str(log)))
    if command[0] == "run":
        (world.root / "molecules.smi").write_text("C\nCC\nCCO\n")
        assert world.precalc("library", "build", world.root / "molecules.smi").returncode == 0
    else:
        world.build_library(["C", "CC", "CCO"])
    verb, *options = command
    variables = world.environment | {"AWS_SECRET_ACCESS_KEY": SECRET, "PIP_INDEX_URL": f"https://me:{SECRET}@host"}
    done = subprocess.run(
        unprivileged(*world.command(verb, "eos9abc", *options)),
        env=variables | {"DAGSTER_HOME": str(home(world))},
        cwd=world.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(log.read_text().splitlines()) == {"[]"}


def home(world) -> Path:
    folder = world.root / "dagster"
    folder.mkdir(exist_ok=True)
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return folder


STARTS = {
    "guard": """
options = {"env": clean_variables(here), "cwd": here, "log": here / "log"}
server = hold(["sh", "-c", "sleep 20 &"], close=["true"], timeout=20, **options)
(outer,) = psutil.Process().children()
started = [outer, *outer.children()]
""",
    "parser of molecules": """
process = RDKitProcess()
process.ask(["CCO"])
started = psutil.Process().children()
""",
    "other": """
subprocess.Popen(["sleep", "20"], stdout=subprocess.DEVNULL)
started = psutil.Process().children()
""",
}

READS = """
import os, subprocess, sys, time
from pathlib import Path
import psutil
from precalc.molecules.rdkit_process import RDKitProcess
from precalc_assets.processes import clean_variables, hold
here = Path(sys.argv[1])
{start}
time.sleep(0.2)
for process in started:
    print(subprocess.run(["cat", f"/proc/{{process.pid}}/environ"], stdout=subprocess.DEVNULL).returncode == 0)
for process in psutil.Process().children(recursive=True):
    process.kill()
"""


@pytest.mark.parametrize(
    ("what", "readable"), [("guard", [False, False]), ("parser of molecules", [False]), ("other", [True])]
)
def test_programs_of_ours_are_hidden(tmp_path: Path, what: str, readable: list[bool]) -> None:
    command = unprivileged(sys.executable, "-c", READS.format(start=STARTS[what]), tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(one) for one in readable]
