"""The Lambda's folder: small, the same each time, checked against the lock, and enough to answer with."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from uuid import uuid4

import pytest
from aws_emulator import tables_url
from serving import KEYS, MODEL, event, predictions, serve

from infra import lambda_asset
from infra.lambda_asset import HANDLER, LAMBDA, THIS_PYTHON, build_asset
from precalc_assets.tables import open_tables

pytestmark = pytest.mark.slow

ARM64 = 0xB7
"""The machine in an ELF header, at byte 18."""

ASK = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
module, function = sys.argv[2].rsplit(".", 1)
response = getattr(importlib.import_module(module), function)(json.load(sys.stdin), None)
print(json.dumps({"response": response, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def packed(contents: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return archive.getvalue()


def test_the_asset_for_lambda_is_small_and_the_same_each_time(tmp_path):
    first = files(build_asset(tmp_path / "first"))
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "left.over").touch()
    assert files(build_asset(tmp_path / "second", LAMBDA)) == first
    compiled = [name for name in first if name.endswith(".so")]
    assert compiled
    assert all("cpython-313-aarch64" in name for name in compiled)
    assert {first[name][18] for name in compiled} == {ARM64}
    assert not [name for name in first if ".pyc" in name or name.startswith("bin/")]
    assert len(packed(first)) < 10_000_000


def test_a_process_with_nothing_but_the_asset_answers(tables, tmp_path):
    asset = build_asset(tmp_path / "asset", THIS_PYTHON)
    rows = predictions(KEYS)
    serve(tables, rows)
    asked = event("POST", f"/models/{MODEL}/predictions", json.dumps({"inchikeys": KEYS}), {})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ASK, asset, HANDLER],
        input=json.dumps(asked),
        env={"PRECALC_TABLES_URL": f"sqlite:///{tmp_path / 'tables.db'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert json.loads(answer["response"]["body"])["predictions"] == [list(row) for row in rows.values()]
    large = {"boto3", "dagster", "numpy", "pandas", "polars", "pyarrow", "rdkit", "pydantic_settings"}
    assert not large & set(answer["modules"])


def test_a_lambda_made_of_the_asset_reads_dynamodb(aws, tmp_path):
    url = tables_url()
    rows = predictions(KEYS)
    serve(open_tables(url), rows)
    client = aws.client("lambda")
    name = f"reader-{uuid4().hex}"
    client.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/reader",
        Handler=HANDLER,
        Code={"ZipFile": packed(files(build_asset(tmp_path / "asset", THIS_PYTHON)))},
        Environment={"Variables": {**aws.environment, "PRECALC_TABLES_URL": url}},
        Timeout=30,
    )

    def ask(method, path, body=None):
        asked = json.dumps(event(method, path, body, {}))
        return json.load(client.invoke(FunctionName=name, Payload=asked)["Payload"])

    answer = ask("POST", f"/models/{MODEL}/predictions", json.dumps({"inchikeys": KEYS}))
    assert json.loads(answer["body"])["predictions"] == [list(row) for row in rows.values()]
    assert json.loads(ask("GET", "/models")["body"])["models"][0]["model"] == MODEL
    assert ask("GET", f"/models/eos9zzz/predictions/{KEYS[0]}")["statusCode"] == 404


def test_a_package_that_is_not_the_one_of_the_lock_is_refused(tmp_path, monkeypatch):
    other = re.sub(r"sha256:\w{8}", "sha256:00000000", lambda_asset._LOCK.read_text())
    (tmp_path / "lock").write_text(other)
    monkeypatch.setattr(lambda_asset, "_LOCK", tmp_path / "lock")
    with pytest.raises(RuntimeError, match=r"(?is)cannot be installed.*hash"):
        build_asset(tmp_path / "asset", THIS_PYTHON)
