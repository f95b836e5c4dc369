"""A TCP proxy that cuts connections in the middle of requests or answers."""

import socket
import struct
import threading
from contextlib import suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards HTTP to an endpoint, and cuts as many connections as `cut` asks for."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._left = {"requests": 0, "answers": 0}
        self.cuts = 0
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self, *, requests: int = 0, answers: int = 0) -> None:
        """Cut this many of the next requests and answers halfway."""
        with self._lock:
            self._left = {"requests": requests, "answers": answers}

    def __enter__(self) -> "CuttingProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            for source, target, what in ((client, server, "requests"), (server, client, "answers")):
                threading.Thread(target=self._pass, args=(source, target, what), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, what: str) -> None:
        try:
            while data := source.recv(1 << 16):
                if self._is_to_cut(what):
                    target.sendall(data[: len(data) // 2])
                    for end in (source, target):
                        # Reset the connection instead of closing it.
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_to_cut(self, what: str) -> bool:
        with self._lock:
            if not self._left[what]:
                return False
            self._left[what] -= 1
            self.cuts += 1
            return True
