# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of fleet against this collection's fleet: API, engine and agents on a real etcd, systemd in memory."""

from __future__ import annotations

import asyncio
import sys
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _fleet_unit
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import run_module as run_module
from support.etcd import etcd_or_skip
from support.fleet_modules import TEXT, Run, life_of_a_unit, template_and_global

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fleet"))

from api_server import Server
from fakes import FakeMachine

pytestmark = pytest.mark.etcd


class Cluster:
    """Three machines, and the API of the first of them on a socket."""

    def __init__(self, server: Server, machines: dict[str, FakeMachine]) -> None:
        self.server = server
        self.machines = machines

    @property
    def endpoint(self) -> str:
        return f"unix://{self.server.path}"

    def do(self, work: t.Coroutine[t.Any, t.Any, t.Any]) -> t.Any:
        return asyncio.run_coroutine_threadsafe(work, self.server.loop).result(20)

    def running(self, name: str) -> list[str]:
        return [letter for letter, machine in self.machines.items() if name in machine.systemd.active]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("fleet")
    for etcd in etcd_or_skip(directory / "etcd"):
        machines = {letter: FakeMachine(letter, [etcd.url], directory / letter) for letter in "abc"}
        with Server(machines["a"].registry, directory / "fleet.sock") as server:
            made = Cluster(server, machines)
            for machine in machines.values():
                made.do(machine.start())
            yield made
            for machine in machines.values():
                made.do(machine.stop())


@pytest.fixture(autouse=True)
def only_events_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the API's events be missing or late, the tests would take longer than they may."""
    monkeypatch.setattr(_fleet_unit, "_POLL_SECONDS", 30.0)


def test_machines_are_there(cluster: Cluster, run_module: Run) -> None:
    end = time.monotonic() + 20
    while True:
        found = run_module("fleet_machine_info", endpoint=cluster.endpoint)["machines"]
        if len(found) == 3 or time.monotonic() > end:
            break
        time.sleep(0.1)
    assert [machine["primary_ip"] for machine in found] == ["192.0.2.97", "192.0.2.98", "192.0.2.99"]


def test_the_life_of_a_unit(cluster: Cluster, run_module: Run) -> None:
    life_of_a_unit(run_module, cluster.endpoint, cluster.running, lambda machine_id: machine_id[0])


def test_a_template_its_instances_and_a_global_unit_in_one_call(cluster: Cluster, run_module: Run) -> None:
    template_and_global(run_module, cluster.endpoint, cluster.running, "abc")


def test_a_unit_that_fits_nowhere_ends_with_the_reason(cluster: Cluster, run_module: Run) -> None:
    text = TEXT + "[X-Fleet]\nMachineMetadata=disk=ssd\n"
    result = run_module("fleet_unit", endpoint=cluster.endpoint, name="picky", content=text, timeout=2)
    assert "unit picky.service is not launched: current state inactive, because " in result["msg"]
    assert "disk" in result["msg"]
    assert run_module("fleet_unit", endpoint=cluster.endpoint, name="picky", state="absent")["changed"] is True


def test_a_hundred_units_in_one_call(cluster: Cluster, run_module: Run) -> None:
    units = [{"name": f"u{number}", "content": TEXT} for number in range(100)]
    result = run_module("fleet_unit", endpoint=cluster.endpoint, units=units)
    assert "msg" not in result, result["msg"]
    assert {unit["current_state"] for unit in result["units"]} == {"launched"}
    assert run_module("fleet_unit", endpoint=cluster.endpoint, units=units)["changed"] is False
    gone = [{"name": unit["name"], "state": "absent"} for unit in units]
    run_module("fleet_unit", endpoint=cluster.endpoint, units=gone)
    assert run_module("fleet_unit_info", endpoint=cluster.endpoint)["units"] == []


def test_a_machine_is_drained_and_comes_back(cluster: Cluster, run_module: Run) -> None:
    units = [{"name": f"d{number}", "content": TEXT} for number in range(3)]
    run_module("fleet_unit", endpoint=cluster.endpoint, units=units)
    machine = next(unit["machine_id"] for unit in run_module("fleet_unit_info", endpoint=cluster.endpoint)["units"])
    drained = run_module("fleet_machine", endpoint=cluster.endpoint, machine=machine, drained=True, timeout=20)
    assert (drained["changed"], drained["homeless"]) == (True, {})
    found = run_module("fleet_unit_info", endpoint=cluster.endpoint)["units"]
    assert machine not in {unit["machine_id"] for unit in found}
    listed = run_module("fleet_machine_info", endpoint=cluster.endpoint)["machines"]
    assert [one["id"] for one in listed if one["draining"]] == [machine]
    back = run_module(
        "fleet_machine", endpoint=cluster.endpoint, machine=machine, drained=False, metadata={"rack": "12"}
    )
    assert (back["machine"]["draining"], back["machine"]["metadata"]["rack"]) == (False, "12")
    again = run_module(
        "fleet_machine", endpoint=cluster.endpoint, machine=machine, drained=False, metadata={"rack": "12"}
    )
    assert again["changed"] is False
    run_module("fleet_machine", endpoint=cluster.endpoint, machine=machine, metadata={"rack": ""})
    gone = [{"name": unit["name"], "state": "absent"} for unit in units]
    run_module("fleet_unit", endpoint=cluster.endpoint, units=gone)


def test_an_api_without_its_etcd_is_one_sentence(
    run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.flotilla.cluster.plugins.module_utils import _fleet

    monkeypatch.setattr(_fleet, "UNAVAILABLE_SECONDS", 1.0)
    alone = FakeMachine("z", ["http://127.0.0.1:1"], tmp_path / "z")
    with Server(alone.registry, tmp_path / "fleet.sock") as server:
        result = run_module("fleet_machine_info", endpoint=f"unix://{server.path}")
        asyncio.run_coroutine_threadsafe(alone.etcd.close(), server.loop).result(10)
    assert "(status 503); check that etcd is up and that fleetd may reach it" in result["msg"]
