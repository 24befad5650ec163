# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of whole machines: F3, F14, F16."""

from __future__ import annotations

import pytest
from faults import oracle
from faults.lab import MOVED, TTL, Lab, clock, names, wait, witness
from faults.oracle import Wanted, require


def _a_machine_dies(lab: Lab, leader: bool) -> None:
    """F3: its units are elsewhere in time, all others stay, and nothing comes back to it when it is there again."""
    units = {name: witness() for name in names(9)}
    lab.submit(units)
    placed = {name: hosts[0] for name, hosts in lab.until_active(units).items()}
    first = lab.engine_leader()
    victim = first if leader else next(host for host in lab.others(first) if host is not lab[0])
    etcd_led = lab.etcd_leader() is victim
    moving = sorted(name for name, host in placed.items() if host is victim)
    staying = {name: 1 for name in units if name not in moving}
    before = {key: value for key, value in lab.invocations().items() if not key.startswith(f"{victim}/")}
    lab.note(f"{victim} runs {', '.join(moving)}; leads etcd: {etcd_led}")
    assert moving, "the unlucky machine runs nothing"
    killed = lab.kill(victim)
    # A new leader of etcd gives every lease its whole time again.
    bound = MOVED + (TTL if etcd_led else 0)
    survivor = lab.others(victim)[0]
    wait("the units are elsewhere", bound + 10, lambda: all(lab.where(name) for name in moving), 0.2)
    moved = clock()
    lab.start(victim)
    lab.whole()
    wanted = {name: Wanted("launched") for name in units}
    converged = lab.check_converged(wanted)
    runs = lab.runs()
    for name in moving:
        lab.note(f"{name} was away for {oracle.longest_gap(runs, name, killed - 1, clock()):.2f} s")
    require(
        oracle.check_gap(runs, moving, killed - 1, moved, bound),
        oracle.check_overlap(runs, units),
        oracle.check_lives(runs, {**staying, **dict.fromkeys(moving, 2)}),
        oracle.check_same(before, lab.invocations()),
        converged,
        lab.check_history(),
    )
    assert survivor.is_on


@pytest.mark.quick
def test_f3_a_machine_dies(lab: Lab) -> None:
    _a_machine_dies(lab, leader=False)


def test_f3_the_leaders_machine_dies(lab: Lab) -> None:
    _a_machine_dies(lab, leader=True)
