"""The baseline of `api`: FastAPI over SQLite, which holds the finished JSON of each molecule's row.

`fill` writes such a file; as a program, this module serves one and prints its URL.
"""

import json
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel


class Wanted(BaseModel):
    """The body of a request."""

    inchikeys: list[str]


def fill(path: Path, model: str, rows: Iterable[tuple[str, object]]) -> None:
    with sqlite3.connect(path) as file:
        file.execute(f"CREATE TABLE {model} (inchikey TEXT PRIMARY KEY, row TEXT) WITHOUT ROWID")
        texts = ((key, json.dumps(row, separators=(",", ":"))) for key, row in rows)
        file.executemany(f"INSERT INTO {model} VALUES (?, ?)", texts)


def make_plain_app(path: str) -> FastAPI:
    app = FastAPI()
    local = threading.local()

    @app.post("/models/{model}/predictions")
    def predict(model: str, wanted: Wanted) -> Response:
        if not hasattr(local, "file"):
            local.file = sqlite3.connect(path)
        keys = wanted.inchikeys
        marks = ",".join("?" * len(keys))
        rows = dict(local.file.execute(f"SELECT inchikey, row FROM {model} WHERE inchikey IN ({marks})", keys))
        predictions = ",".join(rows.get(key, "null") for key in keys)
        body = f'{{"model":"{model}","inchikeys":{json.dumps(keys)},"predictions":[{predictions}]}}'
        return Response(body, media_type="application/json")

    return app


def serve(path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(make_plain_app(path), log_level="error", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    serve(sys.argv[1])
