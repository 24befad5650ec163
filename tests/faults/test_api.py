# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of the API that behave badly: F25."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from faults.lab import Host, Lab, wait
from faults.oracle import Violation, Wanted, require

PATIENCE = 1.0
"""Seconds in which others are served, whatever bad clients do."""


def _connect(host: Host) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.settimeout(20)
    found.connect(str(host.root / "run/fleet.sock"))
    return found


def _request(name: str) -> bytes:
    options = [{"section": "Service", "name": "ExecStart", "value": "/bin/sleep infinity"}]
    body = json.dumps({"desiredState": "inactive", "name": name, "options": options}).encode()
    head = (
        f"PUT /fleet/v1/units/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _resident(host: Host) -> int:
    """MiB of fleetd."""
    text = Path(f"/proc/{host.main_pid('fleet')}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def _served(host: Host) -> list[Violation]:
    answer = host.api("GET", "/fleet/v1/machines")
    if answer.status == 200 and answer.seconds < PATIENCE:
        return []
    return [Violation("S7", f"{host} answered {answer.status} after {answer.seconds:.2f} s")]


def test_f25_a_put_that_is_cut_off_anywhere_leaves_no_part_of_a_unit(lab: Lab) -> None:
    host = lab[1]
    length = len(_request("t-000.service"))
    for offset in range(length):
        with _connect(host) as client:
            client.sendall(_request(f"t-{offset:03d}.service")[:offset])
    late = _served(host)
    time.sleep(1)
    assert lab.keys("unit") == {}, "half a request made a unit"
    # The whole request, and then gone without waiting for an answer: all of it or nothing.
    for number in range(20):
        with _connect(host) as client:
            client.sendall(_request(f"t-{number:03d}.service"))
    time.sleep(2)
    found = lab.keys("unit")
    lab.note(f"{length} requests cut off; {len(found)} of 20 whole ones without waiting were done")
    for value in found.values():
        assert len(json.loads(value)["options"]) == 1
    wanted = {key.partition("/")[2]: Wanted("inactive") for key in found}
    require(late, lab.check_converged(wanted), lab.check_history())


def test_f25_slow_clients_and_great_bodies_hurt_nobody_else(lab: Lab) -> None:
    host = lab[1]
    before = _resident(host)
    slow = [_connect(host) for _ in range(100)]
    found: list[Violation] = []
    try:
        request = _request("t-slow.service")
        for moment in range(10):
            for number, client in enumerate(slow):
                client.sendall(request[moment * (number % 3 + 1) : (moment + 1) * (number % 3 + 1)])
            found += _served(host)
            time.sleep(0.5)
        great = _great(host)
        lab.note(f"20 MiB: {great!r}")
        found += _served(host)
        after = _resident(host)
        lab.note(f"fleetd had {before} MiB, and has {after} MiB with 100 slow clients and after 20 MiB")
        if after - before > 30:
            found.append(Violation("S7", f"fleetd grew from {before} to {after} MiB"))
    finally:
        for client in slow:
            client.close()
    assert b" 413 " in great
    assert b" 413 " in _chunked(host)
    assert lab.keys("unit") == {}
    require(found)
    wait("the connections are gone", 10, lambda: not _served(host))


def _great(host: Host) -> bytes:
    """The answer to a body of 20 MiB."""
    head = (
        "PUT /fleet/v1/units/t-great.service HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {20 * 2**20}\r\n\r\n"
    )
    with _connect(host) as client:
        client.sendall(head.encode())
        try:
            for _ in range(20):
                client.sendall(b"x" * 2**20)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        return _first_line(client)


def _chunked(host: Host) -> bytes:
    """The answer to a body that does not say how long it is."""
    head = (
        "PUT /fleet/v1/units/t-great.service HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    with _connect(host) as client:
        client.sendall(head.encode())
        try:
            for _ in range(20):
                client.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        return _first_line(client)


def _first_line(client: socket.socket) -> bytes:
    try:
        return client.recv(4096).split(b"\r\n")[0]
    except OSError as exc:
        return str(exc).encode()
