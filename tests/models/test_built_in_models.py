"""The built-in models, run like the hub does: `run.sh` of their folder, in its own process."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from precalc_assets.settings import BUILT_IN_MODELS

MODELS = ("eos0aaa", "eos0bbb")
PARSE = {"float": float, "integer": int, "string": str}


def run(model: str, source: Path, target: Path) -> list[list[str]]:
    """Run a model over a file and return its output, header first."""
    framework = BUILT_IN_MODELS / model / "model" / "framework"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", framework / "run.sh", framework, source, target], check=True, env={**os.environ, "PATH": path}
    )
    return read(target)


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def columns(model: str) -> list[dict[str, str]]:
    path = BUILT_IN_MODELS / model / "model" / "framework" / "columns" / "run_columns.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", MODELS)
def test_example_output_is_the_models_output(model: str, tmp_path: Path) -> None:
    examples = BUILT_IN_MODELS / model / "model" / "framework" / "examples"
    output = run(model, examples / "run_input.csv", tmp_path / "out.csv")
    assert output == read(examples / "run_output.csv")
    assert len(output) == 4


@pytest.mark.parametrize("model", MODELS)
def test_rows_keep_their_order_and_bad_molecules_get_empty_cells(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\nnot a molecule\nC[N](C)(C)(C)C\n\nCCO\n")
    header, first, *bad, last = run(model, source, tmp_path / "out.csv")
    assert first == last
    assert bad == [[""] * len(header)] * 3


@pytest.mark.parametrize("model", MODELS)
def test_the_columns_file_describes_the_header_and_the_types(model: str) -> None:
    header, *rows = read(BUILT_IN_MODELS / model / "model" / "framework" / "examples" / "run_output.csv")
    declared = columns(model)
    assert [column["name"] for column in declared] == header
    assert all(len(column["description"]) >= 10 for column in declared)
    for row in rows:
        for column, cell in zip(declared, row, strict=True):
            PARSE[column["type"]](cell)


@pytest.mark.parametrize("model", MODELS)
def test_the_metadata_agrees_with_the_folder(model: str) -> None:
    metadata = yaml.safe_load((BUILT_IN_MODELS / model / "metadata.yml").read_text())
    assert metadata["Identifier"] == model
    assert metadata["Output Dimension"] == len(columns(model))
    assert metadata["Release"] == "v1.0.0"


@pytest.mark.parametrize("model", MODELS)
def test_the_environment_pins_the_rdkit_of_the_lock(model: str) -> None:
    install = yaml.safe_load((BUILT_IN_MODELS / model / "install.yml").read_text())
    lock = (BUILT_IN_MODELS.parent / "requirements.lock").read_text()
    [(tool, package, version)] = install["commands"]
    assert tool == "pip"
    assert f"\n{package}=={version} \\" in lock
