# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real HTTP server on loopback, or on a Unix socket, that plays a script and remembers every breach of it."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import typing as t
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

ANY: t.Any = object()


@dataclass
class Exchange:
    """One request that must come next, and the answer to it.

    :ivar sent: JSON that the request must carry; ANY: not looked at; None: no body
    :ivar answer: body: an object becomes JSON, bytes go as they are
    :ivar hang_up: ends the connection in place of an answer
    :ivar stalls: seconds before the answer
    :ivar stream: lines sent one by one on a connection that stays open; each waits for its event to be set
    """

    method: str
    path: str
    sent: t.Any = None
    status: int = 200
    answer: t.Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    wanted_headers: dict[str, str | None] = field(default_factory=dict)
    hang_up: bool = False
    stalls: float = 0.0
    stream: list[tuple[threading.Event, bytes]] | None = None
    after: t.Callable[[], None] | None = None


class ScriptedServer:
    """:param path: Unix socket to listen on in place of a port"""

    def __init__(self, exchanges: t.Sequence[Exchange], path: Path | None = None) -> None:
        self._script = list(exchanges)
        self._breaches: list[str] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self.connections = 0
        owner = self

        class Handler(_Handler):
            script = owner

        if path is None:
            self._server: socketserver.BaseServer = _TcpServer(("127.0.0.1", 0), Handler)
            self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        else:
            self._server = _UnixServer(str(path), Handler)
            self.url = f"unix://{path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def next(self, method: str, path: str, headers: t.Any, body: bytes) -> Exchange:
        """The exchange that the script has here; a breach of it is answered with status 599."""
        with self._lock:
            expected = self._script.pop(0) if self._script else None
            breach = "nothing" if expected is None else _difference(expected, method, path, headers, body)
            if not breach and expected is not None:
                return expected
            self._breaches.append(f"{method} {path} {body[:300]!r}: expected {breach}")
            return Exchange(method, path, status=599, answer=b"not in the script")

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def verify(self) -> None:
        """Asserts that the script was kept, and played to its end."""
        assert self._breaches == []
        assert [f"{left.method} {left.path}" for left in self._script] == []


def _difference(expected: Exchange, method: str, path: str, headers: t.Any, body: bytes) -> str:
    if (method, path) != (expected.method, expected.path):
        return f"{expected.method} {expected.path}"
    for name, value in expected.wanted_headers.items():
        if headers.get(name) != value:
            return f"header {name}: {value}, not {headers.get(name)}"
    if expected.sent is ANY:
        return ""
    sent = json.loads(body) if body else None
    return "" if sent == expected.sent else f"body {json.dumps(expected.sent)[:1000]}"


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    script: ScriptedServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.script.connections += 1

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def _play(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        exchange = self.script.next(self.command, self.path, self.headers, body)
        if exchange.stalls:
            self.script.closing.wait(exchange.stalls)
        if exchange.after is not None:
            exchange.after()
        if exchange.hang_up:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif exchange.stream is not None:
            self._stream(exchange.stream)
        else:
            self._answer(exchange)

    def _answer(self, exchange: Exchange) -> None:
        plain = isinstance(exchange.answer, bytes)
        data = exchange.answer if plain else json.dumps(exchange.answer).encode()
        self.send_response(exchange.status)
        headers = {"Content-Type": "text/plain" if plain else "application/json", "Content-Length": str(len(data))}
        for name, value in {**headers, **exchange.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if int({**headers, **exchange.headers}["Content-Length"]) > len(data):
            self.close_connection = True

    def _stream(self, lines: list[tuple[threading.Event, bytes]]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for ready, line in lines:
            while not ready.wait(0.05):
                if self.script.closing.is_set():
                    return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.script.closing.wait(30)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _play

    def log_message(self, format: str, *args: t.Any) -> None:
        """The script remembers what matters."""
