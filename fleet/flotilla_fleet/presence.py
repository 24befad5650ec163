# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases, and the one that says a machine is there.

A lease is renewed by keep-alive only: renewals do not go through raft and work when etcd is out of space, and a put
could bring back what an expiry took away. How long a lease can be trusted is counted from the moment the renewal was
*sent*, on the clock that goes on during suspend.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from . import etcd as e
from .memory import Memory
from .model import Machine, RecordError, decode_machine, encode_machine
from .registry import Keys

log = logging.getLogger(__name__)


def now() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def trusted_until(memory: Memory) -> float:
    """The moment (seconds since boot) until which the machine's lease surely lived, as remembered; 0: not known."""
    deadline = memory.read("deadline").get("boottime")
    return float(deadline) if isinstance(deadline, (int, float)) else 0.0


class LeaseLost(Exception):
    """etcd does not know the lease any more."""


class Lease:
    """A granted lease with its time to live in seconds and the moment until which it is surely alive."""

    def __init__(self, client: e.Etcd, lease_id: int, ttl: int, granted: float) -> None:
        self.etcd = client
        self.id = lease_id
        self.ttl = ttl
        self.deadline = granted + ttl

    @classmethod
    async def grant(cls, client: e.Etcd, ttl: int) -> Lease:
        sent = now()
        return cls(client, await client.lease_grant(ttl), ttl, sent)

    @property
    def left(self) -> float:
        return self.deadline - now()

    async def renew(self) -> None:
        """One keep-alive; :class:`LeaseLost` when etcd has ended the lease."""
        sent = now()
        if await self.etcd.lease_keepalive(self.id) <= 0:
            raise LeaseLost(f"lease {self.id:x} is gone")
        self.deadline = sent + self.ttl

    async def keep(self, on_renewed: Callable[[Lease], None] = lambda _lease: None) -> None:
        """Renew until the lease is lost; etcd not answering is no loss, only a reason to try again soon."""
        failing = False
        while True:
            on_renewed(self)
            # Counted from when the last renewal was sent: an answer that came late must not make the next one late.
            due = self.left - self.ttl * 2 / 3
            await asyncio.sleep(min(1.0, self.ttl / 12) if failing else max(0.0, due))
            try:
                await self.renew()
            except e.EtcdError as exc:
                if not failing:
                    log.warning("cannot renew lease %x (%.1f s left): %s", self.id, self.left, exc)
                failing = True
            else:
                if failing:
                    log.info("lease %x is renewed again", self.id)
                failing = False


class Presence:
    """Keeps ``presence/<machine>`` in etcd for as long as this process lives, and across its restarts.

    ``on_lease`` is called with each new lease, so that whatever hangs on it (unit states) can be written again, and
    with None when it was lost. The moment until which the lease is surely alive is kept in memory under ``deadline``,
    because a fleetd that is started without reaching etcd must know whether its units may still run. ``on_look`` is
    called once in the life of a lease, to look after what else hangs on it.
    """

    def __init__(
        self,
        client: e.Etcd,
        keys: Keys,
        machine: Machine,
        ttl: int,
        memory: Memory,
        on_lease: Callable[[Lease | None], Awaitable[None]],
        on_look: Callable[[Lease], Awaitable[None]] | None = None,
    ) -> None:
        self.etcd = client
        self.keys = keys
        self.machine = machine
        self.ttl = ttl
        self.memory = memory
        self.on_lease = on_lease
        self.on_look = on_look
        self.lease: Lease | None = None
        self.problem = "has not registered yet"
        """Why the machine is not present in etcd, or ""."""
        self._changed = asyncio.Event()
        self._nonce = ""
        self._said = ""

    async def run(self) -> None:
        """Register and keep the lease, for ever."""
        delay = 0.2
        while True:
            try:
                lease = await self._adopt() or await self._register()
            except e.EtcdError as exc:
                self._report(f"cannot register machine {self.machine.id}: {exc}")
                delay = await e.rest(delay)
                continue
            if lease is None:
                await asyncio.sleep(min(1.0, self.ttl / 3))
                continue
            delay = 0.2
            await self._hold(lease)

    def tell_trouble(self, trouble: str) -> None:
        """Say why no new unit may be placed on this machine; "" when any may again."""
        if trouble != self.machine.trouble:
            self.machine = replace(self.machine, trouble=trouble)
            self._changed.set()

    async def withdraw(self) -> None:
        """Leave at once: the machine and all its states disappear from etcd."""
        if self.lease is not None:
            await self.etcd.lease_revoke(self.lease.id)
        self.memory.remove("lease")

    async def _hold(self, lease: Lease) -> None:
        self.lease = lease
        self.problem = ""
        keep = asyncio.create_task(lease.keep(self._remember_deadline))
        look = asyncio.create_task(self._look_after(lease))
        try:
            await self.on_lease(lease)
            done, _pending = await asyncio.wait((keep, look), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LeaseLost as exc:
            self._report(f"machine {self.machine.id} was taken for dead: {exc}; registering again")
            await self.on_lease(None)
        finally:
            self.lease = None
            for task in (keep, look):
                task.cancel()
            await asyncio.gather(keep, look, return_exceptions=True)

    def _remember_deadline(self, lease: Lease) -> None:
        self.memory.keep("deadline", {"boottime": lease.deadline})

    def _report_once(self, text: str) -> None:
        if text != self._said:
            log.warning("%s", text)
        self._said = text

    async def _look_after(self, lease: Lease) -> None:
        """Once in the life of a lease, and when there is news, see that the record is there as it should be.

        Renewals do not tell whether somebody has overwritten or removed it.
        """
        key = self.keys.presence(self.machine.id)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.ttl):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self._mend(key, lease)
                if self.on_look is not None:
                    await self.on_look(lease)
            except e.EtcdError as exc:
                self._report_once(f"cannot look after {key}: {exc}")

    async def _mend(self, key: str, lease: Lease) -> None:
        found = await self.etcd.get(key)
        wanted = self._record(self._nonce)
        if found is not None and found.lease == lease.id and found.value.decode("utf-8", "replace") == wanted:
            return
        if found is not None and found.lease not in (0, lease.id) and not self._is_ours(found):
            raise LeaseLost("another machine has taken its place")
        result = await self.etcd.txn([e.if_mod(key, found.mod if found else 0)], [e.op_put(key, wanted, lease.id)])
        if result.succeeded and (found is None or found.lease != lease.id):
            log.warning("%s was not as this machine had written it, and is written again", key)

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    async def _adopt(self) -> Lease | None:
        """Take up the lease of the process before this one, so that its restart is seen by nobody."""
        record = self.memory.read("lease")
        lease_id, nonce = record.get("lease"), record.get("nonce")
        if not isinstance(lease_id, int) or not isinstance(nonce, str) or record.get("ttl") != self.ttl:
            return None
        if record.get("machine") != self.machine.id:
            return None  # the machine had another id, and who had that is to be gone
        lease = Lease(self.etcd, lease_id, self.ttl, now())
        try:
            await lease.renew()
        except LeaseLost:
            return None
        kv = await self.etcd.get(self.keys.presence(self.machine.id))
        if kv is None or kv.lease != lease_id:
            return None
        wanted = self._record(nonce)
        self._nonce = nonce
        if kv.value.decode("utf-8", "replace") != wanted:
            self._changed.set()  # written when etcd takes writes; the lease counts
        log.info("machine %s goes on with lease %x", self.machine.id, lease_id)
        return lease

    def _record(self, nonce: str) -> str:
        return encode_machine(replace(self.machine, nonce=nonce))

    async def _register(self) -> Lease | None:
        """Write the presence key under a new lease; None when another machine has this id."""
        key = self.keys.presence(self.machine.id)
        found = await self.etcd.get(key)
        # A record without a lease is no machine's: it would never expire.
        if found is not None and found.lease and not self._is_ours(found):
            return None
        nonce = self._nonce = secrets.token_hex(8)
        lease = await Lease.grant(self.etcd, self.ttl)
        # Remembered before it is announced: should the answer be lost, the next try adopts what was written.
        self.memory.keep("lease", {"lease": lease.id, "machine": self.machine.id, "nonce": nonce, "ttl": self.ttl})
        result = await self.etcd.txn(
            [e.if_mod(key, found.mod if found else 0)], [e.op_put(key, self._record(nonce), lease.id)]
        )
        if not result.succeeded:
            return None
        if found is not None and found.lease:
            await self._end_old_lease(found.lease)
        log.info("machine %s registered with lease %x, %d s", self.machine.id, lease.id, self.ttl)
        return lease

    async def _end_old_lease(self, lease_id: int) -> None:
        """States of the time before hang on the old lease; they end with it at once instead of by and by."""
        try:
            await self.etcd.lease_revoke(lease_id)
        except e.EtcdError as exc:
            log.debug("old lease %x: %s", lease_id, exc)

    def _is_ours(self, kv: e.KV) -> bool:
        """Whether a presence that is still there was ours: written by the process before, or from the same address.

        The boot id tells nothing alone, as containers of one machine may all see that of its kernel.
        """
        try:
            other = decode_machine(kv.key, self.machine.id, kv.value)
        except RecordError as exc:
            self._report(f"{exc}; waiting until it expires")
            return False
        if other.nonce and other.nonce == (self._nonce or self.memory.read("lease").get("nonce")):
            return True
        if other.ip == self.machine.ip and (other.ip or other.boot_id == self.machine.boot_id):
            return True
        self._report(
            f"machine id {self.machine.id} of {self.machine.ip or 'this machine'} (boot {self.machine.boot_id}) "
            f"is in use by {other.ip or 'a machine without address'} (boot {other.boot_id}): was the machine cloned? "
            "Give this one an id of its own (empty /etc/machine-id and run systemd-machine-id-setup) and restart fleet"
        )
        return False
