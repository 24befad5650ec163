# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the engine and of what it is asked to do: F8, F22."""

from __future__ import annotations

import os
import signal
import time

import pytest
from faults import oracle
from faults.lab import INTERVAL, SLACK, TTL, Host, Lab, names, wait, witness
from faults.oracle import Wanted, require

ENGINE_TTL = 5
"""Seconds that leadership lasts: five reconcile intervals of one second."""


def _leads(lab: Lab) -> Host | None:
    try:
        return lab.engine_leader()
    except AssertionError:
        return None


@pytest.mark.quick
def test_f8_a_paused_leader_wakes_up_as_nobody(lab: Lab) -> None:
    """A leader that is paused between a decision and its write, and wakes when others lead, is refused the write."""
    with lab.fleetd_with("no_watchdog", "slow_engine"):
        paused_leader(lab)


def paused_leader(lab: Lab) -> None:
    """The body of F8, for engines that can be caught between decision and write."""
    units = {name: witness() for name in names(4)}
    lab.submit(units)
    lab.until_active(units, 60)
    leader = lab.engine_leader()
    other = lab.others(leader)[0]
    run = leader.root / "run/fleet"
    (run / "hold").touch()
    late = {name: witness() for name in names(4, "t-late-")}
    lab.submit(late, through=other)
    wait("the engine has decided", 10, (run / "deciding").exists, 0.02)
    pid = leader.signal("fleet", signal.SIGSTOP)
    lab.note(f"paused the engine on {leader}")
    try:
        wait("another leader", 3 * ENGINE_TTL + SLACK, lambda: _leads(lab) not in (None, leader), 0.2)
        # The new one places them, on two machines as the third is lost; what the old one decided is wrong now.
        time.sleep(TTL)
        lab.until_active(late, 60)
        lab.desire("t-00.service", "inactive", through=other)
        lab.destroy("t-late-01.service", through=other)
        time.sleep(1)
    finally:
        (run / "hold").unlink()
        os.kill(pid, signal.SIGCONT)
        lab.note("it goes on")
    tried = wait("the old leader tries to write", 10, lambda: (run / "written").read_text().split())
    (run / "deciding").unlink()
    (run / "written").unlink()
    time.sleep(3)
    lab.note(f"what the old leader wrote was {', '.join(tried)}")
    left = [name for name in [*units, *late] if name not in ("t-00.service", "t-late-01.service")]
    wanted = {name: Wanted("launched") for name in left} | {"t-00.service": Wanted("inactive")}
    require(lab.check_history(), lab.check_converged(wanted, 30))
    assert "applied" not in tried


@pytest.mark.quick
def test_f22_a_unit_that_fits_nowhere_says_why_and_runs_when_it_fits(lab: Lab) -> None:
    name = "t-00.service"
    lab.submit({name: witness("MachineMetadata=colour=red\n")})

    def reason() -> str:
        answer = lab[0].api("GET", f"/fleet/v1/units/{name}")
        return str(answer.body.get("reason", ""))

    told = wait("a reason", 2 * INTERVAL + SLACK, reason)
    assert "none of 3 machines fits: 3 lacks metadata colour=red" in told
    assert told in lab[1].run(f"fleetctl list-units --fields unit,reason 2>&1; fleetctl start {name} 2>&1 || :", 30)
    assert not any(lab.active().values())
    begun = time.monotonic()
    patch = [{"op": "add", "path": f"/{lab[2].machine}/metadata/colour", "value": "red"}]
    assert lab[1].api("PATCH", "/fleet/v1/machines", patch).status == 204
    wait("it runs", 2 * INTERVAL + SLACK, lambda: lab.where(name) == [lab[2]])
    lab.note(f"placed {time.monotonic() - begun:.2f} s after the machine fits")
    require(
        lab.check_converged({name: Wanted("launched")}),
        oracle.check_lives(lab.runs(), {name: 1}),
        lab.check_history(),
    )
