# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts between machines: F4, F5, F7."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest
from faults import oracle
from faults.lab import GRACE, INTERVAL, MOVED, SLACK, TTL, Host, Lab, clock, names, wait, witness
from faults.oracle import Violation, Wanted, require

HEALED = 2 * INTERVAL + SLACK
"""Seconds after healing in which two copies may run still."""
ANSWER = 5.0
"""Seconds that the API may take to say that it cannot."""


def _victim(lab: Lab, leader: bool) -> Host:
    first = lab.engine_leader()
    return first if leader else lab.others(first)[-1]


def _check_refusal(host: Host) -> list[Violation]:
    """The API without etcd answers in time, with 503 and a reason."""
    answer = host.api("GET", "/fleet/v1/units")
    if answer.status == 503 and answer.seconds < ANSWER and answer.message:
        return []
    told = f"{host} answered {answer.status} {answer.message!r} after {answer.seconds:.1f} s, not 503 with a reason"
    return [Violation("S7", told)]


def _placed(lab: Lab, units: Iterable[str]) -> dict[str, Host]:
    return {name: hosts[0] for name, hosts in lab.until_active(units).items()}


@pytest.mark.parametrize("leader", [False, True], ids=["follower", "leader"])
def test_f4_a_minority_keeps_run_units_until_it_hears_that_they_moved(lab: Lab, leader: bool) -> None:
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    placed = _placed(lab, units)
    victim = _victim(lab, leader)
    moving = sorted(name for name, host in placed.items() if host is victim)
    assert moving
    before = lab.invocations()
    etcd_led = lab.etcd_leader() is victim
    cut = lab.cut(victim)
    bound = MOVED + (TTL if etcd_led else 0)
    others = lab.others(victim)
    wait(
        "the units run elsewhere too",
        bound + 10,
        lambda: all(any(host.active().get(name) == "active" for host in others) for name in moving),
        0.2,
    )
    refused = _check_refusal(victim)
    time.sleep(max(0.0, cut + 5 * TTL - clock()))
    staying = {key: value for key, value in before.items() if key.partition("/")[2] not in moving}
    kept = {key: value for key, value in before.items() if key.startswith(f"{victim}/")}
    during = lab.invocations()
    healed = lab.heal()
    wait("one copy of each", HEALED + 20, lambda: all(len(lab.where(name)) == 1 for name in moving), 0.2)
    converged = lab.check_converged({name: Wanted("launched") for name in units})
    runs = lab.runs()
    for name in moving:
        lab.note(f"{name} ran twice for {oracle.overlap_seconds(runs, name):.2f} s")
        assert lab.where(name) != [victim]
    require(
        oracle.check_same(kept, during),
        oracle.check_same(staying, lab.invocations()),
        # From the earliest moment at which the lease may end until a little after healing.
        oracle.check_overlap(runs, units, [(cut + TTL - TTL / 3 - 1, healed + HEALED)]),
        oracle.check_gap(runs, units, cut, clock() - 1, 1.5),
        oracle.check_lives(runs, {name: 2 if name in moving else 1 for name in units}),
        refused,
        converged,
        lab.check_history(),
    )


def test_f5_a_minority_stops_its_stop_units_before_they_start_elsewhere(lab: Lab) -> None:
    """Also those that take longer to stop than there is time, and also when the leader of all is cut off."""
    cut_off_stop_units(lab, _victim(lab, leader=False))


def test_f5_when_the_leader_is_cut_off(lab: Lab) -> None:
    cut_off_stop_units(lab, _victim(lab, leader=True))


def cut_off_stop_units(lab: Lab, victim: Host) -> None:
    """The body of F5."""
    quick = {name: witness("OnPartition=stop\n") for name in names(6)}
    slow = {name: witness("OnPartition=stop\n", slow=15) for name in names(3, "t-slow-")}
    run = {name: witness() for name in names(3, "t-run-")}
    units = {**quick, **slow, **run}
    fenced = sorted({**quick, **slow})
    lab.submit(units)
    placed = _placed(lab, units)
    moving = sorted(name for name, host in placed.items() if host is victim)
    assert set(moving) & set(quick)
    assert set(moving) & set(slow)
    etcd_led = lab.etcd_leader() is victim
    before = {key: value for key, value in lab.invocations().items() if not key.startswith(f"{victim}/")}
    cut = lab.cut(victim)
    bound = MOVED + GRACE + (TTL if etcd_led else 0)
    others = lab.others(victim)
    wait(
        "the units run elsewhere",
        bound + 10,
        lambda: all(any(host.active().get(name) == "active" for host in others) for name in moving),
        0.2,
    )
    moved = clock()
    time.sleep(max(0.0, cut + 3 * TTL - clock()))
    healed = lab.heal()
    converged = lab.check_converged({name: Wanted("launched") for name in units})
    runs = lab.runs()
    for name in sorted(set(moving) & set(fenced)):
        lab.note(f"{name} was away for {oracle.longest_gap(runs, name, cut, moved):.2f} s")
    require(
        oracle.check_overlap(runs, fenced),
        oracle.check_overlap(runs, run, [(cut + TTL - TTL / 3 - 1, healed + HEALED)]),
        oracle.check_gap(runs, fenced, cut - 1, moved, bound + 1),
        oracle.check_lives(runs, {name: 2 if name in moving else 1 for name in units}),
        oracle.check_same(before, lab.invocations()),
        converged,
        lab.check_history(),
    )


def test_f5_cuts_at_any_moment_of_starting_and_stopping(lab: Lab, seed: random.Random) -> None:
    """Stop units are submitted or destroyed in the moment of the cut, each time at another host."""
    wanted: dict[str, Wanted] = {}
    for round_ in range(4):
        victim = lab.hosts[round_ % 3]
        through = lab.others(victim)[0]
        text = witness("OnPartition=stop\n", slow=seed.choice([0, 1, 4]))
        fresh = [f"t-{round_}-{number}.service" for number in range(4)]
        lab.submit(dict.fromkeys(fresh, text), through=through)
        wanted.update({name: Wanted("launched") for name in fresh})
        gone = sorted(wanted)[: round_ * 2]
        for name in gone:
            lab.destroy(name, through)
            del wanted[name]
        time.sleep(seed.uniform(0, 0.5))
        cut = lab.cut(victim)
        time.sleep(seed.uniform(0.5, 2.5) * TTL)
        lab.heal()
        lab.note(f"round {round_}: cut {victim} for {clock() - cut:.1f} s")
        require(lab.check_converged(wanted, 60))
    runs = lab.runs()
    require(oracle.check_overlap(runs, oracle.units_in(runs)), lab.check_history())


def test_f7_without_a_majority_nothing_changes(lab: Lab) -> None:
    no_majority(lab)


def no_majority(lab: Lab) -> None:
    """The body of F7: all machines cut from each other, then two members of etcd stopped."""
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    for host in lab.hosts:
        lab.cut(host)
    time.sleep(5 * TTL)
    refused = [violation for host in lab.hosts for violation in _check_refusal(host)]
    kept = list(oracle.check_same(before, lab.invocations()))
    healed = lab.heal()
    wait("the API works", TTL + SLACK, lambda: lab[0].api("GET", "/fleet/v1/units").status == 200)
    lab.note(f"the API worked {clock() - healed:.2f} s after healing")
    lab.whole()
    time.sleep(TTL)
    require(kept, refused, lab.check_converged({name: Wanted("launched") for name in units}))

    two = lab.others(lab.etcd_leader())
    lab.each(lambda host: host.run("systemctl stop etcd"), two)
    lab.note(f"stopped etcd on {two}")
    time.sleep(3 * TTL)
    refused = [violation for host in lab.hosts for violation in _check_refusal(host)]
    lab.each(lambda host: host.run("systemctl start etcd"), two)
    lab.whole()
    submitted = clock()
    lab.submit({"t-new.service": witness()})
    lab.until_active(["t-new.service"], TTL + SLACK)
    lab.note(f"a new unit ran {clock() - submitted:.2f} s after etcd was whole")
    time.sleep(TTL)
    runs = lab.runs()
    wanted = {name: Wanted("launched") for name in [*units, "t-new.service"]}
    require(
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(runs, dict.fromkeys(units, 1)),
        oracle.check_gap(runs, units, lab.begun + 15, clock() - 1, 1.5, "S3"),
        refused,
        lab.check_converged(wanted),
        lab.check_history(),
    )
