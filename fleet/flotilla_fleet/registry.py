# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of fleet in etcd, and the transactions that change them.

The table of keys is in ``docs/design.md``. A value that cannot be read is logged once per change and left out: what the
caller does with a missing record must therefore never be to stop something (see :class:`Snapshot.broken`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from . import etcd as e
from .model import (
    Assignment,
    JobState,
    Machine,
    RecordError,
    Target,
    Unit,
    UnitState,
    decode_assignment,
    decode_machine,
    decode_state,
    decode_target,
    decode_unit,
    encode_unit,
)
from .scheduler import Move, Snapshot, rebalance
from .store import Event, StoreError, UnitView
from .unitfile import UnitOption

log = logging.getLogger(__name__)

DEFAULT_PREFIX = "/_coreos.com/fleet/"


@dataclass(frozen=True)
class Keys:
    """Names of the keys below one prefix (which ends with a slash)."""

    prefix: str = DEFAULT_PREFIX

    @property
    def leader(self) -> str:
        return f"{self.prefix}leader"

    def unit(self, name: str) -> str:
        return f"{self.prefix}unit/{name}"

    def target(self, name: str) -> str:
        return f"{self.prefix}target/{name}"

    def assign(self, machine: str, name: str = "") -> str:
        return f"{self.prefix}assign/{machine}/{name}"

    def state(self, machine: str, name: str = "") -> str:
        return f"{self.prefix}state/{machine}/{name}"

    def presence(self, machine: str) -> str:
        return f"{self.prefix}presence/{machine}"

    def drain(self, machine: str) -> str:
        return f"{self.prefix}drain/{machine}"

    def move(self, name: str) -> str:
        return f"{self.prefix}move/{name}"

    def announce(self, machine: str, service: str, unit: str) -> str:
        return f"{self.prefix}announce/{machine}/{service}/{unit}"

    def metadata(self, machine: str, key: str = "") -> str:
        return f"{self.prefix}metadata/{machine}/{key}"

    def all(self, kind: str) -> str:
        return f"{self.prefix}{kind}/"

    def split(self, key: str) -> tuple[str, str, str]:
        """(kind, machine, name) of a key; parts that a kind does not have are ""."""
        kind, _slash, rest = key.removeprefix(self.prefix).partition("/")
        if kind in ("assign", "state", "metadata"):
            machine, _slash, name = rest.partition("/")
            return kind, machine, name
        if kind in ("presence", "drain"):
            return kind, rest, ""
        return kind, "", rest


def normal_prefix(prefix: str) -> str:
    return "/" + prefix.strip("/") + "/" if prefix.strip("/") else "/"


def merge_metadata(machine: Machine, dynamic: Iterable[tuple[str, str]]) -> Machine:
    """The machine with dynamic metadata over its configured metadata; "" takes a key away."""
    metadata = dict(machine.metadata)
    for key, value in dynamic:
        if value:
            metadata[key] = value
        else:
            metadata.pop(key, None)
    return machine if metadata == machine.metadata else replace(machine, metadata=metadata)


class Registry:
    """Reads and writes of the HTTP API (:class:`flotilla_fleet.store.Store`) on an etcd client."""

    def __init__(self, client: e.Etcd, keys: Keys) -> None:
        self.etcd = client
        self.keys = keys

    async def unit_views(self) -> list[UnitView]:
        units, targets, states = await self._read("unit", "target", "state")
        by_unit: dict[str, list[UnitState]] = {}
        for state in self._states(states):
            by_unit.setdefault(state.name, []).append(state)
        chosen = dict(self._targets(targets))
        return [
            UnitView(unit, chosen.get(unit.name, Target()), tuple(by_unit.get(unit.name, ())))
            for unit in self._units(units)
        ]

    async def unit_view(self, name: str) -> UnitView | None:
        result = await self._txn([], [e.op_get(self.keys.unit(name)), e.op_get(self.keys.target(name))])
        if not result.ranges[0]:
            return None
        kv = result.ranges[0][0]
        try:
            unit = decode_unit(kv.key, name, kv.value)
        except RecordError as exc:
            raise StoreError(f"{exc}; unit {name} stays as it is until it is destroyed and submitted again") from None
        targets = [target for _name, target in self._targets(result.ranges[1])]
        target = targets[0] if targets else Target()
        states: list[UnitState] = []
        if target.machine:
            states = await self._states_on([target.machine], name)
        return UnitView(unit, target, tuple(states))

    async def states(self, machine: str = "", unit: str = "") -> list[UnitState]:
        if unit:
            machines = [machine] if machine else [m.id for m in await self.machines()]
            found = await self._states_on(machines, unit)
        else:
            prefix = self.keys.state(machine) if machine else self.keys.all("state")
            found = list(self._states((await self._prefix(prefix)).kvs))
        return sorted(found, key=lambda state: (state.name, state.machine))

    async def machines(self) -> list[Machine]:
        presence, metadata, drains = await self._read("presence", "metadata", "drain")
        draining = {self.keys.split(kv.key)[1] for kv in drains}
        dynamic: dict[str, list[tuple[str, str]]] = {}
        for kv in metadata:
            _kind, owner, key = self.keys.split(kv.key)
            dynamic.setdefault(owner, []).append((key, kv.value.decode("utf-8", "replace")))
        found = []
        for kv in presence:
            _kind, machine_id, _name = self.keys.split(kv.key)
            try:
                machine = decode_machine(kv.key, machine_id, kv.value)
            except RecordError as exc:
                log.warning("%s", exc)
                continue
            merged = merge_metadata(machine, dynamic.get(machine_id, ()))
            found.append(replace(merged, draining=machine_id in draining))
        return sorted(found, key=lambda machine: machine.id)

    async def put_unit(
        self, name: str, options: Sequence[UnitOption] | None, desired: JobState, expect: Unit | None
    ) -> bool:
        key = self.keys.unit(name)
        if options is None:
            if expect is None:
                return False
            options = expect.options
        condition = e.if_mod(key, 0) if expect is None else e.if_value(key, encode_unit(expect))
        wanted = Unit(name, tuple(options), desired)
        return (await self._txn([condition], [e.op_put(key, encode_unit(wanted))])).succeeded

    async def delete_unit(self, name: str) -> str | None:
        key = self.keys.unit(name)
        result = await self._txn([], [e.op_get(key), e.op_delete(key)])
        if not result.deleted:
            return None
        return next((unit.hash for unit in self._units(result.ranges[0])), "")

    async def patch_metadata(self, changes: Sequence[tuple[str, str, str]]) -> None:
        latest = {(machine, key): value for machine, key, value in changes}
        puts = [e.op_put(self.keys.metadata(machine, key), value) for (machine, key), value in latest.items()]
        for start in range(0, len(puts), e.MAX_TXN_OPS):
            await self._txn([], puts[start : start + e.MAX_TXN_OPS])

    async def set_drain(self, machine: str, draining: bool) -> None:
        """Ask for a machine to be emptied, or let it be used again."""
        key = self.keys.drain(machine)
        await self._txn([], [e.op_put(key, "{}") if draining else e.op_delete(key)])

    async def rebalance_moves(self, most: int) -> tuple[Move, ...]:
        """Moves that would even out the machines; nothing is changed."""
        image = Image(self.keys)
        image.load((await self._prefix(self.keys.prefix)).kvs)
        return rebalance(snapshot_of(image), most)

    async def request_moves(self, moves: Sequence[Move]) -> None:
        """Ask the engine to bring each unit to its machine."""
        puts = [e.op_put(self.keys.move(move.name), move.target) for move in moves]
        for start in range(0, len(puts), e.MAX_TXN_OPS):
            await self._txn([], puts[start : start + e.MAX_TXN_OPS])

    async def events(self) -> AsyncIterator[Event]:
        kinds = {
            "unit": "unit",
            "target": "target",
            "state": "state",
            "presence": "machine",
            "metadata": "machine",
            "drain": "machine",
        }
        try:
            start = (await self.etcd.range(self.keys.leader)).revision + 1
            async for batch in self.etcd.watch(self.keys.prefix, start):
                for change in batch:
                    kind, machine, name = self.keys.split(change.key)
                    if kind in kinds:
                        unit = name if kind in ("unit", "target", "state") else ""
                        yield Event(kinds[kind], unit, machine, change.revision, change.kv is None)
        except e.EtcdError as exc:
            raise StoreError(str(exc)) from None

    async def _txn(self, compares: Sequence[e.Json], success: Sequence[e.Json]) -> e.TxnResult:
        try:
            return await self.etcd.txn(compares, success)
        except e.EtcdError as exc:
            raise StoreError(str(exc)) from None

    async def _prefix(self, prefix: str) -> e.RangeResult:
        try:
            return await self.etcd.prefix(prefix)
        except e.EtcdError as exc:
            raise StoreError(str(exc)) from None

    async def _read(self, *kinds: str) -> tuple[tuple[e.KV, ...], ...]:
        """All keys of these kinds, read at one revision."""
        result = await self._txn([], [e.op_get_prefix(self.keys.all(kind)) for kind in kinds])
        return result.ranges

    async def _states_on(self, machines: Sequence[str], unit: str) -> list[UnitState]:
        found: list[UnitState] = []
        for start in range(0, len(machines), e.MAX_TXN_OPS):
            part = machines[start : start + e.MAX_TXN_OPS]
            result = await self._txn([], [e.op_get(self.keys.state(machine, unit)) for machine in part])
            for kvs in result.ranges:
                found.extend(self._states(kvs))
        return found

    def _units(self, kvs: Iterable[e.KV]) -> Iterable[Unit]:
        for kv in kvs:
            name = self.keys.split(kv.key)[2]
            try:
                yield decode_unit(kv.key, name, kv.value)
            except RecordError as exc:
                log.warning("%s", exc)

    def _targets(self, kvs: Iterable[e.KV]) -> Iterable[tuple[str, Target]]:
        for kv in kvs:
            try:
                yield self.keys.split(kv.key)[2], decode_target(kv.key, kv.value)
            except RecordError as exc:
                log.warning("%s", exc)

    def _states(self, kvs: Iterable[e.KV]) -> Iterable[UnitState]:
        for kv in kvs:
            _kind, machine, name = self.keys.split(kv.key)
            try:
                yield decode_state(kv.key, machine, name, kv.value)
            except RecordError as exc:
                log.warning("%s", exc)


class Image:
    """A watched copy of everything below the prefix, for the engine: decoded records with their revisions.

    ``apply`` takes changes in any order and keeps the newest, so that the engine may enter its own writes as soon as
    etcd has acknowledged them. A record that cannot be decoded goes to ``broken`` and keeps its last good value out of
    the maps; whoever decides must leave the units in ``broken`` as they are.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.units: dict[str, Unit] = {}
        self.targets: dict[str, Target] = {}
        self.assigns: dict[tuple[str, str], Assignment] = {}
        self.states: dict[tuple[str, str], UnitState] = {}
        self.presence: dict[str, Machine] = {}
        self.metadata: dict[tuple[str, str], str] = {}
        self.draining: set[str] = set()
        self.moves: dict[str, str] = {}
        self.mods: dict[str, int] = {}
        self.creates: dict[str, int] = {}
        self.broken: set[str] = set()

    def load(self, kvs: Iterable[e.KV]) -> None:
        """Begin anew from a full listing."""
        self.__init__(self.keys)  # type: ignore[misc]
        for kv in kvs:
            self.apply(e.WatchEvent(kv.key, kv, kv.mod))

    def watched(self, change: e.WatchEvent) -> bool:
        """Enter a change that the watch brought; nothing older can follow, so a deleted key may be forgotten."""
        news = self.apply(change)
        if change.kv is None and change.key not in self.creates:
            self.mods.pop(change.key, None)
        return news

    def apply(self, change: e.WatchEvent) -> bool:
        """Enter one change; False when something newer is known already."""
        key = change.key
        if change.revision <= self.mods.get(key, 0):
            return False
        self.mods[key] = change.revision
        self.broken.discard(key)
        if change.kv is None:
            self.creates.pop(key, None)
            self._forget(key)
            return True
        self.creates[key] = change.kv.create
        try:
            self._store(key, change.kv.value)
        except RecordError as exc:
            log.error("%s: what it concerns stays as it is", exc)
            self._forget(key)
            self.broken.add(key)
        return True

    def mod(self, key: str) -> int:
        """The revision for a compare: 0 when the key does not exist now."""
        return self.mods.get(key, 0) if key in self.creates else 0

    def machines(self) -> dict[str, Machine]:
        dynamic: dict[str, list[tuple[str, str]]] = {}
        for (machine, key), value in self.metadata.items():
            dynamic.setdefault(machine, []).append((key, value))
        found = {
            machine_id: merge_metadata(machine, dynamic.get(machine_id, ()))
            for machine_id, machine in self.presence.items()
        }
        for machine_id in self.draining & set(found):
            found[machine_id] = replace(found[machine_id], draining=True)
        return found

    def broken_names(self) -> frozenset[str]:
        """Units of which some record cannot be read, or that are on a machine whose record cannot be read."""
        names = {self.keys.split(key)[2] for key in self.broken}
        machines = {self.keys.split(key)[1] for key in self.broken if self.keys.split(key)[0] == "presence"}
        if machines:
            names |= {name for machine, name in self.assigns if machine in machines}
            names |= {name for name, target in self.targets.items() if target.machine in machines}
        return frozenset(names) - {""}

    def is_gone(self, machine: str) -> bool:
        """Whether the machine has no presence record; one that cannot be read is one."""
        return self.keys.presence(machine) not in self.creates

    def _store(self, key: str, value: bytes) -> None:
        kind, machine, name = self.keys.split(key)
        if kind == "unit":
            self.units[name] = decode_unit(key, name, value)
        elif kind == "target":
            self.targets[name] = decode_target(key, value)
        elif kind == "assign":
            self.assigns[machine, name] = decode_assignment(key, name, value)
        elif kind == "state":
            self.states[machine, name] = decode_state(key, machine, name, value)
        elif kind == "presence":
            self.presence[machine] = decode_machine(key, machine, value)
        elif kind == "metadata":
            self.metadata[machine, name] = value.decode("utf-8", "replace")
        elif kind == "drain":
            self.draining.add(machine)
        elif kind == "move":
            self.moves[name] = value.decode("utf-8", "replace")

    def _forget(self, key: str) -> None:
        kind, machine, name = self.keys.split(key)
        if kind == "unit":
            self.units.pop(name, None)
        elif kind == "target":
            self.targets.pop(name, None)
        elif kind == "assign":
            self.assigns.pop((machine, name), None)
        elif kind == "state":
            self.states.pop((machine, name), None)
        elif kind == "presence":
            self.presence.pop(machine, None)
        elif kind == "metadata":
            self.metadata.pop((machine, name), None)
        elif kind == "drain":
            self.draining.discard(machine)
        elif kind == "move":
            self.moves.pop(name, None)


def snapshot_of(image: Image, waiting: Mapping[str, str] | None = None, brake: int = 0) -> Snapshot:
    """What the scheduler sees of an image."""
    return Snapshot(
        units=image.units,
        machines=image.machines(),
        targets=image.targets,
        assigns=image.assigns,
        states=image.states,
        frozen=image.broken_names(),
        waiting=waiting or {},
        moves=image.moves,
        brake=brake,
    )
