# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of etcd does what etcd does: the same operations on both, the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_etcd import MemoryEtcd, Server
from support.etcd import EtcdProcess, etcd_or_skip

from flotilla_fleet import etcd as e

KEYS = ["/m/a", "/m/a/b", "/m/b", "/m/ü", "/n"]


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


keys = st.sampled_from(KEYS)
values = st.sampled_from(["", "x", "yy", "\x00\x01"])
compares = st.one_of(
    st.tuples(st.just("mod"), keys, st.integers(-1, 3)),
    st.tuples(st.just("create"), keys, st.integers(-1, 3)),
    st.tuples(st.just("value"), keys, values),
    st.tuples(st.just("exists"), keys, st.none()),
)
operations = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("delete"), keys, st.none()),
    st.tuples(st.just("wipe"), st.just("/m/"), st.none()),
    st.tuples(st.just("get"), keys, st.none()),
    st.tuples(st.just("list"), st.just("/m/"), st.none()),
)


def distinct(made: list[tuple[str, str, Any]]) -> bool:
    """etcd refuses to write a key twice in one transaction."""
    written = [key for kind, key, _value in made if kind in ("put", "delete")]
    return len(written) == len(set(written)) and (
        not any(kind == "wipe" for kind, _key, _value in made) or not any(kind != "get" for kind, _k, _v in made[1:])
    )


steps = st.lists(
    st.tuples(st.lists(compares, max_size=2), st.lists(operations, max_size=3).filter(distinct)), max_size=8
)


def compare_of(kind: str, key: str, value: Any, recent: dict[str, list[int]]) -> e.Json:
    """Revisions in compares are chosen among those that the key had: -1 is the newest, 0 none."""
    if kind == "value":
        return e.if_value(key, value)
    if kind == "exists":
        return e.if_exists(key)
    known = [0, *recent.get(key, [])]
    revision = known[value] if -len(known) <= value < len(known) else 0
    return (e.if_mod if kind == "mod" else e.if_create)(key, revision)


def operation_of(kind: str, key: str, value: Any) -> e.Json:
    if kind == "put":
        return e.op_put(key, value)
    if kind == "delete":
        return e.op_delete(key)
    if kind == "wipe":
        return e.op_delete(key, e.prefix_end(key))
    return e.op_get(key) if kind == "get" else e.op_get_prefix(key)


async def replay(client: Any, made: list[Any], base: int) -> list[Any]:
    """Everything that was answered, with revisions counted from ``base``."""
    recent: dict[str, list[int]] = {}
    told: list[Any] = []
    for conditions, changes in made:
        result = await client.txn(
            [compare_of(*condition, recent) for condition in conditions], [operation_of(*change) for change in changes]
        )
        shown = [[(kv.key, kv.value, kv.create - base, kv.mod - base) for kv in found] for found in result.ranges]
        told.append((result.succeeded, result.revision - base, shown, result.deleted))
        for kind, key, _value in changes:
            if kind == "put" and result.succeeded:
                recent.setdefault(key, []).append(result.revision)
    listing = await client.prefix("/m/")
    told.append([(kv.key, kv.value, kv.create - base, kv.mod - base) for kv in listing.kvs])
    async for batch in client.watch("/m/", base + 1):
        told.append([(c.key, c.kv.value if c.kv else None, c.revision - base) for c in batch])
        last = max((kv.mod for kv in listing.kvs), default=0)
        if not listing.kvs or any(c.revision >= last for c in batch):
            break
    return [entry for entry in told if entry]


@settings(max_examples=60, deadline=None)
@given(made=steps)
def test_the_same_as_etcd(made: list[Any], etcd_process: EtcdProcess) -> None:
    async def both() -> tuple[list[Any], list[Any]]:
        real = e.Etcd([etcd_process.url])
        try:
            await real.txn([], [e.op_delete("/", e.prefix_end("/"))])
            base = (await real.range("/")).revision
            first = await replay(real, made, base)
        finally:
            await real.close()
            await asyncio.sleep(0)
        server = Server()
        return first, await replay(MemoryEtcd(server), made, server.revision)

    real, model = asyncio.run(both())
    # A watch may bring the changes in other batches.
    assert _joined(real) == _joined(model)


def _joined(told: list[Any]) -> list[Any]:
    answers = [entry for entry in told if isinstance(entry, tuple)]
    lists = [item for entry in told if isinstance(entry, list) for item in entry]
    return [answers, lists]


async def test_leases_end_with_their_time_and_take_their_keys_along() -> None:
    server = Server()
    client = MemoryEtcd(server)
    lease = await client.lease_grant(5)
    await client.txn([], [e.op_put("/a", "1", lease), e.op_put("/b", "1", lease), e.op_put("/c", "1")])
    await client.txn([], [e.op_put("/b", "2")])  # a write without the lease lets the key stay
    server.tick(4)
    assert await client.lease_keepalive(lease) == 5
    server.tick(4)
    assert await client.get("/a") is not None
    before = server.revision
    server.tick(1)
    assert [kv.key for kv in (await client.prefix("/")).kvs] == ["/b", "/c"]
    assert server.revision == before + 1
    assert await client.lease_keepalive(lease) == 0
    with pytest.raises(e.EtcdError, match="lease not found"):
        await client.txn([], [e.op_put("/d", "1", lease)])


async def test_compacted_revisions_are_gone() -> None:
    server = Server()
    client = MemoryEtcd(server)
    for number in range(5):
        await client.txn([], [e.op_put("/a", str(number))])
    assert (await client.range("/a", revision=3)).kvs[0].value == b"1"
    server.compact(4)
    with pytest.raises(e.Compacted):
        await client.range("/a", revision=3)
    watch = client.watch("/", 4)
    assert await anext(watch) == ()
    with pytest.raises(e.Compacted):
        await anext(watch)
    assert [event.revision for event in server.events("/", 5)] == [5, 6]


async def test_lost_answers_and_outages() -> None:
    server = Server()
    client = MemoryEtcd(server)
    client.lose = 1
    with pytest.raises(e.Unreachable):
        await client.txn([], [e.op_put("/a", "1")])
    assert await client.get("/a") is not None
    client.down = True
    with pytest.raises(e.Unreachable):
        await client.get("/a")
