# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which unit runs on which machine: one pure function, :func:`plan`.

It sees the wanted units, the present machines, and what is assigned and running now, and gives the changes to make. It
does no I/O and reads no clock; the same input gives the same plan. Placement is upstream's: the machine with the fewest
units, ties to the lowest machine id, and nothing moves while it may stay. Reservations, spreading, limits, sticking and
rolling updates count for units that ask for them.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .model import INACTIVE, LAUNCHED, Assignment, Machine, Target, Unit, UnitState
from .unitfile import Requirements, glob_match, requirements
from .unitname import instance_of, template_of


@dataclass(frozen=True)
class Snapshot:
    """What the engine knows at one moment.

    ``states`` are what machines publish, by (machine, unit); ``frozen`` are units of which a record cannot be read:
    they keep what they have. ``waiting`` gives, for a unit that may not be started elsewhere yet because its lost
    machine may still run it, the words that say so. ``moves`` asks to bring a unit to a machine. ``brake`` is set while
    most machines are lost: so many units a machine may hold at most when it takes over those of a lost one; 0: any.
    """

    units: Mapping[str, Unit]
    machines: Mapping[str, Machine]
    targets: Mapping[str, Target]
    assigns: Mapping[tuple[str, str], Assignment]
    states: Mapping[tuple[str, str], UnitState] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    waiting: Mapping[str, str] = field(default_factory=dict)
    moves: Mapping[str, str] = field(default_factory=dict)
    brake: int = 0


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
    drop_move: bool = False


@dataclass(frozen=True)
class Plan:
    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


def group_of(name: str) -> str:
    """What is limited, spread and updated together: the instances of a template, or a unit alone."""
    return template_of(name) if instance_of(name) else name


@dataclass
class _Host:
    """A machine while the plan is made: the units it holds, by name, with what they ask for."""

    machine: Machine
    holds: dict[str, Requirements] = field(default_factory=dict)
    choosy: int = 0
    """How many of them have a say in who runs beside them; 0 spares asking them all."""
    memory: int = 0
    cpus: float = 0.0
    groups: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, needs: Requirements) -> None:
        self.holds[name] = needs
        self._count(name, needs, 1)

    def remove(self, name: str) -> None:
        needs = self.holds.pop(name, None)
        if needs is not None:
            self._count(name, needs, -1)

    def _count(self, name: str, needs: Requirements, sign: int) -> None:
        self.choosy += sign * bool(needs.conflicts or needs.replaces)
        self.memory += sign * needs.memory
        self.cpus += sign * needs.cpus
        self.groups[group_of(name)] += sign


def bytes_text(number: int) -> str:
    """A size for people: 512 MiB, 1.5 GiB."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def _no_room(name: str, needs: Requirements, host: _Host) -> str:
    """Why what is reserved or limited leaves no room for one more, or ""; only asked when a unit is placed."""
    if host.machine.trouble:
        return host.machine.trouble
    if needs.memory:
        left = host.machine.memory - host.memory
        if needs.memory > left:
            return f"has {bytes_text(max(0, left))} of memory unreserved, not {bytes_text(needs.memory)}"
    if needs.cpus:
        left_cpus = host.machine.cpus - host.cpus
        if needs.cpus > left_cpus + 1e-9:
            return f"has {max(0.0, left_cpus):g} processors unreserved, not {needs.cpus:g}"
    if needs.max_per_machine and host.groups[group_of(name)] >= needs.max_per_machine:
        return f"runs {host.groups[group_of(name)]} of {group_of(name)} already"
    return ""


def machine_fits(needs: Requirements, machine: Machine) -> str:
    """Why the machine itself is wrong for the unit, or ""."""
    if machine.draining:
        return "is being drained"
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
        self.fixed: dict[str, str] = {}
        """Units that keep their target whatever becomes of it, with that machine."""
        self.reasons: dict[str, str] = {}
        self.leaving: dict[str, str] = {}
        self.wanted_globals: dict[str, list[str]] = {}
        self.held: dict[str, set[str]] = {}
        self.running: dict[str, set[str]] = {}
        for machine_id, name in snapshot.assigns:
            self.held.setdefault(name, set()).add(machine_id)
        for machine_id, name in snapshot.states:
            self.running.setdefault(name, set()).add(machine_id)
        self.done: dict[str, str] = {}
        self.updates: dict[str, int] = {}
        """Updates that a group may still begin; -1 after one that did not come up."""

    def run(self) -> Plan:
        singles = self._keep_what_may_stay()
        self._spread_globals()
        self._drop_what_no_longer_fits()
        self._move_on_request()
        self._place(singles)
        return Plan(tuple(change for change in map(self._change, self._names()) if change is not None))

    def _names(self) -> list[str]:
        names = set(self.snap.units) | set(self.snap.targets) | set(self.held) | set(self.snap.moves)
        return sorted(names - self.snap.frozen)

    # -- what is there ------------------------------------------------------------

    def _keep_what_may_stay(self) -> list[str]:
        """Enter units that stay where they are; returns the single units that look for a machine, sorted."""
        singles = []
        self._hold_frozen()
        for name in sorted(self.snap.units):
            unit = self.snap.units[name]
            if name in self.snap.frozen:
                continue
            if unit.desired != INACTIVE and not unit.is_global and not self._keeps_target(unit):
                singles.append(name)
                machine_id = self._target_machine(name)
                if machine_id in self.hosts:
                    self._put(name, machine_id)
        return singles

    def _target_machine(self, name: str) -> str:
        """Where the unit is meant to be; when the record is lost, the one machine that it is assigned to."""
        target = self.snap.targets.get(name)
        if target is not None:
            return target.machine
        held = self.held.get(name, set())
        return next(iter(held)) if len(held) == 1 else ""

    def _hold_frozen(self) -> None:
        """A frozen unit still takes its place and still conflicts, as its machine was told last."""
        for (machine_id, name), copy in self.snap.assigns.items():
            if name in self.snap.frozen and machine_id in self.hosts:
                self.hosts[machine_id].add(name, requirements(name, copy.options))

    def _keeps_target(self, unit: Unit) -> bool:
        """Units that are finished, that stick, or that wait for a lost machine to be surely dead."""
        target = self.snap.targets.get(unit.name, Target())
        if self._is_done(unit, target):
            self.done[unit.name] = unit.hash
            self.reasons[unit.name] = "has run to completion"
            if target.machine in self.hosts:
                self._fix(unit, target.machine)
            return True
        if not target.machine:
            return False
        gone = target.machine not in self.hosts
        if unit.name in self.snap.waiting and gone:
            self._fix(unit, target.machine)
            self.reasons[unit.name] = self.snap.waiting[unit.name]
            return True
        if unit.needs.sticky:
            self._fix(unit, target.machine)
            if gone:
                self.reasons[unit.name] = f"sticks to machine {target.machine}, which is not present"
            elif self.hosts[target.machine].machine.draining:
                self.reasons[unit.name] = f"sticks to machine {target.machine}, which is being drained"
            return True
        return False

    def _is_done(self, unit: Unit, target: Target) -> bool:
        if target.done and target.done == unit.hash:
            return True
        state = self.snap.states.get((target.machine, unit.name))
        return state is not None and state.done and state.hash == unit.hash

    def _fix(self, unit: Unit, machine_id: str) -> None:
        self.fixed[unit.name] = machine_id
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
                if machine_fits(unit.needs, host.machine) or _conflict(name, unit.needs, host):
                    continue
                if machine_id in self.held.get(name, ()) or not _no_room(name, unit.needs, host):
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

    def _move_on_request(self) -> None:
        """Send units off to the machine that an operator wants them on; they get there when they have stopped."""
        for name, machine_id in sorted(self.snap.moves.items()):
            here = self.placed.get(name)
            if here is not None and here != machine_id and machine_id in self.hosts:
                needs, host = self.snap.units[name].needs, self.hosts[machine_id]
                if not self._refusal(name, needs, host) and not _no_room(name, needs, host):
                    self._take(name, f"moves from machine {here} to machine {machine_id}")

    # -- placing ------------------------------------------------------------------

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
        lost = self._lost_machine(name)
        braked = False
        for load, machine_id in self._candidates(name, unit.needs, order):
            host = self.hosts[machine_id]
            if self._refusal(name, unit.needs, host) or _no_room(name, unit.needs, host):
                continue
            if lost and self.snap.brake and len(host.holds) >= self.snap.brake:
                braked = True
                continue
            self._put(name, machine_id)
            self.reasons.pop(name, None)
            del order[bisect.bisect_left(order, (load, machine_id))]
            bisect.insort(order, (load + 1, machine_id))
            self._make_way(name, host)
            return True
        if braked:
            self._fix(unit, lost)
            most = self.snap.brake
            self.reasons[name] = f"waits for machine {lost}: most machines are lost, and those left hold {most} units"
            return True
        self.reasons[name] = self._why_nowhere(name, unit.needs)
        return False

    def _lost_machine(self, name: str) -> str:
        """The machine that the unit was on, if that is gone; or ""."""
        machine_id = self.snap.targets.get(name, Target()).machine
        return machine_id if machine_id not in self.hosts else ""

    def _candidates(self, name: str, needs: Requirements, order: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """Machines in the order in which they are asked: one that was asked for first, then by load and id."""
        asked = self.snap.moves.get(name)
        if not needs.spread_by and not asked:
            return order
        group, values = group_of(name), Counter[str]()
        for host in self.hosts.values():
            values[host.machine.metadata.get(needs.spread_by, "")] += host.groups[group]

        def rank(entry: tuple[int, str]) -> tuple[bool, int, tuple[int, str]]:
            value = self.hosts[entry[1]].machine.metadata.get(needs.spread_by, "")
            return entry[1] != asked, values[value] if needs.spread_by else 0, entry

        return sorted(order, key=rank)

    def _make_way(self, name: str, host: _Host) -> None:
        """Take away what the unit replaces, and what needs that beside it, until nothing changes.

        What is taken away looks for another machine as soon as it has stopped.
        """
        again = True
        while again:
            again = False
            for other in [other for other in host.holds if other in self.placed and other != name]:
                why = self._refusal(other, self.snap.units[other].needs, host)
                if why:
                    self._take(other, f"leaves machine {host.machine.id}, which {why}")
                    again = True

    def _still_running(self, name: str) -> str:
        """A present machine that runs the unit, or is still told to, and must have stopped it first; or ""."""
        holders = self.running.get(name, set()) | self.held.get(name, set())
        if name in self.leaving:
            holders.add(self.leaving[name])
        alive = sorted(holders & set(self.hosts))
        return alive[0] if alive else ""

    def _why_nowhere(self, name: str, needs: Requirements) -> str:
        """One sentence that counts the machines by what is wrong with them."""
        if not self.hosts:
            return "no machine is present"
        refusals = (self._refusal(name, needs, host) or _no_room(name, needs, host) for host in self.hosts.values())
        counts = Counter(why or "fits only when others have moved" for why in refusals)
        parts = [f"{number} {why}" for why, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        shown = "; ".join(parts[:4]) + ("; …" if len(parts) > 4 else "")
        return f"none of {len(self.hosts)} machines fits: {shown}"

    # -- what has to be written -----------------------------------------------------

    def _change(self, name: str) -> Change | None:
        unit = self.snap.units.get(name)
        wanted = self._wanted_on(name)
        held = self.held.get(name, set())
        assign: tuple[tuple[str, Assignment], ...] = ()
        if unit is not None and unit.desired != INACTIVE:
            assign = self._assignments(unit, wanted)
        unassign = tuple(sorted(held - wanted))
        target, drop = self._target(name, unit)
        drop_move = name in self.snap.moves and self._move_is_over(name)
        if not (assign or unassign or drop or drop_move or target is not None):
            return None
        return Change(name, target, drop, assign, unassign, drop_move)

    def _move_is_over(self, name: str) -> bool:
        """The unit has a place, asked for or not, or is none that could move, or the machine is gone."""
        unit = self.snap.units.get(name)
        movable = unit is not None and unit.desired != INACTIVE and not unit.is_global and name not in self.fixed
        return not movable or name in self.placed or self.snap.moves[name] not in self.hosts

    def _wanted_on(self, name: str) -> set[str]:
        if name in self.wanted_globals:
            return set(self.wanted_globals[name])
        machine_id = self.fixed.get(name) or self.placed.get(name)
        if machine_id is None:
            return set()
        host = self.hosts.get(machine_id)
        # Nothing stays on a machine that is being drained, not even what will return to it.
        return set() if host is not None and host.machine.draining else {machine_id}

    def _assignments(self, unit: Unit, wanted: set[str]) -> tuple[tuple[str, Assignment], ...]:
        """Assignments to write: new ones and changed states at once, changed content as fast as the unit allows."""
        copy = Assignment(unit.name, unit.options, unit.desired, unit.name in self.done)
        found = []
        for machine_id in sorted(wanted):
            old = self.snap.assigns.get((machine_id, unit.name))
            if old == copy:
                continue
            if old is not None and old.options != copy.options and unit.needs.rolling:
                if self._may_update(unit) <= 0:
                    continue
                self.updates[group_of(unit.name)] -= 1
            found.append((machine_id, copy))
        return tuple(found)

    def _may_update(self, unit: Unit) -> int:
        """How many more copies of the unit's group may be updated now."""
        group = group_of(unit.name)
        if group not in self.updates:
            self.updates[group] = unit.needs.rolling - self._in_flight(group)
        if self.updates[group] <= 0:
            self.reasons.setdefault(unit.name, self._why_update_waits(group))
        return self.updates[group]

    def _updated_copies(self, group: str) -> list[tuple[str, str, UnitState | None]]:
        """Copies of the group that have the wanted content: (unit, machine, state or None)."""
        return [
            (name, machine_id, self.snap.states.get((machine_id, name)))
            for (machine_id, name), old in sorted(self.snap.assigns.items())
            if group_of(name) == group
            and machine_id in self.hosts
            and name in self.snap.units
            and old.options == self.snap.units[name].options
        ]

    def _in_flight(self, group: str) -> int:
        """Updated copies that are not up yet; one that failed stops the update for good."""
        number = 0
        for name, _machine, state in self._updated_copies(group):
            if self._is_up(self.snap.units[name], state):
                continue
            if state is not None and state.active == "failed":
                return 2**31
            number += 1
        return number

    def _is_up(self, unit: Unit, state: UnitState | None) -> bool:
        if state is None or state.hash != unit.hash:
            return False
        return unit.desired != LAUNCHED or state.active == "active" or state.done

    def _why_update_waits(self, group: str) -> str:
        for name, machine_id, state in self._updated_copies(group):
            if not self._is_up(self.snap.units[name], state):
                return f"update waits for {name} on machine {machine_id} to become active"
        return "update waits for others of its group"

    def _target(self, name: str, unit: Unit | None) -> tuple[Target | None, bool]:
        """The target record to write, and whether to remove it."""
        known = self.snap.targets.get(name)
        if unit is None or unit.desired == INACTIVE:
            return None, known is not None
        reason, done = self.reasons.get(name, ""), self.done.get(name, "")
        if name in self.fixed:
            new = Target(self.fixed[name], reason, done)
        elif name in self.placed:
            new = Target(self.placed[name], reason)
        elif unit.is_global and not reason:
            return None, known is not None
        else:
            new = Target("", reason, done)
        return (None if known == new else new), False


def plan(snapshot: Snapshot) -> Plan:
    """The changes that bring assignments in line with what is wanted.

    Postconditions, tested as properties: a single unit is on one machine at most; a unit stays where it is while that
    machine is present and fits; a unit that is not placed has a reason; a unit is not placed while another present
    machine runs it; applying a plan and planning again changes no assignment until a machine acts.
    """
    return _Planner(snapshot).run()


@dataclass(frozen=True)
class Move:
    """A unit that would be better off on another machine."""

    name: str
    source: str
    target: str


def rebalance(snapshot: Snapshot, most: int) -> tuple[Move, ...]:
    """At most ``most`` moves that even out the number of units on machines, each to a machine where the unit fits.

    A move is worth its stop only when the difference between the two machines is at least two. Units that stick, that
    follow or are followed by a peer, and one-shot units that ran are left where they are.
    """
    planner = _Planner(snapshot)
    planner._keep_what_may_stay()
    planner._spread_globals()
    followed = {peer for unit in snapshot.units.values() for peer in unit.needs.peers}
    moves: list[Move] = []
    while len(moves) < most:
        move = _best_move(planner, followed, {move.name for move in moves})
        if move is None:
            break
        moves.append(move)
        planner.hosts[move.source].remove(move.name)
        planner._put(move.name, move.target)
    return tuple(moves)


def _best_move(planner: _Planner, followed: set[str], moved: set[str]) -> Move | None:
    order = sorted(planner.hosts.values(), key=lambda host: (len(host.holds), host.machine.id))
    for source in reversed(order):
        for name in sorted(name for name, where in planner.placed.items() if where == source.machine.id):
            needs = planner.snap.units[name].needs
            if name in moved or name in followed or needs.peers:
                continue
            for target in order:
                if len(source.holds) - len(target.holds) < 2:
                    break
                if not planner._refusal(name, needs, target) and not _no_room(name, needs, target):
                    return Move(name, source.machine.id, target.machine.id)
    return None
