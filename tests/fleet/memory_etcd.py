# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd in memory: revisions, transactions with compares, leases on a clock that tests turn, watches, compaction.

:class:`Server` is the store, :class:`MemoryEtcd` a client of it with the calls of :class:`flotilla_fleet.etcd.Etcd`.
``test_memory_etcd.py`` compares it with a real one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from flotilla_fleet.etcd import (
    KV,
    Compacted,
    EtcdError,
    Json,
    RangeResult,
    TxnResult,
    Unreachable,
    WatchEvent,
    prefix_end,
)


def _key(request: Json, name: str = "key") -> str:
    return base64.b64decode(request.get(name, "")).decode("utf-8", "surrogateescape")


def _between(key: str, first: str, end: bytes) -> bool:
    raw = key.encode("utf-8", "surrogateescape")
    if not end:
        return key == first
    return raw >= first.encode("utf-8", "surrogateescape") and (end == b"\0" or raw < end)


@dataclass
class _Lease:
    ttl: int
    deadline: float


@dataclass
class Server:
    """The store. ``clock`` is in seconds and goes on only by :meth:`tick`."""

    revision: int = 1
    clock: float = 0.0
    keys: dict[str, KV] = field(default_factory=dict)
    history: list[WatchEvent] = field(default_factory=list)
    """Every change there was, also of revisions that are compacted."""
    compacted: int = 0
    leases: dict[int, _Lease] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _next_lease: int = 1000

    # -- reading

    def select(self, key: str, end: bytes = b"") -> tuple[KV, ...]:
        return tuple(self.keys[name] for name in sorted(self.keys, key=_bytes) if _between(name, key, end))

    def at(self, revision: int, key: str, end: bytes = b"") -> tuple[KV, ...]:
        """What there was at a revision."""
        if revision < self.compacted:
            raise Compacted(f"revision {revision} is compacted", 11)
        found: dict[str, KV] = {}
        for event in self.history:
            if event.revision <= revision and _between(event.key, key, end):
                if event.kv is None:
                    found.pop(event.key, None)
                else:
                    found[event.key] = event.kv
        return tuple(found[name] for name in sorted(found, key=_bytes))

    def events(self, prefix: str, revision: int) -> list[WatchEvent]:
        """Changes below the prefix from a revision on."""
        if revision <= self.compacted:
            raise Compacted(f"the watch starts before compacted revision {self.compacted}")
        return [e for e in self.history if e.revision >= revision and e.key.startswith(prefix)]

    # -- writing

    def txn(self, compares: Sequence[Json], success: Sequence[Json], failure: Sequence[Json]) -> TxnResult:
        holds = all(self._holds(compare) for compare in compares)
        operations = success if holds else failure
        for operation in operations:
            lease = int(operation.get("requestPut", {}).get("lease", 0))
            if lease and lease not in self.leases:
                raise EtcdError("etcdserver: requested lease not found", 5)
        before, ranges, deleted = len(self.history), [], 0
        revision = self.revision + 1
        for operation in operations:
            if "requestRange" in operation:
                request = operation["requestRange"]
                ranges.append(self.select(_key(request), base64.b64decode(request.get("range_end", ""))))
            elif "requestPut" in operation:
                self._put(operation["requestPut"], revision)
            else:
                request = operation["requestDeleteRange"]
                gone = self.select(_key(request), base64.b64decode(request.get("range_end", "")))
                deleted += len(gone)
                for kv in gone:
                    self._delete(kv.key, revision)
        self._settle(before, revision)
        return TxnResult(holds, self.revision, tuple(ranges), deleted)

    def _holds(self, compare: Json) -> bool:
        kv = self.keys.get(_key(compare))
        target = compare["target"]
        if target == "VALUE":
            return kv is not None and kv.value == base64.b64decode(compare["value"])
        found = 0 if kv is None else (kv.mod if target == "MOD" else kv.create)
        wanted = int(compare["modRevision" if target == "MOD" else "createRevision"])
        return found > wanted if compare["result"] == "GREATER" else found == wanted

    def _put(self, request: Json, revision: int) -> None:
        key = _key(request)
        old = self.keys.get(key)
        value = base64.b64decode(request["value"])
        kv = KV(key, value, old.create if old else revision, revision, int(request.get("lease", 0)))
        self.keys[key] = kv
        self.history.append(WatchEvent(key, kv, revision))

    def _delete(self, key: str, revision: int) -> None:
        del self.keys[key]
        self.history.append(WatchEvent(key, None, revision))

    def _settle(self, before: int, revision: int) -> None:
        if len(self.history) > before:
            self.revision = revision
            self.news.set()
            self.news = asyncio.Event()

    # -- leases

    def grant(self, ttl: int) -> int:
        self._next_lease += 1
        self.leases[self._next_lease] = _Lease(ttl, self.clock + ttl)
        return self._next_lease

    def keep_alive(self, lease: int) -> int:
        known = self.leases.get(lease)
        if known is None:
            return 0
        known.deadline = self.clock + known.ttl
        return known.ttl

    def revoke(self, lease: int) -> None:
        if self.leases.pop(lease, None) is None:
            raise EtcdError("etcdserver: requested lease not found", 5)
        before, revision = len(self.history), self.revision + 1
        for key in sorted(name for name, kv in self.keys.items() if kv.lease == lease):
            self._delete(key, revision)
        self._settle(before, revision)

    def tick(self, seconds: float) -> None:
        """Let time pass; leases that are over end, each at a revision of its own."""
        self.clock += seconds
        for lease in sorted(number for number, known in self.leases.items() if known.deadline <= self.clock):
            self.revoke(lease)

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Compacted(f"revision {revision} is compacted already", 11)
        if revision > self.revision:
            raise EtcdError("etcdserver: mvcc: required revision is a future revision", 11)
        self.compacted = revision


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


class MemoryEtcd:
    """A client. ``down``: nothing gets through; ``lose``: so many answers to transactions get lost on the way back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.down = False
        self.lose = 0
        self.cluster_id = 1
        self.revision = 0
        self.refusal = ""
        self.requests = 0

    def _reach(self) -> None:
        self.requests += 1
        if self.down:
            raise Unreachable("the endpoint did not answer")

    async def close(self) -> None:
        return

    async def confirm(self, key: str) -> None:
        await self.range(key)

    async def get(self, key: str) -> KV | None:
        result = await self.range(key)
        return result.kvs[0] if result.kvs else None

    async def range(
        self, key: str, end: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        self._reach()
        found = self.server.at(revision, key, end) if revision else self.server.select(key, end)
        return RangeResult(self.server.revision, found[: limit or None])

    async def prefix(self, prefix: str, keys_only: bool = False) -> RangeResult:
        return await self.range(prefix, prefix_end(prefix))

    async def txn(self, compares: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()) -> TxnResult:
        self._reach()
        result = self.server.txn(compares, success, failure)
        if self.lose:
            self.lose -= 1
            raise Unreachable("the answer was lost")
        return result

    async def lease_grant(self, ttl: int) -> int:
        self._reach()
        return self.server.grant(ttl)

    async def lease_keepalive(self, lease: int) -> int:
        self._reach()
        return self.server.keep_alive(lease)

    async def lease_revoke(self, lease: int) -> None:
        self._reach()
        self.server.revoke(lease)

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        self._reach()
        yield ()
        while True:
            news = self.server.news
            events = self.server.events(prefix, revision)
            if events:
                revision = events[-1].revision + 1
                yield tuple(events)
            else:
                await news.wait()
                self._reach()
