"""`POST /rows`: the rows of a file or of pasted text, by the one reader of molecules. The page alone asks for them."""

import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http import HTTPStatus
from pathlib import Path

from anyio.to_thread import run_sync
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from precalc_assets.api.problems import Problem, too_many

MAX_FILE_BYTES = 4_000_000
"""A Lambda is sent up to 6 MB, in which a file is in base64 (AWS Lambda Developer Guide, "Lambda quotas")."""

_SCRIPT = Path(__file__).with_name("row_process.py")
_SECONDS = 20.0
"""API Gateway waits 29 s for an answer."""
_PROCESSES = 2
_LONGEST_NAME = 80

_unreadable = partial(Problem, HTTPStatus.BAD_REQUEST, "unreadable_file")


def add_row_reading(app: FastAPI) -> None:
    """Add the route that reads rows. `name` is that of the file, and `column` the one of the molecules, if chosen."""
    free = threading.Semaphore(_PROCESSES)

    @app.post("/rows", include_in_schema=False)
    async def read_rows(request: Request, name: str = "", column: str = "") -> Response:
        content = await request.body()
        if len(content) > MAX_FILE_BYTES:
            message = f"the file is larger than {MAX_FILE_BYTES / 1e6:g} MB; `precalc get` reads larger ones"
            raise too_many("file_too_large", message)
        return Response(await run_sync(_read, free, content, name, column), media_type="application/json")


def _read(free: threading.Semaphore, content: bytes, name: str, column: str) -> bytes:
    """Return the rows as JSON. Raises Problem."""
    # Pasted lines are words, a molecule and its name, unless they have cells.
    pasted = "pasted text" if re.search(rb"[\t,;]", content) else "pasted text.smi"
    safe = re.sub(r"[^\w. -]", "_", name)[-_LONGEST_NAME:].strip(". ") or pasted
    # A Lambda knows where packages are, but a Python that it starts does not always.
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", str(_SCRIPT), safe, column.replace("\0", "")]
    try:
        with free:
            done = subprocess.run(
                command, input=content, env=variables, stdout=subprocess.PIPE, timeout=_SECONDS, check=False
            )
    except subprocess.TimeoutExpired:
        raise _unreadable(f"{safe}: reading it takes more than {_SECONDS:g} s; split it") from None
    if done.returncode < 0:
        raise _unreadable(f"{safe}: its reader crashes on it; save it as CSV")
    if done.returncode:
        raise RuntimeError("rows cannot be read; see what the process wrote to standard error")
    if done.stdout.startswith(b'{"problem"'):
        # What an option is for a command is a field of the page.
        said = json.loads(done.stdout)["problem"].replace("pasted text.smi", "pasted text")
        problem = re.sub(r"--[a-z-]*column (\d+)", r"\1 in the field Column", said)
        raise _unreadable(re.sub(r"--[a-z-]*column", "the field Column", problem))
    return done.stdout
