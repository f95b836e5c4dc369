"""Every benchmark runs at a tiny size; its figures then mean nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
BENCHMARKS = sorted(path.stem for path in (PROJECT / "benchmarks").glob("*.py") if "def main(" in path.read_text())
MOLECULES = tuple("C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl"))


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_at_a_tiny_size(name: str, models_cache: Path, tmp_path: Path):
    molecules = tmp_path / "molecules.csv"
    molecules.write_text("\n".join(["smiles", *MOLECULES, ""]))
    variables = {**os.environ, "BENCH_SIZE": "tiny", "PRECALC_CACHE_DIR": str(models_cache)}
    command = [sys.executable, "-m", f"benchmarks.{name}", str(molecules)]
    done = subprocess.run(command, env=variables, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
