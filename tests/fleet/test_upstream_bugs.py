# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bugs of upstream 1.0.0 that no other file has a test for; docs/fleet-contract.md names the test of each."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeMachine, FakeSystemd
from support.etcd import EtcdProcess, etcd_or_skip

from flotilla_fleet.agent import Agent
from flotilla_fleet.config import Config
from flotilla_fleet.daemon import Daemon, own_unit
from flotilla_fleet.etcd import KV, Etcd, Json, RangeResult, TxnResult, Unreachable
from flotilla_fleet.memory import Memory
from flotilla_fleet.model import Assignment, encode_assignment
from flotilla_fleet.presence import Lease, now
from flotilla_fleet.registry import Keys
from flotilla_fleet.systemd import NO_SUCH_UNIT, Systemd, SystemdError
from flotilla_fleet.unitfile import parse_unit

ME = "a" * 32
TTL = 20
"""Seconds; longer than any test takes, so that nothing comes right because a lease has ended."""


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


async def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.02)


async def put(machine: FakeMachine, name: str) -> None:
    options = parse_unit("[Service]\nExecStart=/bin/sleep infinity\n")
    assert await machine.registry.put_unit(name, options, "launched", None)


# -- 1: started with an endpoint that refuses, it hangs for ever -------------------


def test_no_endpoint_is_a_guess() -> None:
    """Upstream's second default, port 4001, is one on which nothing has listened for years."""
    assert Config().etcd_servers == ("http://127.0.0.1:2379",)


async def test_an_endpoint_that_refuses_holds_up_no_start(etcd_process: EtcdProcess, tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for number, endpoints in enumerate(([dead, etcd_process.url], [etcd_process.url, dead], [dead, dead])):
            machine = FakeMachine("a", endpoints, tmp_path / str(number), TTL, f"/{tmp_path.name}{number}/")
            begun = time.monotonic()
            await machine.start()
            if endpoints[1] != endpoints[0]:
                await put(machine, "u.service")
                await until(lambda m=machine: "u.service" in m.systemd.active, "the unit runs")  # type: ignore[misc]
                assert time.monotonic() - begun < 5
            else:  # and without any that answers it goes on trying
                await asyncio.sleep(0.5)
                machine.etcd._endpoints[:] = [etcd_process.url, dead]
                await until(lambda m=machine: m.presence.lease, "registered")  # type: ignore[misc]
            await machine.stop()


# -- 2: a registration without an answer locks the machine out for the life of its lease ---


@pytest.mark.parametrize("committed", [True, False])
async def test_a_registration_without_an_answer_is_taken_up(
    etcd_process: EtcdProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    machine = FakeMachine("a", [etcd_process.url], tmp_path / "a", TTL, f"/{tmp_path.name}/")
    real, lost = Etcd.txn, []

    async def txn(
        self: Etcd, compares: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()
    ) -> TxnResult:
        if self is machine.etcd and not lost and any("presence" in machine_key(op) for op in success):
            lost.append(True)
            if committed:
                await real(self, compares, success, failure)
            raise Unreachable("no answer")
        return await real(self, compares, success, failure)

    monkeypatch.setattr(Etcd, "txn", txn)
    await machine.start()
    await until(lambda: machine.presence.lease, "registered", 5)
    assert lost
    key = await machine.etcd.get(machine.keys.presence(machine.id))
    assert key is not None
    assert machine.presence.lease is not None
    assert key.lease == machine.presence.lease.id
    await machine.stop()


def machine_key(operation: Json) -> str:
    import base64

    return base64.b64decode(operation.get("requestPut", {}).get("key", "")).decode()


# -- 3: a template that was started wedges the agent, also after a restart ----------


async def test_a_template_that_upstream_left_on_a_host_is_cleared_away(tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    for name in ("t2@.service", "notes.txt", "README"):
        (units / name).write_text("[Service]\nExecStart=/bin/true\n")
    rig = Rig(tmp_path)
    assert rig.agent.local == {}
    assert sorted(path.name for path in units.iterdir()) == ["README", "notes.txt"]
    await rig.agent.refresh()
    await rig.list("u.service")
    await until(lambda: "u.service" in rig.systemd.active, "others are served")


# -- 7 and 8: unloading ---------------------------------------------------------


class Deaf(Etcd):
    """Agrees to everything."""

    async def txn(self, compares: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()) -> TxnResult:
        return TxnResult(True, 1, (), 0)


class Rig:
    """An agent that is handed its assignments."""

    def __init__(self, folder: Path, systemd: FakeSystemd | None = None) -> None:
        self.units = folder / "units"
        self.systemd = systemd or FakeSystemd()
        etcd = Deaf(["http://127.0.0.1:1"])
        self.agent = Agent(ME, etcd, Keys("/t/"), self.systemd, self.units, Memory(folder / "memory"), 1.0)
        self.agent._lease = Lease(etcd, 1, 60, now())
        self.systemd.on_state = self.agent.on_state
        self.agent.systemd_is_up(True)

    async def list(self, *names: str) -> None:
        options = tuple(parse_unit("[Unit]\nDescription=Test\n"))
        texts = {name: encode_assignment(Assignment(name, options, "launched")).encode() for name in names}
        kvs = tuple(KV(f"/t/assign/{ME}/{name}", text, 1, 1) for name, text in texts.items())
        self.agent._take_listing(RangeResult(1, kvs))


class Stubborn(FakeSystemd):
    """systemd that will not let go of one unit."""

    held = "u3.service"

    async def disable(self, names: list[str]) -> None:
        if self.held in names:
            raise SystemdError("Access denied")
        await super().disable(names)


async def test_units_are_unloaded_together_and_one_that_cannot_be_holds_up_none(tmp_path: Path) -> None:
    systemd = Stubborn()
    rig = Rig(tmp_path, systemd)
    names = [f"u{number}.service" for number in range(30)]
    await rig.list(*names)
    await until(lambda: len(systemd.active) == 30, "started")
    begun = time.monotonic()
    await rig.list()
    await until(lambda: [path.name for path in rig.units.iterdir()] == [systemd.held], "the others are gone")
    assert time.monotonic() - begun < 2
    systemd.held = ""
    await until(lambda: not list(rig.units.iterdir()), "tried again")
    assert not rig.agent.local


async def test_what_systemd_has_forgotten_is_unloaded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends upstream's unloading on today's systemd: a stopped unit is not in memory when it is to be reset."""
    systemd = Systemd(lambda *_: None, lambda *_: None, lambda: None)
    asked: list[str] = []

    async def call(member: str, *_arguments: Any, **_options: Any) -> list[Any]:
        asked.append(member)
        raise SystemdError(f"{member}: Unit u.service not loaded.", NO_SUCH_UNIT)

    monkeypatch.setattr(systemd, "_manager", call)
    await systemd.stop("u.service")
    await systemd.reset_failed("u.service")
    assert asked == ["StopUnit", "ResetFailedUnit"]


@pytest.mark.parametrize("kind", ["target", "slice", "path", "swap", "scope", "socket"])
async def test_units_of_any_type_are_started_once_and_removed(tmp_path: Path, kind: str) -> None:
    name = f"u.{kind}"
    rig = Rig(tmp_path)
    await rig.list(name)
    await until(lambda: name in rig.systemd.active, "started")
    for _ in range(3):
        await rig.list(name)
        await asyncio.sleep(0.05)
    assert rig.systemd.calls["start"] == 1
    await rig.list()
    await until(lambda: not rig.agent.local, "removed")
    assert name not in rig.systemd.active
    assert not list(rig.units.iterdir())


# -- 12: a restart of the daemon stops all units ---------------------------------


CGROUP = "0::/system.slice/fleet.service\n"


@pytest.mark.parametrize(
    ("cgroup", "job", "connected", "final"),
    [
        (CGROUP, "stop", True, True),
        (CGROUP, "restart", True, False),
        (CGROUP, "", True, False),  # killed by hand: systemd starts it again
        (CGROUP, "stop", False, False),  # without D-Bus nothing could be stopped, nor is anything known
        ("0::/user.slice/session-1.scope\n", "stop", True, False),
    ],
)
async def test_a_stop_drains_and_a_restart_does_not(
    monkeypatch: pytest.MonkeyPatch, cgroup: str, job: str, connected: bool, final: bool
) -> None:
    class Manager:
        async def queued_job_type(self, name: str) -> str:
            assert name == "fleet.service"
            return job

    manager = Manager()
    manager.connected = connected  # type: ignore[attr-defined]
    daemon = Daemon.__new__(Daemon)
    daemon.systemd = manager  # type: ignore[assignment]
    monkeypatch.setattr("flotilla_fleet.daemon.read_own_cgroup", lambda: cgroup)
    assert await daemon._is_final_stop() is final


def test_the_own_unit_of_a_process() -> None:
    assert own_unit("1:name=systemd:/system.slice/fleet.service\n0::/system.slice/fleet.service\n") == "fleet.service"
    assert own_unit("0::/machine.slice/x.service/payload/system.slice/fleet.service\n") == "fleet.service"
    assert own_unit("0::/user.slice\n") == ""
