# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of whole machines: F3, F14, F16."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults import oracle
from faults.lab import LIGHT, MOVED, PREFIX, TTL, Host, Lab, clock, names, wait, witness
from faults.oracle import Wanted, require
from localhosts.system import write_file

from flotilla_fleet.engine import brake_of

NO_RESTART = "run/systemd/system/fleet.service.d/no-restart.conf"


def _a_machine_dies(lab: Lab, leader: bool) -> None:
    """F3: its units are elsewhere in time, all others stay, and nothing comes back to it when it is there again."""
    units = {name: witness() for name in names(9)}
    lab.submit(units)
    placed = {name: hosts[0] for name, hosts in lab.until_active(units).items()}
    first = lab.engine_leader()
    # The machine whose member of etcd is the first of all lists, where it can be.
    victim = first if leader else lab.others(first)[0]
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


def test_f14_all_machines_reboot_at_once(lab: Lab, seed: random.Random) -> None:
    """Each unit is started once after it, and soon after the machines are there."""
    units = {name: witness() for name in names(9)}
    lab.submit(units)
    lab.until_active(units)
    old = lab.runs()
    killed = clock()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lab.kill, lab.hosts))
    order = [(seed.uniform(0, 10), host) for host in lab.hosts]
    for delay, host in sorted(order, key=lambda item: item[0]):
        time.sleep(max(0.0, killed + delay - clock()))
        lab.start(host)
    back = clock()
    lab.until_active(units, TTL + 30)
    up = clock()
    lab.note(f"all units ran {up - back:.2f} s after the last machine answered ssh")
    lab.whole()
    time.sleep(2 * TTL)
    runs = lab.runs()
    require(
        oracle.check_lives(runs, dict.fromkeys(units, 1), since=killed),
        oracle.check_gap(runs, units, back + TTL + 10, clock() - 1, 1.5),
        oracle.check_overlap(runs, units),
        lab.check_converged({name: Wanted("launched") for name in units}),
        lab.check_history(),
    )
    assert {run.unit for run in old} == set(units)


def test_f16_when_most_agents_vanish_the_survivor_is_not_crushed(lab: Lab) -> None:
    """200 units, and the agents (only they) of two machines gone: a part moves, the rest waits for its machine."""
    units = dict.fromkeys((f"t-{number:03d}.service" for number in range(200)), LIGHT)
    lab.submit(units)
    wait("200 units active", 60, lambda: _active_copies(lab) == 200, 0.5)
    survivor = lab.engine_leader()
    lost = lab.others(survivor)
    before = {key: value for key, value in lab.invocations().items() if key.startswith(f"{survivor}/")}
    everything = lab.invocations()
    for host in lost:
        write_file(host.root / NO_RESTART, "[Service]\nRestart=no\n")
        host.run("systemctl daemon-reload")
        host.signal("fleet", signal.SIGKILL)  # and nobody may use its socket now, which would start it
    lab.note(f"killed the agents of {lost}")
    most = brake_of(3, 2, 200)
    try:
        wait("the survivor takes over", MOVED + 10, lambda: len(_active_on(survivor)) >= most, 0.5)
        time.sleep(2 * TTL)
        held = len(_active_on(survivor))
        lab.note(f"{survivor} runs {held} units; it may hold {most}")
        reasons = [unit.get("reason", "") for unit in survivor.collect("units", "units")]
        waiting = sum("most machines are lost" in reason for reason in reasons)
        lab.note(f"{waiting} units say that they wait for their machine")
        crushed = [oracle.Violation("L3", f"{survivor} runs {held} units, {most} are allowed")] if held > most else []
        kept = list(oracle.check_same(everything, lab.invocations()))
    finally:
        for host in lost:
            (host.root / NO_RESTART).unlink()
            host.run("systemctl daemon-reload; systemctl reset-failed; systemctl start fleet")
        lab.note("the agents are back")
    lab.whole()
    wanted = dict.fromkeys(units, Wanted("launched"))
    require(
        crushed,
        kept,
        oracle.check_same(before, lab.invocations()),
        lab.check_converged(wanted, 60),
        lab.check_history(),
    )
    assert waiting, "no unit says why it waits"
    moved = oracle.moves(lab.history(), PREFIX)
    lab.note(f"{len(moved)} units moved")
    # Their leases end seconds apart: what the first had may have been given to the second.
    assert max(moved.values()) <= 2


def _active_on(host: Host) -> list[str]:
    return [name for name, state in host.active().items() if state == "active"]


def _active_copies(lab: Lab) -> int:
    return sum(len(_active_on(host)) for host in lab.hosts)
