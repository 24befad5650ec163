# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleetctl, the API, the engine and the agents together, on a real etcd, with systemd in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from fakes import FakeMachine
from support.etcd import EtcdProcess, etcd_or_skip

from flotilla_fleet.api import make_app, make_runner
from flotilla_fleet.ctl.main import main
from flotilla_fleet.question import Answer, Question
from flotilla_fleet.registry import Registry

WEB = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nConflicts=web@*.service\n"


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


class AnsweringRegistry(Registry):
    """The registry of a machine, with the systemds in memory answering what the real ones would be asked."""

    def __init__(self, machines: list[FakeMachine]) -> None:
        super().__init__(machines[0].etcd, machines[0].keys)
        self.by_id = {machine.id: machine.systemd for machine in machines}

    async def ask(self, machine: str, question: Question) -> AsyncIterator[Answer]:
        assert question.what == "restart"
        systemd = self.by_id[machine]
        await systemd.stop(question.unit)
        await systemd.start(question.unit)
        yield Answer("", 0)


class Fleet:
    """Three machines, the API of the first, and fleetctl in a thread."""

    def __init__(self, machines: list[FakeMachine], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.machines = machines
        self.folder = folder
        self._capfd = capfd

    async def ctl(self, *words: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        status = await asyncio.to_thread(main, [f"--endpoint=unix://{self.folder}/fleet.sock", *words])
        return status, *self._capfd.readouterr()

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
async def fleet(etcd_process: EtcdProcess, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[Fleet]:
    prefix = f"/{tmp_path.name}/"
    machines = [FakeMachine(letter, [etcd_process.url], tmp_path / letter, ttl=2, prefix=prefix) for letter in "abc"]
    for machine in machines:
        await machine.start()
    deadline = time.monotonic() + 15
    while not (all(m.presence.lease for m in machines) and any(m.engine.leading for m in machines)):
        assert time.monotonic() < deadline, "the machines did not find together"
        await asyncio.sleep(0.02)
    runner = make_runner(make_app(AnsweringRegistry(machines), machines[0].id))
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "fleet.sock")).start()
    yield Fleet(machines, tmp_path, capfd)
    await runner.cleanup()
    for machine in machines:
        await machine.stop()


async def test_from_submit_to_destroy(fleet: Fleet) -> None:
    template = fleet.write("web@.service", WEB)
    assert await fleet.ctl("submit", template) == (0, "Unit web@.service inactive\n", "")
    status, out, err = await fleet.ctl("start", "web@1", "web@2", "web@3")
    assert (status, err) == (0, "")
    assert len({line.split(" on ")[1] for line in out.splitlines()}) == 3
    assert [len(machine.systemd.active) for machine in fleet.machines] == [1, 1, 1]

    status, out, err = await fleet.ctl("start", "web@4")
    assert (status, out) == (1, "")
    assert err.startswith("Unit web@4.service cannot be scheduled: ")
    assert (await fleet.ctl("destroy", "web@4", "web@3"))[0] == 0

    status, out, _err = await fleet.ctl("list-units", "--no-legend", "--fields=unit,active,sub")
    shown = [line.split("\t") for line in out.splitlines() if "web@3" not in line]
    assert shown == [["web@1.service", "active", "running"], ["web@2.service", "active", "running"]]

    status, out, err = await fleet.ctl("stop", "web@1")
    assert (status, err) == (0, "Successfully stopped units [web@1.service].\n")
    assert not any("web@1.service" in machine.systemd.active for machine in fleet.machines)
    assert (await fleet.ctl("start", "web@1"))[0] == 0
    assert (await fleet.ctl("restart", "web@1", "web@2"))[0] == 0
    starts = [sum(machine.systemd.starts[f"web@{n}.service"] for machine in fleet.machines) for n in (1, 2)]
    assert starts == [3, 2]

    fleet.write("web@.service", WEB.replace("infinity", "1000"))
    status, out, err = await fleet.ctl("start", "--replace", str(fleet.folder / "web@1"))
    assert (status, err) == (0, "")
    assert "sleep 1000" in (await fleet.ctl("cat", "web@1"))[1]
    states = await fleet.machines[0].registry.states(unit="web@1.service")
    view = await fleet.machines[0].registry.unit_view("web@1.service")
    assert view is not None
    assert [state.hash for state in states] == [view.unit.hash]

    assert (await fleet.ctl("unload", "web@1", "web@2"))[0] == 0
    assert [sorted(machine.systemd.active) for machine in fleet.machines] == [[], [], []]
    assert (await fleet.ctl("destroy", "--block-attempts=5", "web@1", "web@2", "web@"))[0] == 0
    assert (await fleet.ctl("list-unit-files", "--no-legend"))[1] == ""


async def test_a_start_takes_no_longer_than_the_cluster_does(fleet: Fleet) -> None:
    path = fleet.write("one.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    started = time.monotonic()
    assert (await fleet.ctl("start", path))[0] == 0
    # Looking every 5 s, or a lost event, would show here; on an idle machine this is a tenth of a second.
    assert time.monotonic() - started < 2.5


async def test_a_unit_waits_for_its_machine_no_longer_than_needed(fleet: Fleet) -> None:
    """The reason goes away within the grace when the machine's metadata is set."""
    path = fleet.write("picky.service", "[Service]\nExecStart=/bin/true\n[X-Fleet]\nMachineMetadata=disk=ssd\n")
    waiting = asyncio.create_task(fleet.ctl("start", path))
    await asyncio.sleep(0.5)
    await fleet.machines[1].registry.patch_metadata([(fleet.machines[1].id, "disk", "ssd")])
    status, out, err = await waiting
    assert (status, err) == (0, "")
    assert out.startswith(f"Unit picky.service launched on {fleet.machines[1].id[:8]}")


async def test_a_machine_is_emptied_and_used_again(fleet: Fleet) -> None:
    names = [f"web@{number}" for number in (1, 2, 3)]
    assert (await fleet.ctl("submit", fleet.write("web@.service", WEB)))[0] == 0
    pinned = fleet.write("pin.service", "[Service]\nExecStart=/bin/true\n[X-Fleet]\nMachineMetadata=disk=ssd\n")
    machine = fleet.machines[2]
    assert (await fleet.ctl("metadata", machine.id, "disk=ssd"))[:2] == (0, "disk=ssd\n")
    assert (await fleet.ctl("start", *names, pinned))[0] == 0
    assert len(machine.systemd.active) == 2

    status, out, err = await fleet.ctl("drain", machine.id[:8])
    assert (status, out) == (0, f"Machine {machine.id[:8]}.../{machine.ip} is drained\n")
    assert not machine.systemd.active
    assert "Unit pin.service has no other place: none of 3 machines fits" in err
    assert "is being drained" in (await fleet.ctl("list-units", "--fields=unit,reason"))[1]
    status, out, err = await fleet.ctl("restart", "pin")
    assert (status, out) == (1, "")
    assert err.startswith("Unit pin.service does not appear to be loaded: none of 3 machines fits")

    assert (await fleet.ctl("undrain", machine.id[:8]))[0] == 0
    assert (await fleet.ctl("start", *names, "pin"))[0] == 0
    assert len(machine.systemd.active) == 2
    assert "REASON" not in (await fleet.ctl("list-units"))[1]
