"""Commands that are killed at random instants lose nothing and leave nothing over; `make chaos` does it for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("options", [["--seconds", "90"], ["--seconds", "30", "--aws"]], ids=["files", "aws"])
def test_killed_commands_end_as_undisturbed_ones(options: list[str]) -> None:
    command = [sys.executable, str(TESTS / "chaos" / "kill_matrix.py"), *options]
    variables = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 kills" not in done.stdout.splitlines()
