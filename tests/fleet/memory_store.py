# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry in memory, and a cluster of machines that acts on it, for tests of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from flotilla_fleet.model import JobState, Machine, Target, Unit, UnitState
from flotilla_fleet.question import Answer, Question
from flotilla_fleet.scheduler import Move
from flotilla_fleet.store import Event, StoreError, UnitView
from flotilla_fleet.unitfile import UnitOption

MACHINES = tuple(
    Machine(
        f"f{number}" + "0" * 29 + str(number),
        ip=f"10.78.0.1{number}",
        metadata={"az": f"az{number}", "role": "lab"},
    )
    for number in (1, 2, 3)
)


class MemoryStore:
    """A :class:`flotilla_fleet.store.Store` that can be made to fail.

    ``outage``: every call raises :class:`StoreError` with this text while it is not empty.
    ``contention``: so many calls of ``put_unit`` find the unit changed by somebody else.
    ``answers``: what machines say when asked; then they fail with ``answer_fault``, or are ``quiet`` for ever.
    ``asking``: the number of questions that are open.
    """

    def __init__(self, machines: Sequence[Machine] = MACHINES) -> None:
        self.present = {machine.id: machine for machine in machines}
        self.dynamic: dict[tuple[str, str], str] = {}
        self.units: dict[str, Unit] = {}
        self.targets: dict[str, Target] = {}
        self.published: dict[tuple[str, str], UnitState] = {}
        self.outage = ""
        self.contention = 0
        self.revision = 1
        self.reads = 0
        self.watchers: Callable[[Event], None] = lambda event: None
        self.moves: tuple[Move, ...] = ()
        self.requested: list[Move] = []
        self.asked: list[tuple[str, Question]] = []
        self.asking = 0
        self.quiet = False
        self.answer_fault = ""
        self.answers = [Answer("text\n"), Answer("", 0)]
        self._queues: set[asyncio.Queue[Event | None]] = set()

    # what tests and the cluster below do

    def tell(self, kind: str, name: str, machine: str = "", deleted: bool = False) -> None:
        self.revision += 1
        event = Event(kind, name, machine, self.revision, deleted)
        for queue in self._queues:
            queue.put_nowait(event)
        self.watchers(event)

    def place(self, name: str, machine: str, reason: str = "") -> None:
        self.targets[name] = Target(machine, reason)
        self.tell("target", name)

    def publish(self, state: UnitState) -> None:
        self.published[state.machine, state.name] = state
        self.tell("state", state.name, state.machine)

    def forget(self, name: str, machine: str) -> None:
        if self.published.pop((machine, name), None) is not None:
            self.tell("state", name, machine, deleted=True)

    def break_streams(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)

    # Store

    def _check(self) -> None:
        self.reads += 1
        if self.outage:
            raise StoreError(self.outage)

    def _view(self, unit: Unit) -> UnitView:
        states = tuple(self.published[key] for key in sorted(self.published) if key[1] == unit.name)
        return UnitView(unit, self.targets.get(unit.name, Target()), states)

    async def unit_views(self) -> list[UnitView]:
        self._check()
        return [self._view(self.units[name]) for name in sorted(self.units)]

    async def unit_view(self, name: str) -> UnitView | None:
        self._check()
        return self._view(self.units[name]) if name in self.units else None

    async def states(self, machine: str = "", unit: str = "") -> list[UnitState]:
        self._check()
        found = [
            state for state in self.published.values() if machine in ("", state.machine) and unit in ("", state.name)
        ]
        return sorted(found, key=lambda state: (state.name, state.machine))

    async def machines(self) -> list[Machine]:
        self._check()
        found = []
        for machine_id in sorted(self.present):
            metadata = dict(self.present[machine_id].metadata)
            metadata.update({key: v for (owner, key), v in self.dynamic.items() if owner == machine_id})
            found.append(replace(self.present[machine_id], metadata={k: v for k, v in metadata.items() if v}))
        return found

    async def put_unit(
        self,
        name: str,
        options: Sequence[UnitOption] | None,
        desired: JobState,
        expect: Unit | None,
    ) -> bool:
        self._check()
        await asyncio.sleep(0)
        if self.contention:
            self.contention -= 1
            return False
        if self.units.get(name) != expect:
            return False
        content = tuple(options) if options is not None else expect.options if expect else ()
        self.units[name] = Unit(name, content, desired)
        self.tell("unit", name)
        return True

    async def delete_unit(self, name: str) -> str | None:
        self._check()
        unit = self.units.pop(name, None)
        if unit is None:
            return None
        self.targets.pop(name, None)
        self.tell("unit", name, deleted=True)
        return unit.hash

    async def patch_metadata(self, changes: Sequence[tuple[str, str, str]]) -> None:
        self._check()
        for machine, key, value in changes:
            self.dynamic[machine, key] = value
            self.tell("machine", "", machine)

    async def set_drain(self, machine: str, draining: bool) -> None:
        self._check()
        if machine in self.present:
            self.present[machine] = replace(self.present[machine], draining=draining)
        self.tell("machine", "", machine)

    async def rebalance_moves(self, most: int) -> tuple[Move, ...]:
        self._check()
        return self.moves[:most]

    async def request_moves(self, moves: Sequence[Move]) -> None:
        self._check()
        self.requested += moves
        for move in moves:
            self.tell("target", move.name)

    async def ask(self, machine: str, question: Question) -> AsyncIterator[Answer]:
        self._check()
        self.asked.append((machine, question))
        self.asking += 1
        try:
            for answer in self.answers:
                yield answer
            if self.answer_fault:
                raise StoreError(self.answer_fault)
            if self.quiet:
                await asyncio.Event().wait()
        finally:
            self.asking -= 1

    async def events(self) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            self._check()
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)
        raise StoreError("the stream of changes is lost")


@dataclass
class Behaviour:
    """How a unit fares in :class:`Cluster`: where it may run, and how it ends up there."""

    machine: str = ""
    reason: str = ""
    active: str = "active"
    sub: str = "running"
    delay: float = 0.02


class Cluster:
    """Engine and agents of a small cluster: acts on every unit that is written, after a delay.

    Units go to the machine with the fewest, ties to the lowest id, unless ``behave`` says more.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.behave: dict[str, Behaviour] = {}
        store.watchers = self._on_event

    def _on_event(self, event: Event) -> None:
        if event.kind == "unit":
            asyncio.get_running_loop().call_later(self._behaviour(event.name).delay, self._act, event.name)

    def _behaviour(self, name: str) -> Behaviour:
        return self.behave.get(name, Behaviour())

    def _machines_for(self, unit: Unit) -> list[str]:
        present = sorted(self.store.present)
        told = self._behaviour(unit.name)
        if told.reason:
            return []
        if unit.is_global:
            return present
        placed = [target.machine for target in self.store.targets.values()]
        known = self.store.targets.get(unit.name, Target()).machine
        return [told.machine or known or min(present, key=lambda m: (placed.count(m), m))]

    def _act(self, name: str) -> None:
        unit = self.store.units.get(name)
        wanted = [] if unit is None or unit.desired == "inactive" else self._machines_for(unit)
        for machine, other in list(self.store.published):
            if other == name and machine not in wanted:
                self.store.forget(name, machine)
        if unit is None:
            return
        told = self._behaviour(name)
        if not unit.is_global or told.reason:
            reason = told.reason if unit.desired != "inactive" else ""
            self.store.place(name, wanted[0] if wanted else "", reason)
        for machine in wanted:
            launched = unit.desired == "launched"
            self.store.publish(
                UnitState(
                    name,
                    machine,
                    unit.hash,
                    "loaded",
                    told.active if launched else "inactive",
                    told.sub if launched else "dead",
                    "launched" if launched else "loaded",
                )
            )
