"""A web server of a test's own, in a thread of it, that serves files and makes mistakes on demand."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """Serves `files`.  `faults` are used up, one a request: a status, "reset" or the number of bytes after which the
    answer ends."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str | tuple[str, int]] = []
        self.knows_ranges = True
        self.says_length = True
        self.requests: list[tuple[str, str | None]] = []  # name and Range

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, span = self.path.removeprefix("/data/"), self.headers.get("Range")
        self.server.requests.append((name, span))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, tuple) and fault[0] == "status":
            return self.send_error(fault[1])
        if name not in self.server.files:
            return self.send_error(404)
        content = self.server.files[name]
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.server.knows_ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + fault if isinstance(fault, int) else len(content)
        self.wfile.write(content[start:end])
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that runs, and is asked directly, whatever proxies the machine has."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
