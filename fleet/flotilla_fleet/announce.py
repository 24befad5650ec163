# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where services are: each machine tells which copies on it are up, and everybody may follow what all of them tell.

``announce/<machine>/<service>/<unit>`` holds address and port. The keys of a machine hang on one lease, which is short
so that a machine that died is not asked for long. Who announces holds a connection to its own machine's fleetd, and the
key goes with the connection. A fleetd that restarts leaves the keys to their lease; its clients announce again before
that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from . import etcd as e
from .presence import Lease, LeaseLost
from .registry import Keys
from .store import StoreError
from .unitname import UnitNameError, validate_unit_name

log = logging.getLogger(__name__)

LEASE_SECONDS = 5
RETRY_FIRST = 0.2
_NOT_FOUND = 5
_SERVICE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class AnnouncementError(ValueError):
    """Something that cannot be announced; the text says why and what is allowed."""


@dataclass(frozen=True, order=True)
class Announcement:
    """A copy of ``service`` that answers at ``address`` and ``port``, run by ``unit`` on ``machine``."""

    service: str
    unit: str
    machine: str
    address: str
    port: int


def check(service: str, unit: str, address: str, port: str) -> int:
    """The port as a number; :class:`AnnouncementError` for values that make no sense."""
    if not _SERVICE.fullmatch(service):
        raise AnnouncementError(f"service is {service!r}: use up to 64 of a-z, 0-9, '.', '_' and '-'")
    try:
        validate_unit_name(unit)
    except UnitNameError as exc:
        raise AnnouncementError(f"unit is {unit!r}: {exc}") from None
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise AnnouncementError(f"address is {address!r}, which is no IP address") from None
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise AnnouncementError(f"port is {port!r}: allowed are 1 to 65535")
    return int(port)


def encode(address: str, port: int) -> str:
    return json.dumps({"address": address, "port": port}, sort_keys=True, separators=(",", ":"))


def decode(keys: Keys, kv: e.KV) -> Announcement | None:
    """What a key announces; None, and a line in the log, when it makes no sense."""
    machine, _slash, rest = kv.key.removeprefix(keys.all("announce")).partition("/")
    service, _slash, unit = rest.partition("/")
    try:
        record = json.loads(kv.value)
        address, port = record["address"], record["port"]
        return Announcement(service, unit, machine, address, check(service, unit, str(address), str(port)))
    except (ValueError, KeyError, TypeError) as exc:  # AnnouncementError is a ValueError
        log.warning("%s is left out: %s", kv.key, exc)
        return None


class Bulletin:
    """What this machine announces, and what all machines do."""

    def __init__(self, client: e.Etcd, keys: Keys, machine_id: str, address: str, ttl: int = LEASE_SECONDS) -> None:
        self.etcd = client
        self.keys = keys
        self.machine_id = machine_id
        self.address = address
        self.ttl = ttl
        self.closing = asyncio.Event()
        """Set when this fleetd ends: who is being served here has to turn to the next one."""
        self.found: tuple[Announcement, ...] | None = None
        """What all machines announce, sorted; known only while somebody listens."""
        self._wanted: dict[str, tuple[str, asyncio.Event]] = {}
        self._written: dict[str, str] = {}
        self._news = asyncio.Event()
        self._listeners: set[asyncio.Event] = set()
        self._pump: asyncio.Task[None] | None = None

    # -- what this machine announces ------------------------------------------------

    @contextlib.asynccontextmanager
    async def announce(self, service: str, unit: str, address: str, port: int) -> AsyncIterator[asyncio.Event]:
        """Announce for as long as the block lasts; the event is set when etcd has it."""
        key, told = self.keys.announce(self.machine_id, service, unit), asyncio.Event()
        mine = (encode(address, port), told)
        self._wanted[key] = mine
        if key in self._written:  # who announces the same anew has to be told, too
            self._written[key] = ""
        self._news.set()
        try:
            yield told
        finally:
            if self._wanted.get(key) is mine:  # or somebody has announced it anew meanwhile
                del self._wanted[key]
                self._news.set()

    async def run(self) -> None:
        """Keep in etcd what is announced here, for ever."""
        delay = RETRY_FIRST
        while True:
            while not self._wanted:
                self._news.clear()
                await self._news.wait()
            try:
                await self._hold(await Lease.grant(self.etcd, self.ttl))
                delay = RETRY_FIRST
            except LeaseLost as exc:
                log.warning("announcements are written again: %s", exc)
            except e.EtcdError as exc:
                log.warning("cannot announce: %s", exc)
                delay = await e.rest(delay)

    async def _hold(self, lease: Lease) -> None:
        """Write under this lease until nothing is announced any more, or the lease is lost."""
        self._written = {}
        self._news.set()
        keep = asyncio.create_task(lease.keep())
        write = asyncio.create_task(self._write(lease))
        try:
            done, _pending = await asyncio.wait((keep, write), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (keep, write):
                task.cancel()
            await asyncio.gather(keep, write, return_exceptions=True)
        await self.etcd.lease_revoke(lease.id)

    async def _write(self, lease: Lease) -> None:
        delay = RETRY_FIRST
        while self._wanted or self._written:
            await self._news.wait()
            self._news.clear()
            try:
                await self._write_changes(lease)
                delay = RETRY_FIRST
            except e.EtcdError as exc:
                if exc.code == _NOT_FOUND:
                    raise LeaseLost(f"lease {lease.id:x} is gone") from None
                log.warning("cannot announce: %s", exc)
                self._news.set()
                delay = await e.rest(delay)

    async def _write_changes(self, lease: Lease) -> None:
        wanted = dict(self._wanted)
        puts = {key: value for key, (value, _told) in wanted.items() if self._written.get(key) != value}
        gone = [key for key in self._written if key not in wanted]
        operations = [(key, e.op_put(key, value, lease.id)) for key, value in puts.items()]
        operations += [(key, e.op_delete(key)) for key in gone]
        for start in range(0, len(operations), e.MAX_TXN_OPS):
            part = operations[start : start + e.MAX_TXN_OPS]
            # Should the answer be lost, the keys may be there: they are to be written, or removed, once more.
            self._written.update({key: "" for key, _operation in part})
            await self.etcd.txn([], [operation for _key, operation in part])
            self._written.update({key: puts[key] for key, _operation in part if key in puts})
        for key in gone:
            del self._written[key]
        for key, (value, told) in wanted.items():
            if self._written.get(key) == value:
                told.set()

    # -- what all machines announce ---------------------------------------------------

    async def read(self) -> tuple[Announcement, ...]:
        """What is announced just now; :class:`StoreError` when etcd does not answer."""
        try:
            return self._sorted((await self.etcd.prefix(self.keys.all("announce"))).kvs)
        except e.EtcdError as exc:
            raise StoreError(str(exc)) from None

    def _sorted(self, kvs: tuple[e.KV, ...]) -> tuple[Announcement, ...]:
        found = (decode(self.keys, kv) for kv in kvs)
        return tuple(sorted(item for item in found if item is not None))

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set when :attr:`found` may have changed. One watch serves all who listen."""
        news = asyncio.Event()
        self._listeners.add(news)
        if self._pump is None:
            self._pump = asyncio.create_task(self._follow(), name="fleet-announcements")
        elif self.found is not None:
            news.set()
        try:
            yield news
        finally:
            self._listeners.discard(news)
            if not self._listeners and self._pump is not None:
                self._pump.cancel()
                self._pump = self.found = None

    async def _follow(self) -> None:
        """Read, then watch. While etcd is away nothing is told, and what was told stays."""
        prefix, delay = self.keys.all("announce"), RETRY_FIRST
        while True:
            try:
                listing = await self.etcd.prefix(prefix)
                held = {kv.key: kv for kv in listing.kvs}
                self._tell(held)
                delay = RETRY_FIRST
                async for batch in self.etcd.watch(prefix, listing.revision + 1):
                    for change in batch:
                        if change.kv is None:
                            held.pop(change.key, None)
                        else:
                            held[change.key] = change.kv
                    if batch:
                        self._tell(held)
            except e.EtcdError as exc:
                log.info("cannot follow what is announced: %s", exc)
                delay = await e.rest(delay)

    def _tell(self, held: Mapping[str, e.KV]) -> None:
        found = self._sorted(tuple(held.values()))
        if found != self.found:
            self.found = found
            for listener in self._listeners:
                listener.set()
