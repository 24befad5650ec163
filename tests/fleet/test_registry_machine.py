# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine, scheduler and registry against etcd in memory, with machines, leaders and networks that fail at any moment.

Two engines and three machines act in any order that hypothesis thinks of: they read late, write late, lose answers,
lose leases and learn of it last. 10,000 steps a run. Checked after each step, on the whole history of etcd: S1 (one
assignment), S6 (only the leader writes), that units stay where they may, and that what conflicts is kept apart.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from faults import oracle
from faults.oracle import Change
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory_etcd import MemoryEtcd, Server

from flotilla_fleet import engine as engines
from flotilla_fleet import etcd as e
from flotilla_fleet import scheduler
from flotilla_fleet.model import (
    LAUNCHED,
    Assignment,
    JobState,
    Machine,
    Unit,
    UnitState,
    decode_assignment,
    decode_target,
    decode_unit,
    encode_machine,
    encode_state,
)
from flotilla_fleet.presence import LeaseLost
from flotilla_fleet.registry import Keys, Registry
from flotilla_fleet.store import StoreError
from flotilla_fleet.unitfile import UnitOption, glob_match

T = TypeVar("T")

KEYS = Keys("/t/")
ENGINE_TTL = 5
MACHINE_TTL = 6
NAMES = ["a.service", "b.service", "c.service", "d.service", "web@1.service", "web@2.service"]
ZONES = [("a", "1"), ("b", "2"), ("c", "1")]
PLAIN: tuple[tuple[str, str], ...] = ()
KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "plain": PLAIN,
    "sticky": (("Sticky", "true"),),
    "zone": (("MachineMetadata", "az=1"),),
    "apart": (("Conflicts", "web@*.service"),),
    "one": (("MaxPerMachine", "1"),),
    "stop": (("OnPartition", "stop"),),
}


class DictMemory:
    """What an engine keeps across restarts."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}

    def read(self, name: str) -> dict[str, Any]:
        return self.records.get(name, {})

    def keep(self, name: str, record: dict[str, Any]) -> None:
        self.records[name] = record


@dataclass
class Leader:
    """One engine, driven by hand: what it does in tasks happens here in steps."""

    engine: engines.Engine
    client: MemoryEtcd
    at: int = 0
    """The revision up to which it has heard of changes."""
    leading: bool = False


@dataclass
class Node:
    """One machine: what it has read of its assignments, and what it runs."""

    id: str
    az: str
    client: MemoryEtcd
    on: bool = True
    lease: int = 0
    seen: dict[str, tuple[Assignment, int]] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    """What runs: unit to the lease under which the start was permitted."""
    loaded: set[str] = field(default_factory=set)

    @property
    def held(self) -> set[str]:
        return set(self.runs) | self.loaded


def unit_options(kind: str, content: int) -> tuple[UnitOption, ...]:
    options = [UnitOption("Service", "ExecStart", f"/bin/sleep {content}")]
    return (*options, *(UnitOption("X-Fleet", key, value) for key, value in KINDS[kind]))


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.server = Server()
        self.nodes = [Node(letter * 32, az, MemoryEtcd(self.server)) for letter, az in ZONES]
        self.leaders = [self._leader(number) for number in range(2)]
        self.registry = Registry(MemoryEtcd(self.server), KEYS)  # type: ignore[arg-type]
        self.kinds: dict[str, str] = {}
        self.stuck: dict[str, str] = {}
        """Where each unit that sticks was put since it sticks and is wanted."""
        self.sticks: set[str] = set()
        self.followed = 0
        self.checked = 0
        self.oracle = oracle.HistoryChecker(KEYS.prefix)
        self.reviewed = 0
        self.placed: dict[str, tuple[str, int]] = {}
        """Where each unit is that only the loss of its machine may move, and since which revision."""
        self.free: set[str] = set()
        """Units that may be anywhere and are wanted."""
        self.absent: dict[str, int] = {}
        """Machine to the last revision at which it went or came."""
        self.present: set[str] = set()
        self.apart: set[str] = set()
        """Units that exclude others from their machine."""
        self.apart_until = 0
        self._clock = engines.presence_now
        engines.presence_now = lambda: self.server.clock
        for node in self.nodes:
            self._register(node)

    def teardown(self) -> None:
        engines.presence_now = self._clock
        self.runner.close()

    def _leader(self, number: int) -> Leader:
        client = MemoryEtcd(self.server)
        memory = DictMemory()
        made = engines.Engine(client, KEYS, f"e{number}", ENGINE_TTL, memory, grace=5)  # type: ignore[arg-type]
        return Leader(made, client)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # -- machines ----------------------------------------------------------------

    def _register(self, node: Node) -> None:
        key = KEYS.presence(node.id)
        found = self.server.keys.get(key)
        node.lease = self.server.grant(MACHINE_TTL)
        record = encode_machine(Machine(node.id, metadata={"az": node.az}, nonce=str(node.lease)))
        self.server.txn([e.if_mod(key, found.mod if found else 0)], [e.op_put(key, record, node.lease)], [])
        if found is not None and found.lease in self.server.leases:
            self.server.revoke(found.lease)
        for name in sorted(node.held):
            self._publish(node, name)

    def _publish(self, node: Node, name: str, compares: tuple[e.Json, ...] = ()) -> bool:
        """Say what runs here; False when the assignment is another one now. A lost lease is noticed by it."""
        job: JobState = "launched" if name in node.runs else "loaded"
        wanted = node.seen.get(name)
        digest = wanted[0].hash if wanted else ""
        state = UnitState(name, node.id, digest, "loaded", "active" if name in node.runs else "inactive", "x", job)
        put = e.op_put(KEYS.state(node.id, name), encode_state(state), node.lease)
        try:
            return self.server.txn(list(compares), [put], []).succeeded
        except e.EtcdError:
            return False

    def power(self, node: int, on: bool) -> None:
        machine = self.nodes[node]
        if on == machine.on:
            return
        machine.on = on
        if on and not machine.client.down:
            self._register(machine)
        elif not on:
            machine.runs, machine.loaded, machine.seen = {}, set(), {}

    def network(self, node: int, down: bool) -> None:
        """Cut a machine off; what runs there runs on."""
        machine = self.nodes[node]
        machine.client.down = down
        if machine.on and not down and self.server.keep_alive(machine.lease) == 0:
            self._register(machine)

    def _able(self, node: int) -> Node | None:
        machine = self.nodes[node]
        return machine if machine.on and not machine.client.down else None

    def agent_reads(self, node: int) -> None:
        machine = self._able(node)
        if machine is None:
            return
        listing = self.run(machine.client.prefix(KEYS.assign(machine.id)))
        machine.seen = {}
        for kv in listing.kvs:
            name = KEYS.split(kv.key)[2]
            machine.seen[name] = (decode_assignment(kv.key, name, kv.value), kv.mod)

    def agent_starts(self, node: int) -> None:
        """By what it has read, which may be old; each start needs etcd's consent, as the real agent's does."""
        machine = self._able(node)
        if machine is None or machine.lease not in self.server.leases:
            return
        for name, (copy, mod) in sorted(machine.seen.items()):
            fresh = name not in machine.held
            if copy.desired == LAUNCHED and name not in machine.runs:
                machine.runs[name] = machine.lease
                if not self._publish(machine, name, (e.if_mod(KEYS.assign(machine.id, name), mod),)):
                    del machine.runs[name]
                    continue
                self._check_alone(machine, name)
                machine.loaded.discard(name)
            elif copy.desired != LAUNCHED and fresh:
                machine.loaded.add(name)
                self._publish(machine, name)

    def _check_alone(self, machine: Node, name: str) -> None:
        """Nobody runs it who was permitted to and whose lease never ended."""
        for other in self.nodes:
            if other is not machine and name in other.runs and other.on:
                lives = other.runs[name] == other.lease and other.lease in self.server.leases
                assert not lives, f"{name} starts on {machine.id[0]} while {other.id[0]} runs it"

    def agent_stops(self, node: int) -> None:
        machine = self._able(node)
        if machine is None:
            return
        for name in sorted(machine.held - set(machine.seen)):
            machine.runs.pop(name, None)
            machine.loaded.discard(name)
            self.server.txn([], [e.op_delete(KEYS.state(machine.id, name))], [])

    # -- time -----------------------------------------------------------------------

    def time_passes(self, seconds: int) -> None:
        """Who is well renews its lease in time."""
        for _ in range(seconds):
            for machine in self.nodes:
                if machine.on and not machine.client.down:
                    self.server.keep_alive(machine.lease)
            for leader in self.leaders:
                if leader.leading and leader.engine._lease is not None and not leader.client.down:
                    self.server.keep_alive(leader.engine._lease.id)
            self.server.tick(1)

    def leases_of_the_deaf_expire(self) -> None:
        for machine in self.nodes:
            if (machine.client.down or not machine.on) and machine.lease in self.server.leases:
                self.server.revoke(machine.lease)

    def compaction(self) -> None:
        if self.server.revision > self.server.compacted:
            self.server.compact(self.server.revision)

    # -- what owners want -------------------------------------------------------------

    def submit(self, name: str, kind: str, content: int) -> None:
        stored = self._stored(name)
        self.run(self.registry.put_unit(name, unit_options(kind, content), LAUNCHED, stored))
        self.kinds[name] = kind

    def change(self, name: str, desired: JobState) -> None:
        stored = self._stored(name)
        if stored is not None:
            assert self.run(self.registry.put_unit(name, None, desired, stored))

    def destroy(self, name: str) -> None:
        assert (self.run(self.registry.delete_unit(name)) is not None) == (name in self.kinds)
        self.kinds.pop(name, None)

    def an_answer_to_a_writer_is_lost(self, name: str) -> None:
        """The write of somebody who knows an older state is refused, and one whose answer is lost is there once."""
        stored = self._stored(name)
        if stored is None:
            return
        client: MemoryEtcd = self.registry.etcd  # type: ignore[assignment]
        client.lose = 1
        other: JobState = "loaded" if stored.desired == "launched" else "launched"
        try:
            self.run(self.registry.put_unit(name, None, other, stored))
        except StoreError:
            pass
        else:
            raise AssertionError("the answer was lost")
        now = self._stored(name)
        assert now is not None
        assert now.desired == other
        assert not self.run(self.registry.put_unit(name, None, "inactive", stored))

    def _stored(self, name: str) -> Unit | None:
        kv = self.server.keys.get(KEYS.unit(name))
        return None if kv is None else decode_unit(kv.key, name, kv.value)

    # -- engines ----------------------------------------------------------------------

    def engine_campaigns(self, number: int) -> None:
        leader = self.leaders[number]
        holder = self.server.keys.get(KEYS.leader)
        free = holder is None or leader.engine._is_ours(holder)
        if leader.client.down or leader.leading or not free:
            return
        try:
            if self.run(leader.engine._campaign()):
                leader.at = self.run(leader.engine._begin())
                leader.leading = True
        except e.EtcdError:
            pass

    def engine_hears(self, number: int, most: int) -> None:
        """Some of the changes reach the engine."""
        leader = self.leaders[number]
        if not leader.leading or leader.client.down:
            return
        try:
            for event in self.server.events(KEYS.prefix, leader.at + 1):
                if event.revision > leader.at + most:
                    break
                leader.engine._enter(event)
            leader.at = min(self.server.revision, leader.at + most)
        except (LeaseLost, e.Compacted):
            leader.leading = False

    def engine_decides(self, number: int, lose: bool) -> None:
        """By what it has heard, which may be old, and though others may lead by now; its answers may get lost."""
        leader = self.leaders[number]
        if not leader.leading:
            return
        leader.client.lose = int(lose)
        mine = leader.engine._epoch
        before = self.server.revision
        holder = self.server.keys.get(KEYS.leader)
        try:
            self.run(self._decide(leader.engine))
        except e.EtcdError:
            leader.leading = False  # as Engine.run has it
        finally:
            leader.client.lose = 0
        if holder is None or holder.mod != mine:
            assert self.server.revision == before, "an engine wrote that does not lead"

    async def _decide(self, engine: engines.Engine) -> None:
        await engine._apply(engine._plan().changes)

    def _one_that_leads(self, number: int) -> int:
        """This engine or, when only the other one leads, that."""
        return 1 - number if self.leaders[1 - number].leading and not self.leaders[number].leading else number

    def engines_network(self, number: int, down: bool) -> None:
        self.leaders[number].client.down = down

    def leadership_expires_unheard(self, number: int) -> None:
        """The engine does not know yet: from here on it is a zombie."""
        lease = self.leaders[number].engine._lease
        if lease is not None and lease.id in self.server.leases:
            self.server.revoke(lease.id)

    # -- everybody at work, so that there is something to break ---------------------------

    @initialize()
    def begin(self) -> None:
        for name in NAMES[:3]:
            self.submit(name, "plain", 1)
        self.work()

    def work(self) -> None:
        """Everybody does what is to be done, as far as each is able to."""
        for number in range(2):
            self.engine_campaigns(number)
        for _ in range(2):
            for number in range(2):
                self.engine_hears(number, 1000)
                self.engine_decides(number, lose=False)
            for node in range(3):
                self.agent_reads(node)
                self.agent_stops(node)
                self.agent_starts(node)

    # Few rules that take what they do as parameters: hypothesis leaves out a part of the rules in each run.

    @rule(times=st.integers(1, 2))
    def everybody_works(self, times: int) -> None:
        for _ in range(times):
            self.work()

    @rule(
        number=st.integers(0, 1),
        campaigns=st.booleans(),
        hears=st.sampled_from([0, 1, 3, 1000]),
        decides=st.booleans(),
        lose=st.booleans(),
    )
    def an_engine_works(self, number: int, campaigns: bool, hears: int, decides: bool, lose: bool) -> None:
        if campaigns:
            self.engine_campaigns(number)
        self.engine_hears(number, hears)
        if decides:
            self.engine_decides(number, lose)

    @rule(node=st.integers(0, 2), does=st.lists(st.sampled_from(["reads", "starts", "stops"]), max_size=3))
    def an_agent_works(self, node: int, does: list[str]) -> None:
        for what in does:
            {"reads": self.agent_reads, "starts": self.agent_starts, "stops": self.agent_stops}[what](node)

    @rule(
        name=st.sampled_from(NAMES),
        what=st.sampled_from(["submit", "submit", "change", "destroy", "lose"]),
        kind=st.sampled_from(sorted(KINDS)),
        desired=st.sampled_from(["inactive", "loaded", "launched"]),
        then_all_work=st.booleans(),
    )
    def an_owner_writes(self, name: str, what: str, kind: str, desired: JobState, then_all_work: bool) -> None:
        if what == "submit":
            self.submit(name, kind, 1 + len(self.server.history) % 2)
        elif what == "change":
            self.change(name, desired)
        elif what == "destroy":
            self.destroy(name)
        else:
            self.an_answer_to_a_writer_is_lost(name)
        if then_all_work:
            self.work()

    @rule(
        node=st.integers(0, 2),
        what=st.sampled_from(["off", "on", "cut", "healed", "expired"]),
        then_all_work=st.booleans(),
    )
    def a_machine_fails_or_returns(self, node: int, what: str, then_all_work: bool) -> None:
        if what in ("off", "on"):
            self.power(node, what == "on")
        elif what in ("cut", "healed"):
            self.network(node, what == "cut")
        else:
            self.leases_of_the_deaf_expire()
        if then_all_work:
            self.work()

    @rule(number=st.integers(0, 1), what=st.sampled_from(["cut", "healed", "expired"]))
    def an_engine_fails_or_returns(self, number: int, what: str) -> None:
        if what == "expired":
            self.leadership_expires_unheard(number)
        else:
            self.engines_network(number, what == "cut")

    # Four ways to be late that chance alone would hardly come upon; what happens around them is chance again.

    @rule(
        number=st.integers(0, 1),
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(sorted(KINDS)),
        others=st.booleans(),
        hears=st.sampled_from([0, 0, 1]),
    )
    def a_zombie_writes(self, number: int, name: str, kind: str, others: bool, hears: int) -> None:
        """An engine has heard of a unit, loses leadership without hearing of it, others go on, and it decides."""
        self.submit(name, kind, 1 + len(self.server.history) % 2)
        self.engine_hears(number, 1000)
        self.leadership_expires_unheard(number)
        if others:
            self.engine_campaigns(1 - number)
            self.engine_hears(1 - number, 1000)
            self.engine_decides(1 - number, lose=False)
        self.engine_hears(number, hears)
        self.engine_decides(number, lose=False)

    @rule(number=st.integers(0, 1), names=st.permutations(NAMES), hears=st.integers(0, 2))
    def an_answer_to_the_engine_is_lost(self, number: int, names: list[str], hears: int) -> None:
        """What it placed is unknown to it when it places what may not be beside that."""
        first, second = names[:2]
        for name in (first, second):
            self.destroy(name)
        self.work()
        number = self._one_that_leads(number)
        self.submit("web@1.service", "plain", 1)
        self.engine_hears(number, 1000)
        self.submit(first if not first.startswith("web@") else "a.service", "apart", 1)
        self.engine_decides(number, lose=True)
        self.engine_hears(number, hears)
        self.engine_decides(number, lose=False)

    @rule(number=st.integers(0, 1), name=st.sampled_from(NAMES), hears=st.sampled_from([0, 0, 1000]))
    def a_machine_starts_what_is_taken_away(self, number: int, name: str, hears: int) -> None:
        """The owner wants a unit elsewhere; its machine starts it before that is written, and the engine hears late."""
        self.destroy(name)
        self.work()
        number = self._one_that_leads(number)
        self.submit(name, "plain", 1)
        self.engine_hears(number, 1000)
        self.engine_decides(number, lose=False)
        kv = self.server.keys.get(KEYS.target(name))
        place = decode_target(kv.key, kv.value).machine if kv is not None else ""
        here = [index for index, node in enumerate(self.nodes) if node.id == place]
        for node in here:
            self.agent_reads(node)
        self.submit(name, "zone", 1)
        self.engine_hears(number, 1000)
        for node in here:
            self.agent_starts(node)
        self.engine_hears(number, hears)
        for _ in range(2):
            self.engine_decides(number, lose=False)
        for node in range(3):
            if node not in here:
                self.agent_reads(node)
                self.agent_starts(node)

    @rule(number=st.integers(0, 1), name=st.sampled_from(NAMES), nodes=st.sets(st.integers(0, 2)))
    def machines_vanish_unheard(self, number: int, name: str, nodes: set[int]) -> None:
        """The engine places a unit when machines are gone of which it has not heard that."""
        self.destroy(name)
        self.work()
        number = self._one_that_leads(number)
        self.submit(name, "plain", 1)
        self.engine_hears(number, 1000)
        for node in sorted(nodes):
            self.power(node, False)
        self.leases_of_the_deaf_expire()
        self.engine_decides(number, lose=False)

    @rule(seconds=st.sampled_from([1, 3, 7, 20]), compact=st.booleans())
    def time_goes_on(self, seconds: int, compact: bool) -> None:
        self.time_passes(seconds)
        if compact:
            self.compaction()

    # -- what must hold ---------------------------------------------------------------

    @invariant()
    def the_history_is_right(self) -> None:
        fresh = self.server.history[self.checked :]
        self.checked += len(fresh)
        changes = [Change(c.revision, c.key, None if c.kv is None else c.kv.value) for c in fresh]
        oracle.require(self.oracle.feed(changes))

    @invariant()
    def what_sticks_stays(self) -> None:
        """From the revision at which a unit sticks and is wanted, all of its targets are one machine."""
        for event in self.server.history[self.followed :]:
            kind, _machine, name = KEYS.split(event.key)
            if kind == "unit":
                self._follow_owner(event, name)
            elif kind == "target" and event.kv is not None and name in self.sticks:
                machine = decode_target(event.key, event.kv.value).machine
                if not machine and name not in self.stuck:
                    continue  # there was no place yet
                assert self.stuck.setdefault(name, machine) == machine, f"{name} moved to {machine[0]}"
        self.followed = len(self.server.history)

    def _follow_owner(self, event: e.WatchEvent, name: str) -> None:
        """Who takes a unit back, even for a moment, lets its place go."""
        unit = None if event.kv is None else decode_unit(event.key, name, event.kv.value)
        sticks = unit is not None and unit.desired != "inactive" and "Sticky" in {o.name for o in unit.options}
        if sticks and name not in self.sticks:
            self.sticks.add(name)
        elif not sticks:
            self.sticks.discard(name)
            self.stuck.pop(name, None)

    @invariant()
    def what_may_stay_stays(self) -> None:
        """A unit that may be anywhere leaves a machine only when that was gone since it is there, or for a conflict."""
        for event in self.server.history[self.reviewed :]:
            kind, machine, name = KEYS.split(event.key)
            if kind == "presence":
                self._follow_presence(event, machine)
            elif kind == "unit":
                self._follow_freedom(event, name)
            elif kind == "target" and name in self.free:
                self._follow_place(event, name)
        self.reviewed = len(self.server.history)

    def _follow_presence(self, event: e.WatchEvent, machine: str) -> None:
        if event.kv is None or event.kv.create == event.revision:
            self.absent[machine] = event.revision
        self.present.discard(machine) if event.kv is None else self.present.add(machine)

    def _follow_freedom(self, event: e.WatchEvent, name: str) -> None:
        """Who takes a unit back, or makes it another kind, which may need another machine, lets its place go."""
        unit = None if event.kv is None else decode_unit(event.key, name, event.kv.value)
        if unit is not None and "Conflicts" in {o.name for o in unit.options}:
            self.apart.add(name)
        elif name in self.apart:
            self.apart.remove(name)
            self.apart_until = event.revision
        plain = unit is not None and {o.name for o in unit.options if o.section == "X-Fleet"} <= {"OnPartition"}
        if unit is not None and unit.desired != "inactive" and plain:
            self.free.add(name)
        else:
            self.free.discard(name)
            self.placed.pop(name, None)

    def _follow_place(self, event: e.WatchEvent, name: str) -> None:
        machine = "" if event.kv is None else decode_target(event.key, event.kv.value).machine
        last, since = self.placed.get(name, ("", 0))
        if last and machine != last:
            was_gone = self.absent.get(last, 0) > since
            # One that was beside it may have begun to exclude it.
            excluded = name.startswith("web@") and (self.apart or self.apart_until > since)
            assert was_gone or excluded, f"{name} left {last[0]} for {machine[:1] or 'nowhere'} without need"
        if machine and machine != last:
            # What was on a machine that is gone already may leave it at any time.
            self.placed[name] = (machine, event.revision if machine in self.present else -1)
        elif not machine:
            self.placed.pop(name, None)

    @precondition(lambda self: len(self.server.keys) > 3)
    @invariant()
    def what_conflicts_is_apart(self) -> None:
        held: dict[str, dict[str, list[str]]] = {}
        for key, kv in self.server.keys.items():
            kind, machine, name = KEYS.split(key)
            if kind == "assign":
                copy = decode_assignment(key, name, kv.value)
                globs = [o.value for o in copy.options if o.section == "X-Fleet" and o.name == "Conflicts"]
                held.setdefault(machine, {})[name] = globs
        for machine, units in held.items():
            for name, globs in units.items():
                for other in units:
                    clash = other != name and any(glob_match(pattern, other) for pattern in globs)
                    assert not clash, f"{name} and {other} are both on {machine[0]}"


TestRegistryMachine = Cluster.TestCase
TestRegistryMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None, print_blob=True)


# -- the machine finds what is broken -------------------------------------------------


def _without(kind: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Engines whose writes do not compare keys of one kind; "": nothing at all."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        async def commit(self: engines.Engine, batch: Sequence[engines.Write]) -> bool:
            compares = [e.if_mod(KEYS.leader, self._epoch), *(c for write in batch for c in write.compares)]
            kept = [c for c in compares if kind and f"/{kind}" not in base64.b64decode(c["key"]).decode()]
            result = await self.etcd.txn(kept, [o for write in batch for o in write.operations])
            if result.succeeded:
                for write in batch:
                    self._enter_own(write.change, result.revision)
            return result.succeeded

        monkeypatch.setattr(engines.Engine, "_commit", commit)

    return patch


def _goes_on_after_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    real = engines.Engine._commit

    async def commit(self: engines.Engine, batch: Sequence[engines.Write]) -> bool:
        try:
            return await real(self, batch)
        except e.Unreachable:
            return False

    monkeypatch.setattr(engines.Engine, "_commit", commit)


def _does_not_wait_for_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler._Planner, "_still_running", lambda _self, _name: "")


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(_without(""), id="no-compares"),
        pytest.param(_without("leader"), id="no-compare-of-the-leader"),
        pytest.param(_without("presence"), id="no-compare-of-presence"),
        pytest.param(_without("state"), id="no-compare-of-states"),
        pytest.param(_goes_on_after_an_unknown_outcome, id="goes-on-after-an-unknown-outcome"),
        pytest.param(_does_not_wait_for_the_stop, id="does-not-wait-for-the-stop"),
    ],
)
def test_a_broken_engine_is_found(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    # It takes ten to a hundred examples; so many that none is ever missed.
    quick = settings(TestRegistryMachine.settings, max_examples=4000, phases=[Phase.generate], database=None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Cluster, settings=quick)
