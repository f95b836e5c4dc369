"""Tables of made-up predictions, and the API for them as API Gateway asks it."""

import base64
import gzip
import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

import httpx
from gateway_events import event
from made_up import COLUMNS, MODEL, N_SHARDS, inchikeys, rows_of

from precalc_assets.api.application import make_app
from precalc_assets.api.files import FileLinks
from precalc_assets.api.gateway import answer_event
from precalc_assets.cards.model_card import ModelCard
from precalc_assets.tables import KeyValueStore

KEYS = tuple(islice(inchikeys(), 40))
UNKNOWN = next(islice(inchikeys(), 1_000, None))


def predictions(keys: Sequence[str] = KEYS) -> dict[str, tuple]:
    """Return rows with floats that are whole numbers, integers that no float holds, nulls and empty texts."""
    return rows_of(keys, ["CCO", "", "naïve ☃", 'a "quoted", text', "two\nlines", None])


def card(model: str = MODEL, **changes: Any) -> ModelCard:
    metadata = {
        "identifier": model,
        "title": "A title",
        "description": "What it does",
        "interpretation": "How to read it",
        "tags": ("tag",),
        "license": "MIT",
        "publication": "https://example.org/paper",
        "source_code": "https://example.org/code",
    }
    content = {
        "model": model,
        "metadata": {name: changes.pop(name, text) for name, text in metadata.items()},
        "columns": COLUMNS,
        "n_shards": N_SHARDS,
        "shards": ("00", "01", "02", "03"),
        "molecules": len(KEYS),
        "quarantined": 1,
        "runner_hours": 1.25,
        "dollars": 0.5,
        "peak_memory": 350 << 20,
        "emptied": ({"column": "score", "cells": 2, "example": "inf", "smiles": "CCO"},),
        "releases": ("v1.0.0",),
        "updated": "2026-11-01T12:00:00Z",
        "deterministic": True,
    }
    return ModelCard.model_validate(content | changes)


class Api:
    """The API for a store, as API Gateway asks it."""

    def __init__(self, tables: KeyValueStore, links: FileLinks | None = None, origins: Sequence[str] = ()) -> None:
        self.app = make_app(tables, links, origins)

    def get(self, url: str, method: str = "GET", **headers: str) -> "Answer":
        return self.send(event(method, url, None, headers))

    def post(self, url: str, body: object, **headers: str) -> "Answer":
        text = body if isinstance(body, str) else json.dumps(body)
        return self.send(event("POST", url, text, {"content_type": "application/json"} | headers))

    def predictions(self, keys: Sequence[str], model: str = MODEL, query: str = "", **headers: str) -> "Answer":
        return self.post(f"/models/{model}/predictions{query}", {"inchikeys": list(keys)}, **headers)

    def send(self, event: dict[str, Any]) -> "Answer":
        return Answer(answer_event(lambda: self.app, event, None))


class Answer:
    """An answer as a client has it, its compression undone."""

    def __init__(self, response: dict[str, Any]) -> None:
        json.dumps(response)  # Lambda has to be able to.
        self.status: int = response["statusCode"]
        assert not response["multiValueHeaders"]
        self.headers = httpx.Headers(response["headers"])
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
