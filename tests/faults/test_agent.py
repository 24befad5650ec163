# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of one machine's fleetd and of what it stands on: F2, F6, F10, F18-F22."""

from __future__ import annotations

import signal
import time

import pytest
from faults import oracle
from faults.lab import TTL, Lab, names, wait, witness
from faults.oracle import Wanted, require


def _restarts(lab: Lab, kills: int, restarts: int) -> None:
    """F2: kill -9 and ``systemctl restart`` of fleetd touch no unit, and nobody sees the machine leave."""
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    for host in lab.hosts:
        for number in range(kills + restarts):
            if number < kills:
                host.signal("fleet", signal.SIGKILL)
                host.run("systemctl start fleet")  # waits for the start that systemd has queued
            else:
                host.run("systemctl restart fleet")
            # The lease is what it takes up first; it has renewed it when it answers this.
            wait(f"the API of {host}", 20, lambda h=host: h.api("GET", "/fleet/v1/machines").status == 200)
        lab.note(f"{host}: {kills} kills, {restarts} restarts")
    time.sleep(TTL)
    converged = lab.check_converged({name: Wanted("launched") for name in units})
    runs = lab.runs()
    gone = [change for change in lab.history() if "/presence/" in change.key and change.value is None]
    left = [oracle.Violation("S3", f"revision {c.revision}: {c.key} left etcd") for c in gone]
    require(
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(runs, dict.fromkeys(units, 1)),
        left,
        converged,
        lab.check_history(),
    )


@pytest.mark.quick
def test_f2_a_restarted_agent_touches_nothing(lab: Lab) -> None:
    _restarts(lab, kills=2, restarts=1)


def test_f2_thirty_restarts_on_each_host(lab: Lab) -> None:
    _restarts(lab, kills=20, restarts=10)
