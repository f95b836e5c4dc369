"""Tables that the real loader made of made-up predictions, and API Gateway's events asked of them."""

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import count, islice
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa

from precalc_assets.api.events import answer
from precalc_assets.api.handler import make_app
from precalc_assets.cards import ModelCard
from precalc_assets.columns import Column
from precalc_assets.sharding import key_hash, shard_of
from precalc_assets.tables import KeyValueStore
from precalc_assets.tables.loader import load_shard

MODEL = "eos3b5e"
N_SHARDS = 4
SHA256 = "ab" * 32
"""Said to be of each shard's file; there is none."""
COLUMNS = (
    Column("score", "float", "high", "A score"),
    Column("count", "integer", "", "A count"),
    Column("label", "string", "", "A label"),
)
ARROW = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}


def inchikeys() -> Iterator[str]:
    """Yield made-up InChIKeys, the same ones each time."""
    for i in count():
        letters = "".join(chr(ord("A") + byte % 26) for byte in sha256(str(i).encode()).digest()[:25])
        yield f"{letters[:14]}-{letters[14:24]}-{letters[24]}"


KEYS = tuple(islice(inchikeys(), 40))
UNKNOWN = next(islice(inchikeys(), 1_000, None))


def predictions(keys: Sequence[str] = KEYS) -> dict[str, tuple]:
    """Return rows with floats that are whole numbers, integers that no float holds, nulls and empty texts."""
    floats = [2.0, 1 / 3, -0.0, 5e-324, -1.7976931348623157e308, None]
    integers = [2, 2**63 - 1, -(2**63), 0, None]
    texts = ["CCO", "", "naïve ☃", 'a "quoted", text', "two\nlines", None]
    return {
        key: (floats[i % len(floats)], integers[i % len(integers)], texts[i % len(texts)]) for i, key in enumerate(keys)
    }


def serve(
    tables: KeyValueStore,
    rows: Mapping[str, tuple],
    *,
    model: str = MODEL,
    columns: Sequence[Column] = COLUMNS,
    release: str = "v1.0.0",
    shards: Sequence[str] = ("00", "01", "02", "03"),
    n_shards: int = N_SHARDS,
) -> None:
    """Load these rows into the shards that they belong to, those of other shards left out."""
    by_shard: dict[str, list[str]] = defaultdict(list)
    for key in sorted(rows, key=key_hash):
        by_shard[shard_of(key, n_shards)].append(key)
    for shard in shards:
        keys = by_shard[shard]
        arrays = [pa.array([rows[key][at] for key in keys], ARROW[c.type]) for at, c in enumerate(columns)]
        batch = pa.record_batch([pa.array(keys, pa.string()), *arrays], names=["inchikey", *(c.name for c in columns)])
        load_shard(
            tables,
            model,
            shard,
            lambda batch=batch: iter([batch]),
            columns=columns,
            n_shards=n_shards,
            release=release,
            shard_digest=sha256("".join(keys).encode()).hexdigest(),
            built_from=f"{release} {sorted(keys)}",
            file_bytes=1_000 + int(shard),
            file_sha256=SHA256,
        )


def card(model: str = MODEL, **changes: Any) -> ModelCard:
    said = {
        "model": model,
        "title": "A title",
        "description": "What it does",
        "interpretation": "How to read it",
        "tags": ("tag",),
        "license": "MIT",
        "publication": "https://example.org/paper",
        "source_code": "https://example.org/code",
        "columns": COLUMNS,
        "n_shards": N_SHARDS,
        "shards": ("00", "01", "02", "03"),
        "molecules": len(KEYS),
        "quarantined": 1,
        "releases": ("v1.0.0",),
        "updated": "2026-11-01T12:00:00Z",
        "deterministic": True,
    }
    return ModelCard.model_validate(said | changes)


class Api:
    """The API for a store, as API Gateway asks it."""

    def __init__(self, tables: KeyValueStore) -> None:
        self.app = make_app(tables).sealed()

    def get(self, url: str, method: str = "GET", **headers: str) -> "Answer":
        return self.send(event(method, url, None, headers))

    def post(self, url: str, body: object, **headers: str) -> "Answer":
        text = body if isinstance(body, str) else json.dumps(body)
        return self.send(event("POST", url, text, {"content_type": "application/json"} | headers))

    def predictions(self, keys: Sequence[str], model: str = MODEL, query: str = "", **headers: str) -> "Answer":
        return self.post(f"/models/{model}/predictions{query}", {"inchikeys": list(keys)}, **headers)

    def send(self, event: dict[str, Any]) -> "Answer":
        return Answer(answer(self.app, event, None))


class Answer:
    """An answer as a client has it, its compression undone."""

    def __init__(self, response: dict[str, Any]) -> None:
        json.dumps(response)  # Lambda has to be able to.
        self.status: int = response["statusCode"]
        self.headers = {name: values[0] for name, values in response["multiValueHeaders"].items()}
        body: str = response["body"]
        content = base64.b64decode(body, validate=True) if response["isBase64Encoded"] else body.encode()
        self.compressed = self.headers.get("Content-Encoding") == "gzip"
        self.text = (gzip.decompress(content) if self.compressed and content else content).decode()

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str]:
        """The status and the code; there is nothing else than these and a sentence."""
        assert self.json.keys() == {"error"}
        assert self.json["error"].keys() == {"code", "message"}
        assert "Traceback" not in self.text
        assert len(self.text) < 400
        return self.status, self.json["error"]["code"]

    @property
    def message(self) -> str:
        return self.json["error"]["message"]


def event(method: str, url: str, body: str | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the event of a REST API's proxy integration, as the API Gateway Developer Guide has it."""
    path, _, query = url.partition("?")
    given = parse_qs(query, keep_blank_values=True)
    sent = {"Host": "abc.execute-api.eu-central-1.amazonaws.com", "Accept": "*/*"}
    sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": {name: values[-1] for name, values in given.items()} or None,
        "multiValueQueryStringParameters": given or None,
        "pathParameters": {"proxy": path.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "path": f"/v1{path}",
            "stage": "v1",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": body,
        "isBase64Encoded": False,
    }
