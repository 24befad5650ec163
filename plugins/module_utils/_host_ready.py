# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""Readiness checks of C(host_service): does what was started answer?"""

from __future__ import annotations

import shlex
import socket
import time
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._host_system import run

ATTEMPT_TIMEOUT = 5.0
ANSWER_LIMIT = 64 * 1024


def describe(check: t.Mapping[str, t.Any]) -> str:
    """One check in words, for messages."""
    if check["type"] == "tcp":
        return f"a connection to {check['host']} port {check['port']}"
    if check["type"] == "http":
        if check.get("unix_socket"):
            return f"GET {check.get('path') or '/'} on {check['unix_socket']}"
        return f"GET {check['url']}"
    return f"'{shlex.join(check['argv'])}'"


def _split_url(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of an http(s) URL; without urllib, whose import costs more than the request."""
    scheme, _separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if authority.startswith("["):
        host, _bracket, port = authority[1:].partition("]")
        port = port.lstrip(":")
    else:
        host, _colon, port = authority.partition(":")
    return scheme, host, int(port or (443 if scheme == "https" else 80)), slash + path or "/"


def url_problem(url: str) -> str | None:
    """What is wrong with the URL of a check, or None."""
    try:
        scheme, host, port, _path = _split_url(url)
    except ValueError:
        return f"ready: url {url!r} has no number as its port"
    if scheme not in ("http", "https") or not host or not 0 < port < 65536 or "@" in host:
        return f"ready: url {url!r} must look like https://host:port/path, without credentials"
    return None


def _connect(check: t.Mapping[str, t.Any], timeout: float) -> tuple[socket.socket, str, str]:
    if check.get("unix_socket"):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(timeout)
        try:
            plain.connect(check["unix_socket"])
        except BaseException:
            plain.close()
            raise
        return plain, "localhost", check.get("path") or "/"
    scheme, host, port, path = _split_url(check["url"])
    name = f"[{host}]" if ":" in host else host
    plain = socket.create_connection((host, port), timeout)
    if scheme == "http":
        return plain, f"{name}:{port}", path
    try:
        import ssl

        context = ssl.create_default_context(cafile=check.get("ca"))
        if check.get("cert"):
            context.load_cert_chain(check["cert"], check.get("key"))
        return context.wrap_socket(plain, server_hostname=host), f"{name}:{port}", path
    except BaseException:
        plain.close()
        raise


def _http(check: t.Mapping[str, t.Any], timeout: float) -> str | None:
    # HTTP/1.0 asks for an answer that ends with the connection: no chunks, no keep-alive, and no need of http.client,
    # whose import takes as long as all the rest of a run without changes.
    connection, host, path = _connect(check, timeout)
    with connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode("ascii"))
        answer = b""
        while len(answer) < ANSWER_LIMIT:
            piece = connection.recv(ANSWER_LIMIT)
            if not piece:
                break
            answer += piece
    head, _blank, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"it did not answer in HTTP but {answer[:80]!r}"
    status, text = int(words[1]), body.decode("utf-8", "replace")
    if status not in (check.get("status") or [200]):
        return f"it answered {status}: {text.strip()[:200]}"
    if check.get("contains") and check["contains"] not in text:
        return f"it answered {status} without {check['contains']!r}: {text.strip()[:200]}"
    return None


def _command(check: t.Mapping[str, t.Any], timeout: float) -> str | None:
    result = run(check["argv"], timeout)
    said = (result.stdout.strip() + "\n" + result.stderr.strip()).strip()
    if result.rc != 0:
        return f"it ended with {result.rc}: {said[-300:]}"
    if check.get("contains") and check["contains"] not in result.stdout:
        return f"its output has no {check['contains']!r}: {said[-300:]}"
    return None


def try_check(check: t.Mapping[str, t.Any], timeout: float = ATTEMPT_TIMEOUT) -> str | None:
    """Try one check once. None: ready; otherwise what came instead."""
    try:
        if check["type"] == "tcp":
            socket.create_connection((check["host"], check["port"]), timeout).close()
            return None
        if check["type"] == "http":
            return _http(check, timeout)
        return _command(check, timeout)
    except OSError as error:  # ssl.SSLError and timeouts are OSErrors
        return error.strerror or str(error) or type(error).__name__


def wait_ready(
    checks: t.Sequence[t.Mapping[str, t.Any]],
    deadline: float,
    still_alive: t.Callable[[], bool],
) -> list[str]:
    """Try all checks until each has passed once or `deadline` (time.monotonic()) is over.

    Nobody tells us when another program starts to answer, so this asks; at first every 50 ms, later twice a second.
    `still_alive` is asked about once a second; False ends the wait. Returns a sentence for each check that failed.
    """
    waiting = list(checks)
    last: dict[int, str] = {}
    pause, next_look = 0.05, time.monotonic() + 1
    while waiting:
        left: list[t.Mapping[str, t.Any]] = []
        for check in waiting:
            answer = try_check(check, max(0.5, min(ATTEMPT_TIMEOUT, deadline - time.monotonic())))
            if answer is not None:
                last[id(check)] = answer
                left.append(check)
        waiting = left
        now = time.monotonic()
        if not waiting or now >= deadline:
            break
        if now >= next_look:
            if not still_alive():
                break
            next_look = now + 1
        time.sleep(min(pause, max(0.0, deadline - now)))
        pause = min(0.5, pause * 1.5)
    return [f"{describe(check)}: {last[id(check)]}" for check in waiting]
