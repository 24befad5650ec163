# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves and removals of containers: F13."""

from __future__ import annotations

import os

import pytest
from faults import oracle
from faults.lab import Host, Lab, clock, names, wait
from faults.oracle import Violation, require

IMAGE = "tar --create --directory / bin/busybox | docker import - flotilla-witness:1"
CONTAINER = """\
[Unit]
After=docker.service
Requires=docker.service

[Service]
ExecStartPre=-/usr/bin/docker rm --force %p
ExecStart=/usr/bin/docker run --rm --name %p --label unit=%n -e INVOCATION_ID -e WITNESS_HOST=%H \\
  -v /var/lib/witness:/var/lib/witness -v /usr/local/bin/witness:/witness:ro flotilla-witness:1 \\
  /bin/busybox sh /witness %n 3
ExecStop=/usr/bin/docker stop --time 15 %p
SuccessExitStatus=137 143
TimeoutStopSec=30

[X-Fleet]
MachineMetadata=here=yes
"""


def _point(lab: Lab, host: Host) -> None:
    """Let the unit run on this host only."""
    patch = [
        {"op": "add", "path": f"/{one.machine}/metadata/here", "value": "yes" if one is host else "no"}
        for one in lab.hosts
    ]
    answer = lab[0].api("PATCH", "/fleet/v1/machines", patch)
    assert answer.status == 204, answer


def _containers(host: Host) -> str:
    return host.run("docker ps --all --quiet --filter label=unit").strip()


@pytest.mark.parametrize("moves", [int(os.environ.get("FAULTS_F13", "50"))])
def test_f13_a_container_stops_to_the_end_before_it_starts_elsewhere(lab: Lab, moves: int) -> None:
    lab.each(lambda host: host.run(IMAGE, timeout=120))
    (name,) = names(1)
    _point(lab, lab[0])
    lab.submit({name: CONTAINER})
    lab.until_active([name], 60)
    wait("the container tells that it runs", 20, lambda: oracle.of(lab.runs(), name))
    left: list[Violation] = []
    for number in range(moves):
        here, there = lab.hosts[number % 3], lab.hosts[(number + 1) % 3]
        begun = clock()
        _point(lab, there)
        wait(f"move {number + 1}", 60, lambda t=there: lab.where(name) == [t], 0.2)
        wait("it tells so", 20, lambda n=number: len(oracle.of(lab.runs(), name)) == n + 2)
        if _containers(here):
            left.append(Violation("S2", f"after move {number + 1} a container is left on {here}"))
        if name in here.files():
            left.append(Violation("L1", f"after move {number + 1} the file is left on {here}"))
        if number % 10 == 0:
            lab.note(f"move {number + 1} from {here} to {there} took {clock() - begun:.2f} s")
    lab.destroy(name)
    converged = lab.check_converged({})
    wait("no container is left", 30, lambda: not any(lab.each(_containers).values()))
    runs = oracle.of(lab.runs(), name)
    cut_short = [
        Violation("S2", f"on {run.host} the container was killed before it had stopped, at {run.last:.2f}")
        for run in runs
        if not run.stopped
    ]
    require(
        oracle.check_overlap(runs, [name]),
        oracle.check_lives(runs, {name: moves + 1}),
        cut_short,
        left,
        converged,
        lab.check_history(),
    )
