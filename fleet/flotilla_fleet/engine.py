# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: one daemon of the cluster is elected, watches the registry, and writes what the scheduler decides.

Leadership is the key ``leader`` on a lease. A lease is not a lock: an engine that was paused may believe that it still
leads. So every transaction compares the revision at which *this* engine wrote ``leader``, and the revisions of all that
its decision rests on; a zombie's writes are refused by etcd.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from . import etcd as e
from .memory import Memory
from .model import Assignment, encode_assignment, encode_target
from .presence import Lease, LeaseLost
from .presence import now as presence_now
from .registry import Image, Keys, snapshot_of
from .scheduler import Change, Plan, plan

log = logging.getLogger(__name__)

GATHER = 0.01
"""Seconds in which changes that come together are planned together."""
PAUSE = 0.05
"""Least seconds between two plans: a lone change is planned at once, those that follow it closely together."""
PAUSE_MOST = 0.4
"""The pause doubles up to this while they go on: fewer and larger transactions, for the engine and all agents.

A machine that comes or goes ends it."""
HOLD_SECONDS = 30.0
"""So long after an operator accepted another registry no engine of that machine leads."""
BRAKE_SECONDS = 300.0
"""So long after most machines were lost, those that are left take over a part of their units only."""
BRAKE_LEAST = 10
"""Units that any machine may hold even then."""
SHARE = 4
"""Planning takes at most one part in this many of the time, however large the cluster is."""


@dataclass(frozen=True)
class Write:
    """One change as compares and operations, and what is true once they are applied."""

    change: Change
    compares: tuple[e.Json, ...]
    operations: tuple[e.Json, ...]


def write_of(change: Change, image: Image, epoch: int = 0) -> Write:
    """The transaction for one change, guarded by everything that the decision rests on but leadership.

    ``epoch`` goes into the records, so that the history of etcd tells which leader wrote them.
    """
    keys = image.keys
    unit_key, target_key = keys.unit(change.name), keys.target(change.name)
    compares = [e.if_mod(unit_key, image.mod(unit_key)), e.if_mod(target_key, image.mod(target_key))]
    operations: list[e.Json] = []
    if change.drop_target:
        operations.append(e.op_delete(target_key))
    elif change.target is not None:
        operations.append(e.op_put(target_key, encode_target(change.target, epoch)))
    for machine, assignment in change.assign:
        presence = keys.presence(machine)
        compares.append(e.if_create(presence, image.creates.get(presence, 0)))
        operations.append(e.op_put(keys.assign(machine, change.name), encode_assignment(assignment, epoch)))
    for machine in change.unassign:
        operations.append(e.op_delete(keys.assign(machine, change.name)))
        state = keys.state(machine, change.name)
        if not image.mod(state):
            # The machine says that it runs a unit before it starts it. It must not say so while we think it never did.
            compares.append(e.if_mod(state, 0))
    if change.drop_move:
        move = keys.move(change.name)
        compares.append(e.if_mod(move, image.mod(move)))
        operations.append(e.op_delete(move))
    return Write(change, tuple(compares), tuple(operations))


def brake_of(known: int, lost: int, copies: int) -> int:
    """Units that a machine may hold while it takes over those of lost ones; 0: as many as there are.

    When more than half of the ``known`` machines are lost at once, it is more likely the network or etcd's own trouble
    than their end, and all their work would crush who is left: a machine takes twice its share of all ``copies``.
    """
    if 2 * lost <= known:
        return 0
    return max(BRAKE_LEAST, 2 * -(-copies // known))


def next_pause(pause: float, left: float) -> float:
    """Seconds from the coming plan to the next at the least.

    ``pause`` is what was kept until now, and ``left`` how much of it was left when the news came: some of it means that
    changes follow one another.
    """
    return min(2 * pause, PAUSE_MOST) if left > 0 else PAUSE


def split_wide(change: Change, most: int) -> list[Change]:
    """A change of a global unit on many machines as several, each small enough for one transaction."""
    if len(change.assign) + len(change.unassign) <= most:
        return [change]
    parts = [
        Change(change.name, assign=change.assign[start : start + most]) for start in range(0, len(change.assign), most)
    ]
    parts += [
        Change(change.name, unassign=change.unassign[start : start + most])
        for start in range(0, len(change.unassign), most)
    ]
    if change.target is not None or change.drop_target:
        # Last, and alone: the other parts compare the target's revision as it was.
        parts.append(Change(change.name, change.target, change.drop_target, drop_move=change.drop_move))
    return parts


def batches(writes: Iterable[Write], most: int) -> list[list[Write]]:
    """Writes packed into transactions of at most ``most`` compares and operations, none of a unit twice in one."""
    packed: list[list[Write]] = []
    size = 0
    names: set[str] = set()
    for write in writes:
        weight = max(len(write.compares), len(write.operations))
        if not packed or size + weight > most or write.change.name in names:
            packed.append([])
            size, names = 0, set()
        packed[-1].append(write)
        names.add(write.change.name)
        size += weight
    return packed


class Engine:
    """Campaigns, leads, and campaigns again.

    ``ttl`` is the time to live of leadership; ``grace`` how long after a machine was lost its ``OnPartition=stop``
    units may need to be stopped there. Both in seconds.
    """

    def __init__(self, client: e.Etcd, keys: Keys, machine_id: str, ttl: int, memory: Memory, grace: float) -> None:
        self.etcd = client
        self.keys = keys
        self.machine_id = machine_id
        self.ttl = ttl
        self.memory = memory
        self.image = Image(keys)
        self.leading = False
        self._lease: Lease | None = None
        self._epoch = 0
        """The revision at which this engine wrote ``leader``."""
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self.grace = grace
        self._lost: dict[str, float] = {}
        """When each machine was first seen to be missing, on the clock of leases."""
        self._braking = False
        self.plans = 0
        self.writes = 0
        self._led_since = 0.0
        self._resigned = False
        self._held_until = 0.0

    def hold(self) -> None:
        """Lead nobody for a moment: another registry was accepted, in which machines that are there are not yet.

        Whoever led at once would take them for lost, and move what runs on them.
        """
        self._held_until = time.monotonic() + HOLD_SECONDS
        log.info("no engine of this machine leads for %.0f s, so that other machines are there first", HOLD_SECONDS)

    @property
    def led_since(self) -> float:
        """Since when this engine leads, in seconds since the epoch; 0: it does not."""
        return self._led_since if self.leading else 0.0

    async def run(self) -> None:
        """Lead whenever nobody else does, until it has resigned."""
        delay = 0.2
        while not self._resigned:
            try:
                if await self._campaign():
                    delay = 0.2
                    await self._lead()
            except LeaseLost as exc:
                log.warning("leadership lost: %s", exc)
            except e.EtcdError as exc:
                log.warning("the engine cannot work: %s", exc)
                delay = await e.rest(delay)
            finally:
                self.leading = False

    async def resign(self) -> None:
        """Give leadership back at once, and for good: a machine that ends must not lead while others take over."""
        self._resigned = True
        await self._give_back()

    async def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await self.etcd.lease_revoke(lease.id)

    async def _campaign(self) -> bool:
        """Become leader, or wait until the present one is gone (False: try again).

        A record without a lease is none of an engine: it would never go, so it is written over.
        """
        await asyncio.sleep(max(0.0, self._held_until - time.monotonic()))
        found = await self.etcd.range(self.keys.leader)
        holder = found.kvs[0] if found.kvs else None
        if holder is not None and holder.lease and not self._is_ours(holder):
            await self._await_vacancy(found.revision + 1)
            return False
        lease = await Lease.grant(self.etcd, self.ttl)
        nonce = secrets.token_hex(8)
        self.memory.keep("engine", {"nonce": nonce})
        record = json.dumps({"id": self.machine_id, "nonce": nonce}, sort_keys=True)
        result = await self.etcd.txn(
            [e.if_mod(self.keys.leader, holder.mod if holder else 0)], [e.op_put(self.keys.leader, record, lease.id)]
        )
        if not result.succeeded:
            await self.etcd.lease_revoke(lease.id)
            return False
        self._lease, self._epoch, self._led_since = lease, result.revision, time.time()
        log.info("machine %s leads since revision %d", self.machine_id, self._epoch)
        return True

    def _is_ours(self, holder: e.KV) -> bool:
        """Whether the leader is the process before this one on this machine (there is never a second at one time)."""
        try:
            record = json.loads(holder.value)
        except ValueError:
            return False
        nonce = self.memory.read("engine").get("nonce")
        return isinstance(record, dict) and record.get("id") == self.machine_id and record.get("nonce") == nonce

    async def _await_vacancy(self, revision: int) -> None:
        async for batch in self.etcd.watch(self.keys.leader, revision):
            if any(change.key == self.keys.leader and change.kv is None for change in batch):
                return

    async def _begin(self) -> int:
        """Read everything; returns the revision at which it was read."""
        listing = await self.etcd.prefix(self.keys.prefix)
        self.image.load(listing.kvs)
        self.leading = True
        # Whoever led before may have seen a machine go; this engine counts from now on, which is never too short.
        self._lost.clear()
        self._news.set()
        return listing.revision

    async def _lead(self) -> None:
        if self._resigned or self._lease is None:
            await self._give_back()
            return
        revision = await self._begin()
        tasks = [
            asyncio.create_task(self._lease.keep()),
            asyncio.create_task(self._follow(revision + 1)),
            asyncio.create_task(self._decide()),
        ]
        try:
            done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LeaseLost:
            self._lease = None
            raise
        finally:
            self.leading = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, revision: int) -> None:
        """Keep the image up to date; anything but a short break of the stream ends leading, which begins anew."""
        delay, broken = 0.2, False
        while True:
            try:
                if broken:
                    await self.etcd.confirm(self.keys.leader)
                broken = True
                async for batch in self.etcd.watch(self.keys.prefix, revision):
                    delay = 0.2
                    for change in batch:
                        revision = max(revision, change.revision + 1)
                        self._enter(change)
            except (e.Compacted, e.ForeignCluster):
                raise
            except e.EtcdError as exc:
                log.info("the engine's watch broke (%s), going on at revision %d", exc, revision)
                delay = await e.rest(delay)

    def _enter(self, change: e.WatchEvent) -> None:
        if change.key == self.keys.leader:
            if change.revision > self._epoch:
                raise LeaseLost(f"somebody else leads since revision {change.revision}")
            return
        if self.image.watched(change) and self._matters(change):
            self._news.set()
            if self.keys.split(change.key)[0] == "presence":
                self._hurry.set()

    def _matters(self, change: e.WatchEvent) -> bool:
        """Whether a change can change the plan. Most are units that come up as planned, and planning looks at all."""
        kind, machine, name = self.keys.split(change.key)
        if kind != "state":
            return kind not in ("announce", "ask", "answer")
        unit = self.image.units.get(name)
        if unit is None:
            return False
        target = self.image.targets.get(name)
        if change.kv is None:
            return not unit.is_global and (target is None or not target.machine)
        state = self.image.states.get((machine, name))
        return bool(unit.needs.rolling) or (state is not None and state.done)

    async def _decide(self) -> None:
        rest, soonest, pause = 0.0, 0.0, PAUSE
        while True:
            await self._news.wait()
            left = rest - time.monotonic()
            pause = next_pause(pause, left)
            # Not wait_for: before Python 3.12 it swallows a cancellation in the moment in which the wait is over, and
            # machines go and come in the very moment in which a fleetd ends.
            with suppress(TimeoutError):
                async with asyncio.timeout(max(GATHER, left)):
                    await self._hurry.wait()
            await asyncio.sleep(max(GATHER if self._hurry.is_set() else 0, soonest - time.monotonic()))
            self._hurry.clear()
            self._news.clear()
            begun = time.monotonic()
            decided = self._plan()
            soonest = begun + SHARE * (time.monotonic() - begun)
            rest = max(begun + pause, soonest)
            await self._apply(decided.changes)

    def _plan(self) -> Plan:
        moment = presence_now()
        self._note_lost(moment)
        self.plans += 1
        return plan(snapshot_of(self.image, self._waiting(moment), self._brake(moment)))

    def _note_lost(self, moment: float) -> None:
        """Remember since when each machine that units are on is missing, and for the brake also those they have left.

        Machines that are lost together are seldom lost in one moment: their leases end seconds apart.
        """
        wanted = {target.machine for target in self.image.targets.values()} - {""}
        lately = {machine for machine, since in self._lost.items() if since + BRAKE_SECONDS > moment}
        gone = {machine for machine in wanted | lately if self.image.is_gone(machine)}
        self._lost = {machine: self._lost.get(machine, moment) for machine in gone}

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._news.set)

    def _waiting(self, moment: float) -> dict[str, str]:
        """Units with ``OnPartition=stop`` whose machine was lost a moment ago: it may still be about to stop them."""
        waiting, soonest = {}, 0.0
        for name, target in self.image.targets.items():
            unit = self.image.units.get(name)
            if unit is None or target.machine not in self._lost or unit.needs.on_partition != "stop":
                continue
            left = self._lost[target.machine] + self.grace - moment
            if left > 0:
                waiting[name] = f"waits until machine {target.machine}, which was lost, has surely stopped it"
                soonest = min(soonest or left, left)
        if waiting:
            self._wake_in(soonest)
        return waiting

    def _brake(self, moment: float) -> int:
        """What :func:`brake_of` says of the machines that were lost lately."""
        lately = [since for since in self._lost.values() if since + BRAKE_SECONDS > moment]
        known = len(self.image.presence) + len(self._lost)
        brake = brake_of(known, len(lately), len(self.image.assigns))
        if brake:
            self._wake_in(min(lately) + BRAKE_SECONDS - moment)
        if bool(brake) != self._braking:
            self._braking = bool(brake)
            if brake:
                log.warning(
                    "%d of %d machines are lost: for %.0f s a machine takes over units only up to %d",
                    len(lately),
                    known,
                    BRAKE_SECONDS,
                    brake,
                )
            else:
                log.info("enough machines are there again")
        return brake

    async def _apply(self, changes: Sequence[Change]) -> None:
        """Write the changes.

        When etcd does not say whether it took one, the image may be wrong, and the write may still be on its way. So
        the error ends leading: a new epoch refuses what is late, and everything is read again.
        """
        most = e.MAX_TXN_OPS - 1
        # A change needs three compares of its own beside those for the machines it is placed on.
        parts = [part for change in changes for part in split_wide(change, most - 3)]
        writes = [write_of(part, self.image, self._epoch) for part in parts]
        for batch in batches(writes, most):
            if not await self._commit(batch) and len(batch) > 1:
                for write in batch:
                    await self._commit([write])

    async def _commit(self, batch: Sequence[Write]) -> bool:
        """One transaction; enters it in the image when etcd took it."""
        compares = [e.if_mod(self.keys.leader, self._epoch)]
        for write in batch:
            compares.extend(write.compares)
        operations = [operation for write in batch for operation in write.operations]
        result = await self.etcd.txn(compares, operations)
        self.writes += 1
        if result.succeeded:
            for write in batch:
                self._enter_own(write.change, result.revision)
                log.info("revision %d: %s", result.revision, describe(write.change))
        elif len(batch) == 1:
            # The watch brings what has changed, and with it another plan.
            log.info("%s was overtaken by a change", batch[0].change.name)
        return result.succeeded

    def _enter_own(self, change: Change, revision: int) -> None:
        keys = self.keys
        if change.drop_target:
            self.image.apply(e.WatchEvent(keys.target(change.name), None, revision))
        elif change.target is not None:
            self._put(keys.target(change.name), encode_target(change.target), revision)
        for machine, assignment in change.assign:
            self._put(keys.assign(machine, change.name), encode_assignment(assignment), revision)
        if change.drop_move:
            self.image.apply(e.WatchEvent(keys.move(change.name), None, revision))
        for machine in change.unassign:
            self.image.apply(e.WatchEvent(keys.assign(machine, change.name), None, revision))

    def _put(self, key: str, value: str, revision: int) -> None:
        create = self.image.creates.get(key, revision)
        self.image.apply(e.WatchEvent(key, e.KV(key, value.encode(), create, revision), revision))


def describe(change: Change) -> str:
    """One line for the log."""
    parts = []
    if change.assign:
        parts.append("to " + ", ".join(f"{machine} ({_wants(copy)})" for machine, copy in change.assign))
    if change.unassign:
        parts.append("away from " + ", ".join(change.unassign))
    if change.target is not None and change.target.reason:
        parts.append(f"not placed: {change.target.reason}")
    return f"unit {change.name}: " + ("; ".join(parts) or "no longer wanted")


def _wants(assignment: Assignment) -> str:
    return assignment.desired
