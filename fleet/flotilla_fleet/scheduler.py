# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which unit runs on which machine: one pure function, :func:`plan`.

It sees the wanted units, the present machines, and what is assigned and running now, and gives the changes to make. It
does no I/O and reads no clock; the same input gives the same plan. Placement is upstream's: the machine with the fewest
units, ties to the lowest machine id, and nothing moves while it may stay.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .model import INACTIVE, Assignment, Machine, Target, Unit
from .unitfile import Requirements, glob_match


@dataclass(frozen=True)
class Snapshot:
    """What the engine knows at one moment.

    ``running`` gives, for a unit, the machines that publish a state for it; ``frozen`` are units of which a record
    cannot be read: they keep what they have.
    """

    units: Mapping[str, Unit]
    machines: Mapping[str, Machine]
    targets: Mapping[str, Target]
    assigns: Mapping[tuple[str, str], Assignment]
    running: Mapping[str, frozenset[str]] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Change:
    """All that happens to one unit, written in one transaction.

    ``target`` is the new target record (None: leave it, see ``drop_target``); ``assign`` the assignments to write by
    machine; ``unassign`` the machines whose assignment is removed.
    """

    name: str
    target: Target | None = None
    drop_target: bool = False
    assign: tuple[tuple[str, Assignment], ...] = ()
    unassign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


@dataclass
class _Host:
    """A machine while the plan is made: the units it holds, by name, with what they ask for."""

    machine: Machine
    holds: dict[str, Requirements] = field(default_factory=dict)
    choosy: int = 0
    """How many of them have a say in who runs beside them; 0 spares asking them all."""

    def add(self, name: str, needs: Requirements) -> None:
        self.holds[name] = needs
        self.choosy += bool(needs.conflicts or needs.replaces)

    def remove(self, name: str) -> None:
        needs = self.holds.pop(name, None)
        if needs is not None:
            self.choosy -= bool(needs.conflicts or needs.replaces)


def machine_fits(needs: Requirements, machine: Machine) -> str:
    """Why the machine itself is wrong for the unit, or ""."""
    if needs.machine_id and needs.machine_id not in (machine.id, machine.id[:8]):
        return f"is not machine {needs.machine_id}"
    for key, values in needs.metadata:
        if machine.metadata.get(key) not in values:
            return f"lacks metadata {' or '.join(f'{key}={value}' for value in values)}"
    return ""


def _conflict(name: str, needs: Requirements, host: _Host) -> str:
    """The unit on the host that may not run beside this one, or ""."""
    if needs.conflicts:
        for other in host.holds:
            if other != name and any(glob_match(pattern, other) for pattern in needs.conflicts):
                return other
    if host.choosy:
        for other, theirs in host.holds.items():
            if other != name and any(glob_match(pattern, name) for pattern in theirs.conflicts):
                return other
    return ""


def _replacer(name: str, needs: Requirements, host: _Host) -> str:
    """The unit on the host that replaces this one, or ""; two that replace each other are left alone."""
    if host.choosy:
        for other, theirs in host.holds.items():
            if (
                other != name
                and any(glob_match(pattern, name) for pattern in theirs.replaces)
                and not any(glob_match(pattern, other) for pattern in needs.replaces)
            ):
                return other
    return ""


class _Planner:
    """State of one run of :func:`plan`; thrown away after it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snap = snapshot
        self.hosts = {machine_id: _Host(machine) for machine_id, machine in snapshot.machines.items()}
        self.placed: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.leaving: dict[str, str] = {}
        self.wanted_globals: dict[str, list[str]] = {}
        self.held: dict[str, set[str]] = {}
        for machine_id, name in snapshot.assigns:
            self.held.setdefault(name, set()).add(machine_id)

    def run(self) -> Plan:
        singles = self._keep_what_may_stay()
        self._spread_globals()
        self._drop_what_no_longer_fits()
        self._place(singles)
        return Plan(tuple(change for change in map(self._change, self._names()) if change is not None))

    def _names(self) -> list[str]:
        names = set(self.snap.units) | set(self.snap.targets) | set(self.held)
        return sorted(names - self.snap.frozen)

    def _keep_what_may_stay(self) -> list[str]:
        """Enter units that stay where they are; returns the wanted single units, sorted."""
        singles = []
        for name in sorted(self.snap.units):
            unit = self.snap.units[name]
            target = self.snap.targets.get(name, Target())
            if name in self.snap.frozen:
                self._hold_frozen(unit)
            elif unit.desired != INACTIVE and not unit.is_global:
                singles.append(name)
                if target.machine in self.hosts:
                    self._put(name, target.machine)
        return singles

    def _hold_frozen(self, unit: Unit) -> None:
        """A frozen unit still takes its place and still conflicts."""
        for machine_id in self.held.get(unit.name, ()):
            if machine_id in self.hosts:
                self.hosts[machine_id].add(unit.name, unit.needs)

    def _put(self, name: str, machine_id: str) -> None:
        self.placed[name] = machine_id
        self.hosts[machine_id].add(name, self.snap.units[name].needs)

    def _take(self, name: str, reason: str) -> None:
        machine_id = self.placed.pop(name)
        self.hosts[machine_id].remove(name)
        self.leaving[name] = machine_id
        self.reasons[name] = reason

    def _spread_globals(self) -> None:
        """A global unit goes to each machine that fits and has nothing in conflict with it, in order of names."""
        for name in sorted(self.snap.units):
            unit = self.snap.units[name]
            if unit.desired == INACTIVE or not unit.is_global or name in self.snap.frozen:
                continue
            chosen = []
            for machine_id in sorted(self.hosts):
                host = self.hosts[machine_id]
                if not machine_fits(unit.needs, host.machine) and not _conflict(name, unit.needs, host):
                    host.add(name, unit.needs)
                    chosen.append(machine_id)
            self.wanted_globals[name] = chosen
            if not chosen:
                self.reasons[name] = self._why_nowhere(name, unit.needs)

    def _drop_what_no_longer_fits(self) -> None:
        """Units whose machine no longer fits go; that may take the peers of others away, so until nothing changes."""
        again = True
        while again:
            again = False
            for name, machine_id in sorted(self.placed.items()):
                needs = self.snap.units[name].needs
                why = self._refusal(name, needs, self.hosts[machine_id])
                if why:
                    self._take(name, f"leaves machine {machine_id}, which {why}")
                    again = True

    def _refusal(self, name: str, needs: Requirements, host: _Host) -> str:
        """Why the unit may not run on this host, or ""."""
        why = machine_fits(needs, host.machine)
        if why:
            return why
        for peer in needs.peers:
            if peer not in host.holds:
                return f"does not run {peer}"
        other = _conflict(name, needs, host)
        if other:
            return f"runs {other}, which conflicts"
        other = _replacer(name, needs, host)
        return f"runs {other}, which replaces it" if other else ""

    def _place(self, singles: Iterable[str]) -> None:
        """Place the rest; followers of a peer get another turn for as long as somebody found a place."""
        order = sorted((len(host.holds), machine_id) for machine_id, host in self.hosts.items())
        waiting = [name for name in singles if name not in self.placed]
        progress = True
        while waiting and progress:
            progress = False
            still = []
            for name in waiting:
                if self._place_one(name, order):
                    progress = True
                else:
                    still.append(name)
            waiting = still

    def _place_one(self, name: str, order: list[tuple[int, str]]) -> bool:
        unit = self.snap.units[name]
        stopping = self._still_running(name)
        if stopping:
            self.reasons.setdefault(name, f"waits until machine {stopping} has stopped it")
            return False
        for index, (load, machine_id) in enumerate(order):
            host = self.hosts[machine_id]
            if self._refusal(name, unit.needs, host):
                continue
            self._put(name, machine_id)
            del order[index]
            bisect.insort(order, (load + 1, machine_id))
            self._make_way(name, host)
            return True
        self.reasons[name] = self._why_nowhere(name, unit.needs)
        return False

    def _make_way(self, name: str, host: _Host) -> None:
        """Take away what the unit replaces; it looks for another machine as soon as it has stopped."""
        for other in [other for other in host.holds if other in self.placed and other != name]:
            why = self._refusal(other, self.snap.units[other].needs, host)
            if why:
                self._take(other, f"leaves machine {host.machine.id}, which {why}")

    def _still_running(self, name: str) -> str:
        """A present machine that runs the unit, or is still told to, and must have stopped it first; or ""."""
        holders = set(self.snap.running.get(name, ())) | self.held.get(name, set())
        if name in self.leaving:
            holders.add(self.leaving[name])
        alive = sorted(holders & set(self.hosts))
        return alive[0] if alive else ""

    def _why_nowhere(self, name: str, needs: Requirements) -> str:
        """One sentence that counts the machines by what is wrong with them."""
        if not self.hosts:
            return "no machine is present"
        refusals = (self._refusal(name, needs, host) for host in self.hosts.values())
        counts = Counter(why or "fits only when others have moved" for why in refusals)
        parts = [f"{number} {why}" for why, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        shown = "; ".join(parts[:4]) + ("; …" if len(parts) > 4 else "")
        return f"none of {len(self.hosts)} machines fits: {shown}"

    def _change(self, name: str) -> Change | None:
        unit = self.snap.units.get(name)
        wanted = self._wanted_on(name)
        copy = Assignment(name, unit.options, unit.desired) if unit is not None and unit.desired != INACTIVE else None
        held = self.held.get(name, set())
        assign = tuple(
            (machine_id, copy)
            for machine_id in sorted(wanted)
            if copy is not None and self.snap.assigns.get((machine_id, name)) != copy
        )
        unassign = tuple(sorted(held - wanted))
        target, drop = self._target(name, unit)
        if not (assign or unassign or drop or target is not None):
            return None
        return Change(name, target, drop, assign, unassign)

    def _wanted_on(self, name: str) -> set[str]:
        if name in self.wanted_globals:
            return set(self.wanted_globals[name])
        return {self.placed[name]} if name in self.placed else set()

    def _target(self, name: str, unit: Unit | None) -> tuple[Target | None, bool]:
        """The target record to write, and whether to remove it."""
        known = self.snap.targets.get(name)
        if unit is None or unit.desired == INACTIVE:
            return None, known is not None
        if name in self.placed:
            new = Target(self.placed[name])
        elif unit.is_global and not self.reasons.get(name):
            return None, known is not None
        else:
            new = Target("", self.reasons.get(name, ""))
        return (None if known == new else new), False


def plan(snapshot: Snapshot) -> Plan:
    """The changes that bring assignments in line with what is wanted.

    Postconditions, tested as properties: a single unit is on one machine at most; a unit stays where it is while that
    machine is present and fits; a unit that is not placed has a reason; a unit is not placed while another present
    machine runs it; applying a plan and planning again gives no further change, once stopped units are gone.
    """
    return _Planner(snapshot).run()
