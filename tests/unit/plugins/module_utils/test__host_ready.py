# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Readiness checks of host_service against real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_ready as ready

OK = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall is well\n"


@contextlib.contextmanager
def answering(server: socket.socket, answer: bytes) -> t.Iterator[list[bytes]]:
    """A server that gives each client the same answer; yields what clients sent."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _peer = server.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                with contextlib.suppress(OSError):
                    asked.append(client.recv(65536))
                    client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check = {"type": "tcp", "host": "127.0.0.1", "port": server.getsockname()[1]}
        assert ready.try_check(check) is None
    assert ready.try_check(check) == "Connection refused"
    assert ready.describe(check) == f"a connection to 127.0.0.1 port {check['port']}"


@pytest.mark.parametrize(
    ("answer", "wanted", "problem"),
    [
        (OK, {}, None),
        (OK, {"contains": "well"}, None),
        (OK, {"contains": "ill"}, "it answered 200 without 'ill': all is well"),
        (OK, {"status": [204, 200]}, None),
        (OK, {"status": [204]}, "it answered 200: all is well"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nnot yet", {}, "it answered 503: not yet"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", {"status": [404]}, None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", {}, "it did not answer in HTTP but b'SSH-2.0-OpenSSH_9.2\\r\\n'"),
        (b"", {}, "it did not answer in HTTP but b''"),
        (b"HTTP/1.1 no\r\n\r\n", {}, "it did not answer in HTTP but b'HTTP/1.1 no\\r\\n\\r\\n'"),
    ],
)
def test_http(answer: bytes, wanted: dict[str, t.Any], problem: str | None) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with answering(server, answer) as asked:
        assert ready.try_check({"type": "http", "url": f"http://127.0.0.1:{port}/health?x=1", **wanted}) == problem
    assert asked[0].startswith(f"GET /health?x=1 HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n".encode())


def test_http_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    check = {"type": "http", "unix_socket": str(path), "path": "/_ping", "contains": "well"}
    assert ready.describe(check) == f"GET /_ping on {path}"
    with answering(server, OK) as asked:
        assert ready.try_check(check) is None
    assert asked[0].startswith(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n")
    path.unlink()
    assert ready.try_check(check) == "No such file or directory"


def test_https_with_a_server_that_speaks_none() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with answering(server, b"plain text\n"):
        problem = ready.try_check({"type": "http", "url": f"https://127.0.0.1:{port}/"})
    assert problem
    assert "\n" not in problem


def test_a_missing_certificate_is_a_problem_and_no_traceback() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with answering(server, OK):
        check = {"type": "http", "url": f"https://127.0.0.1:{port}/", "ca": "/nonexistent/ca.crt"}
        assert ready.try_check(check) == "No such file or directory"


def test_commands() -> None:
    assert ready.try_check({"type": "command", "argv": ["true"]}) is None
    assert ready.try_check({"type": "command", "argv": ["echo", "fine"], "contains": "fine"}) is None
    assert ready.try_check({"type": "command", "argv": ["echo", "fine"], "contains": "bad"}) == (
        "its output has no 'bad': fine"
    )
    assert ready.try_check({"type": "command", "argv": ["sh", "-c", "echo why >&2; exit 4"]}) == "it ended with 4: why"
    assert ready.try_check({"type": "command", "argv": ["/nonexistent/x"]}) == (
        "it ended with 127: /nonexistent/x: no such program"
    )
    assert ready.try_check({"type": "command", "argv": ["sleep", "5"]}, timeout=0.1) == (
        "it ended with 124: sleep did not end within 0.1 s"
    )
    assert ready.describe({"type": "command", "argv": ["echo", "a b"]}) == "'echo 'a b''"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://192.0.2.1:2379/health", ("https", "192.0.2.1", 2379, "/health")),
        ("https://[2001:db8::1]:2379/a/b", ("https", "2001:db8::1", 2379, "/a/b")),
        ("https://[2001:db8::1]", ("https", "2001:db8::1", 443, "/")),
        ("http://host", ("http", "host", 80, "/")),
    ],
)
def test_urls(url: str, parts: tuple[t.Any, ...]) -> None:
    assert ready._split_url(url) == parts
    assert ready.url_problem(url) is None


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://host/", "http://", "http://u:p@host/", "http://h:0/", "http://h:x/"]
)
def test_urls_that_cannot_be_asked(url: str) -> None:
    assert ready.url_problem(url)


def test_waiting_ends_when_all_have_answered_once() -> None:
    port = unused_port()
    opened: list[socket.socket] = []

    def open_later() -> None:
        opened.append(socket.create_server(("127.0.0.1", port)))

    timer = threading.Timer(0.3, open_later)
    timer.start()
    checks = [{"type": "tcp", "host": "127.0.0.1", "port": port}, {"type": "command", "argv": ["true"]}]
    assert ready.wait_ready(checks, time.monotonic() + 10, lambda: True) == []
    timer.join()
    opened[0].close()


def test_waiting_ends_at_the_deadline_and_names_what_never_answered() -> None:
    port = unused_port()
    checks = [{"type": "command", "argv": ["true"]}, {"type": "tcp", "host": "127.0.0.1", "port": port}]
    begin = time.monotonic()
    missing = ready.wait_ready(checks, begin + 0.3, lambda: True)
    assert missing == [f"a connection to 127.0.0.1 port {port}: Connection refused"]
    assert time.monotonic() - begin < 5


def test_waiting_ends_when_the_unit_has_died() -> None:
    asked: list[bool] = []

    def died() -> bool:
        asked.append(True)
        return False

    checks = [{"type": "tcp", "host": "127.0.0.1", "port": unused_port()}]
    assert len(ready.wait_ready(checks, time.monotonic() + 60, died)) == 1
    assert asked == [True]
