"""`POST /inchikeys`: the keys of the reference library, a reason where there is none, and time limits."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway_events import event
from serving import Answer

from precalc.molecules.smiles_workers import inchikey
from precalc_assets.api.fastapi_base import new_app
from precalc_assets.api.gateway import answer_event
from precalc_assets.api.inchikeys import MAX_CHARACTERS, MAX_SMILES, RDKitProcesses, add_inchikey_routes
from precalc_assets.api.problems import Problem

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"

FRAGILE = """
import json, os, sys, time
for line in sys.stdin:
    (smiles,) = json.loads(line)
    if smiles == "hang":
        time.sleep(60)
    if smiles == "slow":
        time.sleep(0.15)
    if smiles == "die":
        os.abort()
    if smiles == "eat":
        bytes(2 << 30)
    answer = ["", "", "none"] if smiles == "bad" else [f"KEY-{smiles}-{os.getpid()}", smiles, ""]
    print(json.dumps([answer]), flush=True)
"""


@pytest.fixture(scope="module")
def processes():
    rdkit = RDKitProcesses(1)
    yield rdkit
    rdkit.close()


@pytest.fixture(scope="module")
def ask(processes):
    app = new_app()
    add_inchikey_routes(app, processes)

    def ask(body: object, **headers: str) -> Answer:
        text = body if isinstance(body, str) else json.dumps(body)
        asked = event("POST", "/inchikeys", text, {"content_type": "application/json"} | headers)
        return Answer(answer_event(lambda: app, asked, None))

    return ask


@pytest.fixture
def fragile(tmp_path):
    script = tmp_path / "fragile.py"
    script.write_text(FRAGILE)
    made = []

    def make(count: int = 1, **limits: float) -> RDKitProcesses:
        made.append(RDKitProcesses(count, **{"molecule_seconds": 0.3, "seconds": 10, **limits}, script=script))
        return made[-1]

    yield make
    for processes in made:
        processes.close()


def test_keys_equal_the_librarys_and_keep_the_order(ask):
    smiles = [ASPIRIN, "CCO", f" {ASPIRIN}\n", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "CCO"]
    answer = ask({"smiles": smiles}).json
    forms = [ASPIRIN, "CCO", ASPIRIN, "C[C@H](N)C(=O)O", "[Cl-].[Na+]", "CCO"]
    assert answer == {"inchikeys": [inchikey(text) for text in smiles], "forms": forms, "errors": []}


def test_smiles_without_a_key_has_its_index_and_a_reason(ask):
    long = "C" * (MAX_CHARACTERS + 1)
    said = ask({"smiles": ["C1CC", ASPIRIN, "", "CCO ethanol", long, "\0", "*"]}).json
    for told in (said["inchikeys"], said["forms"]):
        assert [one is None for one in told] == [True, False, True, True, True, True, True]
    assert [error["index"] for error in said["errors"]] == [0, 2, 3, 4, 5, 6]
    reasons = {error["index"]: error["reason"] for error in said["errors"]}
    assert "a ring is opened" in reasons[0]
    assert f"2,001 characters; a SMILES may have up to {MAX_CHARACTERS:,}" in reasons[4]
    assert all(reasons.values())
    assert said["errors"][3]["smiles"] == "C" * 200 + "…"


def test_request_has_up_to_a_thousand_smiles(ask):
    assert ask({"smiles": ["C"] * MAX_SMILES}).json["inchikeys"] == [inchikey("C")] * MAX_SMILES
    refused = ask({"smiles": ["C"] * (MAX_SMILES + 1)})
    assert refused.error == (413, "too_many_smiles")
    assert "up to 1,000" in refused.message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ('{"smiles": ["\\ud800"]}', "invalid_json"),
        ("[]", "bad_request"),
        ("{}", "bad_request"),
        ('{"smiles": "CCO"}', "bad_request"),
        ('{"smiles": [1]}', "bad_request"),
        ('{"smiles": [null]}', "bad_request"),
        ('{"smiles": [], "more": 1}', "bad_request"),
    ],
)
def test_body_without_a_list_of_texts_is_refused(ask, body, code):
    assert ask(body).error == (400, code)


def test_body_of_another_media_type_is_refused(ask):
    assert ask("smiles=C", content_type="application/x-www-form-urlencoded").error == (415, "unsupported_media_type")


def test_molecule_that_hangs_or_breaks_rdkit_costs_only_itself(fragile):
    found = fragile().identify(["a", "hang", "b", "die", "bad", "c"])
    assert [one.inchikey.split("-")[1] if one.inchikey else "" for one in found] == ["a", "", "b", "", "", "c"]
    assert [one.reason for one in found if one.reason] == [
        "RDKit takes more than 0.3 s for it",
        "RDKit crashes on it",
        "none",
    ]


def test_molecule_that_takes_all_memory_is_given_up(fragile):
    eaten, other = fragile(molecule_seconds=5).identify(["eat", "a"])
    assert eaten.reason == "RDKit crashes on it"
    assert other.inchikey


def test_late_request_names_the_molecules_it_did_not_reach(fragile):
    started = time.perf_counter()
    found = fragile(seconds=1).identify(["slow"] * 50)
    assert time.perf_counter() - started < 3
    answered = [one for one in found if one.inchikey]
    assert 0 < len(answered) < 50
    assert found == [*answered, *[one for one in found if "not reached within the 1 s of a request" in one.reason]]


def test_processes_are_reused_up_to_their_number(fragile):
    processes = fragile(2)
    with ThreadPoolExecutor(8) as pool:
        found = [one for part in pool.map(processes.identify, [["a", "slow"]] * 8) for one in part]
    assert len({one.inchikey.split("-")[2] for one in found}) <= 2


def test_busy_processes_refuse_a_request(fragile):
    processes = fragile(seconds=0.5, molecule_seconds=2)
    processes.identify(["a"])
    with ThreadPoolExecutor(1) as pool:
        at_work = pool.submit(processes.identify, ["slow"] * 10)
        time.sleep(0.1)
        processes._seconds = 0.1
        with pytest.raises(Problem, match="busy"):
            processes.identify(["a"])
        at_work.result()
    processes._seconds = 20
    assert processes.identify(["a"])[0].inchikey


def test_busy_server_says_when_to_ask_again(monkeypatch, ask, processes):
    monkeypatch.setattr(processes, "_free", threading.Semaphore(0))
    monkeypatch.setattr(processes, "_seconds", 0)
    answer = ask({"smiles": ["C"]})
    assert answer.error == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) > 0


def test_missing_rdkit_raises_runtime_error(tmp_path):
    (tmp_path / "none.py").write_text("raise SystemExit(1)")
    processes = RDKitProcesses(1, molecule_seconds=1, seconds=5, script=tmp_path / "none.py")
    with pytest.raises(RuntimeError, match="RDKit cannot be loaded"):
        processes.identify(["C"])
