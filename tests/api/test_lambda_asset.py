"""The Lambdas' folders are small, reproducible, checked against the lock, and enough to answer with."""

import base64
import gzip
import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from aws_emulator import tables_url
from gateway_events import event
from made_up import MODEL, serve
from serving import KEYS, predictions
from spreadsheet import write_workbook

from infra import lambda_asset
from infra.lambda_asset import ASSETS, INCHIKEYS, LAMBDA, READER, SCREENS, THIS_PYTHON, Asset, build_asset
from precalc.expressions import make_question
from precalc_assets.screening.engine import open_engine
from precalc_assets.screening.query import read_question
from precalc_assets.tables import open_tables

pytestmark = pytest.mark.slow

ZIPPED = {READER: 10_000_000, INCHIKEYS: 20_000_000, SCREENS: 60_000_000}
UNZIPPED = 200_000_000
"""Bytes, of the 250 MB that a Lambda may have ("Lambda quotas"); and much less is read when it starts."""
CLIENT = Path(__file__).parents[2] / "client"
CARRIED = {
    *(f"precalc/{name}.py" for name in ("__init__", "csv_cells", "errors", "identifiers", "source", "statuses")),
    *(f"precalc/{name}.py" for name in ("expressions", "extras", "formats", "percentiles", "scratch")),
    *(str(path.relative_to(CLIENT)) for path in (CLIENT / "precalc" / "molecules").glob("*.py")),
}
"""What the Lambdas share with the client, of which they carry nothing else."""
ARROW_LIBRARY = re.compile(rb"\0(lib(?:arrow|parquet)\w*\.so\.\d+)\0")
"""A name in the table of strings of an ELF file, which has the libraries that it links to."""
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


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.name)
def test_lambda_asset_is_small_and_reproducible(tmp_path, asset):
    first = files(build_asset(tmp_path / "first", asset))
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "left.over").touch()
    assert files(build_asset(tmp_path / "second", asset, LAMBDA)) == first
    assert {name for name in first if name.startswith("precalc/")} <= CARRIED
    compiled = [name for name in first if re.search(r"\.so(\.|$)", name)]
    assert compiled
    # The names of libraries, and of RDKit's modules, do not have the version.
    assert all("cpython-313-aarch64" in name for name in compiled if "cpython" in name)
    assert {first[name][18] for name in compiled} == {ARM64}
    linked = {found.decode() for name in compiled for found in ARROW_LIBRARY.findall(first[name])}
    assert linked <= {Path(name).name for name in compiled}
    assert not [name for name in first if ".pyc" in name or name.startswith("bin/")]
    assert len(packed(first)) < ZIPPED[asset]
    assert sum(map(len, first.values())) < UNZIPPED


def test_rdkit_for_lambda_has_the_same_libraries_as_here(tmp_path):
    def libraries(folder):
        names = (name for name in files(folder) if name.startswith(("rdkit/", "rdkit.libs/")))
        # Digests of their content, and the Python that they link to, are what differs.
        return {re.sub(r"-[0-9a-f]{8}(?=\.so)|(?<=boost_python|.boost_numpy)\d+", "", name) for name in names}

    there, here = (build_asset(tmp_path / r.python, INCHIKEYS, r) for r in (LAMBDA, THIS_PYTHON))
    assert libraries(there) == libraries(here)


def ask(asset: Path, handler: str, asked: dict, **environment: str) -> dict:
    """Answer an event in a process that has the asset and nothing else."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ASK, asset, handler],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_reader_asset_alone_answers(tables, tmp_path):
    asset = build_asset(tmp_path / "asset", READER, THIS_PYTHON)
    rows = predictions(KEYS)
    serve(tables, rows)
    asked = event("POST", f"/models/{MODEL}/predictions", json.dumps({"inchikeys": KEYS}), {})
    url = f"sqlite:///{tmp_path / 'tables.db'}"
    answer = ask(asset, READER.handler, asked, PRECALC_TABLES_URL=url)
    assert json.loads(answer["response"]["body"])["predictions"] == [list(row) for row in rows.values()]
    large = {"boto3", "dagster", "jinja2", "numpy", "pandas", "polars", "pyarrow", "rdkit", "pydantic_settings"}
    assert not large & set(answer["modules"])

    for path, kind in (("/", "text/html"), ("/docs", "text/html"), ("/openapi.json", "application/json")):
        response = ask(asset, READER.handler, event("GET", path, None, {}), PRECALC_TABLES_URL=url)["response"]
        assert response["statusCode"] == 200
        assert response["headers"]["content-type"].startswith(kind)


def test_rdkit_asset_alone_answers(tmp_path):
    asset = build_asset(tmp_path / "asset", INCHIKEYS, THIS_PYTHON)
    asked = event("POST", "/inchikeys", json.dumps({"smiles": ["CC(=O)Oc1ccccc1C(=O)O", "C1CC", "[Xx]"]}), {})
    answer = ask(asset, INCHIKEYS.handler, asked)
    body = json.loads(answer["response"]["body"])
    assert body["inchikeys"] == ["BSYNRYMUTXBXSQ-UHFFFAOYSA-N", None, None]
    assert [error["index"] for error in body["errors"]] == [1, 2]
    assert not {"boto3", "numpy", "pyarrow", "rdkit", "sqlite3", "zstandard"} & set(answer["modules"])
    assert answer["response"]["headers"]["x-content-type-options"] == "nosniff"

    write_workbook(tmp_path / "a.xlsx", {"Sheet1": [["name", "SMILES"], ["ethanol", "CCO"]]})
    workbook = base64.b64encode((tmp_path / "a.xlsx").read_bytes()).decode()
    sent = event("POST", "/rows?name=a.xlsx", workbook, {}) | {"isBase64Encoded": True}
    rows = json.loads(ask(asset, INCHIKEYS.handler, sent)["response"]["body"])
    assert (rows["names"], rows["numbers"], rows["cells"]) == (["name", "SMILES"], [2], [["ethanol", "CCO"]])

    drawing = event("POST", "/drawings", json.dumps({"smiles": ["CCO", "C1CC", "C" * 500]}), {})
    drawn = json.loads(ask(asset, INCHIKEYS.handler, drawing)["response"]["body"])["drawings"]
    assert drawn[0].startswith("<svg")
    assert drawn[1:] == [None, None]

    many = json.dumps({"smiles": ["CCO"] * 1_000})
    zipped = ask(asset, INCHIKEYS.handler, event("POST", "/inchikeys", many, {"accept_encoding": "gzip"}))["response"]
    assert zipped["headers"]["content-encoding"] == "gzip"
    found = json.loads(gzip.decompress(base64.b64decode(zipped["body"])))
    assert found["inchikeys"] == ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N"] * 1_000

    for method, path, status, code in (
        ("GET", "/inchikeys", 405, "method_not_allowed"),
        ("POST", "/predictions", 404, "unknown_route"),
    ):
        refused = ask(asset, INCHIKEYS.handler, event(method, path, None, {}))["response"]
        assert (refused["statusCode"], json.loads(refused["body"])["error"]["code"]) == (status, code)
    head = ask(asset, INCHIKEYS.handler, event("HEAD", "/inchikeys", None, {}))["response"]
    assert (head["statusCode"], head["body"]) == (405, "")


def test_screens_asset_alone_answers(world, tmp_path):
    asset = build_asset(tmp_path / "asset", SCREENS, THIS_PYTHON)
    world.write_model()
    world.build_library()
    for step in (world.predict, world.validate, world.load):
        assert all(outcome.landed for outcome in step())
    asked = {"where": "eos9abc.atoms > 3", "order": "eos9abc.score desc", "distributions": "eos9abc.score"}
    urls = {
        "PRECALC_TABLES_URL": f"sqlite:///{world.root / 'tables.db'}",
        "PRECALC_STORE_URL": f"file://{world.root / 'store'}",
    }
    answer = ask(asset, SCREENS.handler, event("GET", f"/screens?{urlencode(asked)}", None, {}), **urls)
    query = read_question(make_question(asked["where"], order=asked["order"], distributions=[asked["distributions"]]))
    expected = open_engine(world.store, world.tables).answer(query)
    assert json.loads(answer["response"]["body"]) == json.loads(json.dumps(asdict(expected)))
    assert expected.rows
    assert not {"boto3", "dagster", "httpx", "jinja2", "pandas", "polars", "rdkit"} & set(answer["modules"])


def make_lambda(aws, asset: Asset, folder: Path, **environment: str):
    """Make a Lambda of an asset, and return what asks it."""
    client = aws.client("lambda")
    name = f"{asset.name}-{uuid4().hex}"
    client.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/reader",
        Handler=asset.handler,
        Code={"ZipFile": packed(files(build_asset(folder, asset, THIS_PYTHON)))},
        Environment={"Variables": {**aws.environment, **environment}},
        Timeout=30,
    )

    def ask(method, path, body=None):
        asked = json.dumps(event(method, path, body, {}))
        return json.load(client.invoke(FunctionName=name, Payload=asked)["Payload"])

    return ask


def test_lambdas_read_dynamodb_and_make_inchikeys(aws, tmp_path):
    url = tables_url()
    rows = predictions(KEYS)
    serve(open_tables(url), rows)
    ask = make_lambda(aws, READER, tmp_path / "reader", PRECALC_TABLES_URL=url)
    answer = ask("POST", f"/models/{MODEL}/predictions", json.dumps({"inchikeys": KEYS}))
    assert json.loads(answer["body"])["predictions"] == [list(row) for row in rows.values()]
    assert json.loads(ask("GET", "/models")["body"])["models"][0]["model"] == MODEL
    assert ask("GET", f"/models/eos9zzz/predictions/{KEYS[0]}")["statusCode"] == 404

    ask = make_lambda(aws, INCHIKEYS, tmp_path / "inchikeys")
    answer = ask("POST", "/inchikeys", json.dumps({"smiles": ["CCO"] * 1_000}))
    assert json.loads(answer["body"])["inchikeys"] == ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N"] * 1_000


def test_package_that_differs_from_the_lock_is_refused(tmp_path, monkeypatch):
    other = re.sub(r"sha256:\w{8}", "sha256:00000000", lambda_asset._LOCK.read_text())
    (tmp_path / "lock").write_text(other)
    monkeypatch.setattr(lambda_asset, "_LOCK", tmp_path / "lock")
    with pytest.raises(RuntimeError, match=r"(?is)cannot be installed.*hash"):
        build_asset(tmp_path / "asset", READER, THIS_PYTHON)
