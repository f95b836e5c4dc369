"""An API as the client sees it, made of answers: no server, no platform."""

import json
from collections.abc import Callable, Mapping

import httpx

from precalc.remote import RemoteSource

URL = "https://api.example/v1"
MODEL = "eos3b5e"
KEY = "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
DESCRIPTION = {
    "model": MODEL,
    "title": "Molecular weight",
    "description": "The weight of a molecule.",
    "license": "MIT",
    "publication": "https://example.org",
    "columns": [{"name": "weight", "type": "float", "direction": "high", "description": "In g/mol"}],
    "n_shards": 50,
    "shards": [f"{shard:02d}" for shard in range(49)],
    "molecules": 1_234_567,
    "quarantined": 11,
    "runner_hours": 1.25,
    "dollars": 0.5,
    "peak_memory": 350 << 20,
    "releases": ["v1.0.0"],
    "library_digest": None,
    "deterministic": False,
    "varying": ["weight"],
    "updated": "2026-11-01T12:00:00+00:00",
}
SUMMARY = {name: DESCRIPTION[name] for name in ("model", "title", "molecules", "n_shards", "releases", "updated")} | {
    "n_columns": 1,
    "shards": 49,
    "deterministic": False,
}
PREDICTIONS = {name: DESCRIPTION[name] for name in ("releases", "library_digest", "columns")} | {
    "predictions": [[46.07]],
    "statuses": ["found"],
    "smiles": ["CCO"],
}
ANSWERS = {
    "/v1/models": {"models": [SUMMARY]},
    f"/v1/models/{MODEL}": DESCRIPTION,
    f"/v1/models/{MODEL}/predictions": PREDICTIONS,
    f"/v1/models/{MODEL}/distributions": {"distributions": []},
}


def fake_api(answers: Mapping[str, object] = ANSWERS) -> RemoteSource:
    """Return an API that answers these paths. `source.transport` has what was requested."""
    return _source(lambda request: httpx.Response(200, content=json.dumps(answers[request.url.path])))


def refusing_api(status: int, body: object, **headers: str) -> RemoteSource:
    """Return an API that gives one answer to everything."""
    return _source(lambda _: httpx.Response(status, json=body, headers=headers))


def _source(answer: Callable[[httpx.Request], httpx.Response]) -> RemoteSource:
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answer(request)

    source = RemoteSource(URL, transport=httpx.MockTransport(handle))
    source.requests = requests
    return source
