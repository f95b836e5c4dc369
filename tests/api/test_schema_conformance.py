"""`precalc api` does what its OpenAPI document says, for thousands of valid and invalid requests.

schemathesis makes them out of the document, right ones and wrong ones, and checks each answer against it: no 5xx, no
status, header, type or body that the document does not have, nothing wrong accepted and nothing right refused. It is
given ids and InChIKeys that there are, so that it finds more than errors. The same requests are made each time; with
PRECALC_SCHEMATHESIS_SEED=1, or another number, others are.
"""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from schema_server import MODELS, SMILES, Server, run_server
from serving import KEYS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = 300
"""Requests that are made up for each route, beside those that cover the document's bounds."""
CASES = 3_000
"""Requests at least, of all routes."""
ANSWERED = {
    "GET /health": 1,
    "GET /models": 1,
    "GET /models/{model}": 100,
    "GET /models/{model}/files": 100,
    "GET /models/{model}/quarantine": 100,
    "GET /models/{model}/predictions/{inchikey}": 100,
    "GET /molecules/{inchikey}": 100,
    "POST /inchikeys": 100,
    "POST /models/{model}/predictions": 100,
    "POST /predictions": 100,
    "GET /predictions": 100,
}
"""Answers with status 200 at least, by route: there is nothing to vary in the first two."""

CONFIG = """\
[generation]
{generation}
max-examples = {examples}

[cache]
enabled = false

[checks.negative_data_rejection]
# Too many of something is 413 here.
expected-statuses = [400, 404, 405, 406, 413, 415]

[[operations]]
include-path = "/screens"
# No schema says which columns there are, and what an expression is.
checks.positive_data_acceptance.expected-statuses = ["2xx", 400]

[dictionaries]
models = {{ values = {models} }}
inchikeys = {{ values = {inchikeys} }}
smiles = {{ values = {smiles} }}

[parameters]
"path.model" = {{ dictionary = "models", probability = 0.7 }}
"path.inchikey" = {{ dictionary = "inchikeys", probability = 0.7 }}
"body.inchikeys[*]" = {{ dictionary = "inchikeys", probability = 0.7 }}
"body.smiles[*]" = {{ dictionary = "smiles", probability = 0.7 }}
"body.modelId" = {{ dictionary = "models", probability = 0.7 }}
"body.inputKeyArray[*]" = {{ dictionary = "inchikeys", probability = 0.7 }}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with run_server(tmp_path) as running:
        yield running


def answers(report: Path) -> dict[str, Counter[int]]:
    """Return how often each route answered with each status."""
    counted: dict[str, Counter[int]] = defaultdict(Counter)
    for line in report.read_text().rstrip("\n").split("\n"):
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for case, made in recorder.get("cases", {}).items():
            response = recorder["interactions"].get(case, {}).get("response")
            if response:
                counted[f"{made['value']['method']} {made['value']['path']}"][response["status_code"]] += 1
    return counted


def test_answers_conform_to_the_openapi_document(server, tmp_path):
    seed = os.environ.get("PRECALC_SCHEMATHESIS_SEED")
    config = CONFIG.format(
        generation="deterministic = false" if seed else "deterministic = true",
        examples=EXAMPLES,
        models=json.dumps(MODELS),
        inchikeys=json.dumps(KEYS[:10]),
        smiles=json.dumps(SMILES),
    )
    (tmp_path / "schemathesis.toml").write_text(f"seed = {int(seed)}\n\n{config}" if seed else config)
    report = tmp_path / "report.ndjson"
    program = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(tmp_path / "schemathesis.toml")]
    options = ["--checks=all", "--continue-on-failure", "--report=ndjson", f"--report-ndjson-path={report}"]
    done = subprocess.run(
        [*program, "run", f"{server.url}/openapi.json", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    counted = answers(report)
    assert sum(sum(statuses.values()) for statuses in counted.values()) >= CASES
    assert not [status for statuses in counted.values() for status in statuses if status >= 500]
    few = {route: counted[route][200] for route, least in ANSWERED.items() if counted[route][200] < least}
    assert not few, {route: dict(statuses) for route, statuses in counted.items()}
    assert "Traceback" not in server.log.read_text()
