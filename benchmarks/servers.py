"""Stand-ins for DynamoDB on loopback, each in its own process, so that their CPU is not counted.

`YesToAll` stores nothing; `Remembering` stores items, and counts requests and units.
"""

import base64
import json
import multiprocessing
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

from precalc_assets.tables import Item
from precalc_assets.tables.store import units_to_read, write_units


@dataclass
class Used:
    """What clients used of a server."""

    requests: int = 0
    read_units: float = 0


class YesToAll(BaseHTTPRequestHandler):
    """Answers every BatchWriteItem with success, without parsing it. As a proxy, it reaches every address."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        self.reply(b"")

    def do_POST(self) -> None:
        self.reply(self.answer(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, answer: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def answer(self, _body: bytes) -> bytes:
        return b'{"UnprocessedItems": {}}'

    def log_message(self, *arguments: object) -> None:
        pass


class Remembering(YesToAll):
    """Stores items in tables that need no creation, and answers with the write units."""

    counting = threading.Lock()
    used = Used()
    tables: dict[str, dict[str, dict[str, dict[str, str]]]] = {}  # noqa: RUF012

    def answer(self, body: bytes) -> bytes:
        self.count(requests=1)
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        return json.dumps(getattr(self, operation)(json.loads(body))).encode()

    def do_GET(self) -> None:
        self.reply(json.dumps(asdict(self.used)).encode())

    def count(self, *, requests: int = 0, read_units: float = 0) -> None:
        with self.counting:
            self.used.requests += requests
            self.used.read_units += read_units

    def CreateTable(self, _request: dict) -> dict:  # noqa: N802
        return {"TableDescription": {"TableStatus": "ACTIVE"}}

    def DescribeTable(self, _request: dict) -> dict:  # noqa: N802
        return {"Table": {"TableStatus": "ACTIVE"}}

    def BatchWriteItem(self, request: dict) -> dict:  # noqa: N802
        ((table, writes),) = request["RequestItems"].items()
        units = sum(self.put(table, write["PutRequest"]["Item"]) for write in writes)
        return {"UnprocessedItems": {}, "ConsumedCapacity": [{"TableName": table, "CapacityUnits": units}]}

    def PutItem(self, request: dict) -> dict:  # noqa: N802
        table = request["TableName"]
        units = self.put(table, request["Item"])
        return {"ConsumedCapacity": {"TableName": table, "CapacityUnits": units}}

    def BatchGetItem(self, request: dict) -> dict:  # noqa: N802
        ((table, asked),) = request["RequestItems"].items()
        items = self.tables.get(table, {})
        found = [items[key["key"]["S"]] for key in asked["Keys"] if key["key"]["S"] in items]
        if all("B" in item["value"] for item in found):
            stored, consistent = [ours(item) for item in found], asked.get("ConsistentRead", False)
            self.count(read_units=units_to_read(len(asked["Keys"]), stored, consistent=consistent))
        return {"Responses": {table: found}, "UnprocessedKeys": {}}

    def put(self, table: str, item: dict[str, dict[str, str]]) -> float:
        self.tables.setdefault(table, {})[item["key"]["S"]] = item
        if "B" not in item["value"]:
            return 0  # The baseline's list of numbers; its writer does not request units.
        return write_units(ours(item))


def ours(item: dict[str, dict[str, str]]) -> Item:
    return Item(item["key"]["S"], base64.b64decode(item["value"]["B"]), item.get("version", {}).get("S", ""))


@contextmanager
def running(server: type[YesToAll]) -> Iterator[str]:
    """Run a server until the context ends; yield its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(server, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def used_at(endpoint: str) -> Used:
    """Ask a `Remembering` server what was used so far."""
    with urllib.request.urlopen(endpoint) as answer:
        return Used(**json.load(answer))


def _serve(handler: type[YesToAll], port: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    port.send(server.server_port)
    server.serve_forever()
