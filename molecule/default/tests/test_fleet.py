# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleet: every machine is in it, and the unit that had to move serves the network from where it is now."""

from __future__ import annotations

import urllib.request

from support.cluster_access import SECONDS, Machine


def rows(machine: Machine, command: str) -> list[list[str]]:
    """The lines of a fleetctl listing, in columns."""
    return [line.split() for line in machine.host.check_output(f"fleetctl {command} --no-legend").splitlines()]


def test_every_machine_sees_all_machines(machines: list[Machine]) -> None:
    ids = {machine.host.file("/etc/machine-id").content_string.strip(): machine.address for machine in machines}
    assert len(ids) == 3
    for machine in machines:
        assert {row[0]: row[1] for row in rows(machine, "list-machines --full")} == ids, machine.name


def test_hello_is_active_on_one_machine(machines: list[Machine]) -> None:
    assert [row[2:] for row in rows(machines[0], "list-units") if row[0] == "hello.service"] == [["active", "running"]]


def test_container_answers_over_the_network(machines: list[Machine]) -> None:
    (placed,) = [row[1] for row in rows(machines[0], "list-units --full") if row[0] == "hello.service"]
    address = placed.partition("/")[2]
    expected = "Hello from " + next(machine.name for machine in machines if machine.address == address)
    url = f"http://{address}:8080/"
    code = f"import urllib.request as u; print(u.urlopen('{url}', timeout={SECONDS}).read().decode())"
    for machine in machines:
        if machine.address != address:
            assert machine.host.check_output("python3 -c %s", code).strip() == expected, machine.name
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        assert answer.read().decode().strip() == expected


def test_container_runs_on_that_machine_alone(machines: list[Machine]) -> None:
    running = [machine.host.check_output("docker ps --quiet --filter name=^hello$") for machine in machines]
    assert len([container for container in running if container]) == 1


def test_socket_is_for_the_group_fleet(machines: list[Machine]) -> None:
    for machine in machines:
        socket = machine.host.file("/run/fleet.sock")
        assert (socket.is_socket, socket.user, socket.group, socket.mode) == (True, "root", "fleet", 0o660)
