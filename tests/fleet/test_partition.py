# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that is cut off from etcd: what it keeps running, what it stops, and what is left after healing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeMachine
from proxy import Proxy
from support.etcd import EtcdProcess, etcd_or_skip

from flotilla_fleet.unitfile import parse_unit

TTL = 2
SLEEP = "[Service]\nExecStart=/bin/sleep infinity\n"


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


class Pair:
    """Machine a sees etcd through a proxy, b directly; b leads."""

    def __init__(self, a: FakeMachine, b: FakeMachine, proxy: Proxy) -> None:
        self.a, self.b, self.proxy = a, b, proxy

    async def put(self, name: str, text: str) -> None:
        view = await self.b.registry.unit_view(name)
        assert await self.b.registry.put_unit(name, parse_unit(text), "launched", view.unit if view else None)

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {what}"
            await asyncio.sleep(0.01)


@pytest.fixture
async def pair(etcd_process: EtcdProcess, tmp_path: Path) -> AsyncIterator[Pair]:
    proxy = Proxy(etcd_process.url)
    await proxy.start()
    prefix = f"/{tmp_path.name}/"
    b = FakeMachine("b", [etcd_process.url], tmp_path / "b", ttl=TTL, prefix=prefix)
    await b.start()
    made = Pair(FakeMachine("a", [proxy.url], tmp_path / "a", ttl=TTL, prefix=prefix), b, proxy)
    await made.until(lambda: b.engine.leading, "b leads")
    await made.a.start()
    await made.until(lambda: made.a.presence.lease is not None, "a is present")
    yield made
    proxy.heal()
    await made.a.stop()
    await b.stop()
    await proxy.stop()


async def on_a(pair: Pair, name: str, extra: str = "") -> None:
    """Start a unit on machine a that may run on b too."""
    for machine in (pair.a, pair.b):
        await pair.b.registry.patch_metadata([(machine.id, "first", "yes" if machine is pair.a else "")])
    await pair.put(name, f"{SLEEP}[X-Fleet]\nMachineMetadata=first=yes\n{extra}")
    await pair.until(lambda: name in pair.a.systemd.active, f"{name} runs on a")
    await pair.b.registry.patch_metadata([(pair.b.id, "first", "yes")])


async def test_a_run_unit_goes_on_and_after_healing_there_is_one(pair: Pair) -> None:
    await on_a(pair, "u.service")
    pair.proxy.cut()
    await pair.until(lambda: "u.service" in pair.b.systemd.active, "moved to b", TTL + 3)
    assert "u.service" in pair.a.systemd.active, "a unit that may run twice was stopped"
    pair.proxy.heal()
    await pair.until(lambda: "u.service" not in pair.a.systemd.active, "the old copy is stopped", 20)
    assert "u.service" in pair.b.systemd.active
    assert pair.b.systemd.starts["u.service"] == 1


async def test_a_stop_unit_never_runs_on_both(pair: Pair) -> None:
    await on_a(pair, "u.service", "OnPartition=stop\n")
    both = 0
    pair.proxy.cut()
    end = time.monotonic() + TTL * 4 + 5
    while "u.service" not in pair.b.systemd.active:
        assert time.monotonic() < end, "never moved"
        await asyncio.sleep(0.005)
        both += "u.service" in pair.a.systemd.active and "u.service" in pair.b.systemd.active
    both += "u.service" in pair.a.systemd.active
    assert both == 0
    pair.proxy.heal()
    await pair.until(lambda: pair.a.presence.lease is not None and not pair.a.agent.fencing, "a is back", 20)
    await asyncio.sleep(0.5)
    assert pair.a.systemd.starts["u.service"] == 1
    assert "u.service" in pair.b.systemd.active


async def test_a_short_cut_moves_and_stops_nothing(pair: Pair) -> None:
    await on_a(pair, "u.service")
    await on_a(pair, "s.service", "OnPartition=stop\n")
    for _ in range(4):
        pair.proxy.cut()
        await asyncio.sleep(TTL / 4)
        pair.proxy.heal()
        await asyncio.sleep(TTL / 2)
    assert not pair.a.systemd.stops
    assert not pair.b.systemd.active


async def test_with_etcd_gone_for_all_nothing_happens_and_nothing_is_forgotten(
    tmp_path: Path, etcd_process: EtcdProcess
) -> None:
    gone = EtcdProcess(etcd_process.program, tmp_path / "own")
    gone.start()
    machines = [FakeMachine(letter, [gone.url], tmp_path / letter, ttl=TTL) for letter in "ab"]
    try:
        for machine in machines:
            await machine.start()
        pair = Pair(machines[0], machines[1], Proxy(gone.url))
        await pair.until(lambda: all(m.presence.lease for m in machines), "present")
        for number in range(4):
            await pair.put(f"u{number}.service", SLEEP)
        await pair.until(lambda: sum(len(m.systemd.active) for m in machines) == 4, "running")
        before = [dict(m.systemd.active) for m in machines]
        gone.kill()
        await asyncio.sleep(TTL * 2)
        assert [m.systemd.active for m in machines] == before
        gone.start()
        await asyncio.sleep(TTL * 2)
        await pair.put("new.service", SLEEP)
        await pair.until(lambda: any("new.service" in m.systemd.active for m in machines), "new unit", 20)
        for machine, held in zip(machines, before, strict=True):
            assert held.items() <= machine.systemd.active.items()
            assert not machine.systemd.stops
            assert all(count == 1 for count in machine.systemd.starts.values())
    finally:
        for machine in machines:
            await machine.stop()
        gone.stop()
