# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three whole machines (agent, engine, presence, registry) on a real etcd, with systemd in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeMachine
from support.etcd import EtcdProcess, etcd_or_skip

from flotilla_fleet.daemon import metrics_of
from flotilla_fleet.etcd import Etcd, op_put
from flotilla_fleet.model import JobState, Unit
from flotilla_fleet.unitfile import UnitOption, parse_unit

SLEEP = "[Service]\nExecStart=/bin/sleep infinity\n"
TTL = 2


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


class Cluster:
    def __init__(self, machines: dict[str, FakeMachine], etcd: Etcd) -> None:
        self.machines = machines
        self.etcd = etcd

    @property
    def registry(self):  # type: ignore[no-untyped-def]
        return next(iter(self.machines.values())).registry

    async def put(self, name: str, text: str = SLEEP, desired: JobState = "launched") -> None:
        registry = self.machines["a"].registry
        view = await registry.unit_view(name)
        assert await registry.put_unit(name, parse_unit(text), desired, view.unit if view else None)

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 15.0) -> float:
        start = time.monotonic()
        while not condition():
            assert time.monotonic() < start + seconds, f"{what}: not within {seconds} s"
            await asyncio.sleep(0.02)
        return time.monotonic() - start

    def running(self, name: str) -> list[str]:
        return sorted(letter for letter, m in self.machines.items() if name in m.systemd.active)

    async def until_running(self, name: str, count: int = 1) -> float:
        return await self.until(lambda: len(self.running(name)) == count, f"{name} running on {count}")

    async def until_states(self, name: str, count: int, active: str = "active") -> None:
        for _ in range(500):
            states = await self.machines["a"].registry.states(unit=name)
            if len([s for s in states if s.active == active]) == count:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{name}: {states}")

    def leaders(self) -> list[str]:
        return sorted(letter for letter, machine in self.machines.items() if machine.engine.leading)


@pytest.fixture
async def cluster(etcd_process: EtcdProcess, tmp_path: Path) -> AsyncIterator[Cluster]:
    prefix = f"/{tmp_path.name}/"
    machines = {
        letter: FakeMachine(letter, [etcd_process.url], tmp_path / letter, ttl=TTL, prefix=prefix) for letter in "abc"
    }
    for machine in machines.values():
        await machine.start()
    etcd = Etcd([etcd_process.url])
    made = Cluster(machines, etcd)
    await made.until(lambda: all(m.presence.lease for m in machines.values()), "three machines present")
    await made.until(lambda: len(made.leaders()) == 1, "a leader")
    yield made
    for machine in machines.values():
        await machine.stop()
    await etcd.close()


async def test_three_machines_and_units_spread_over_them(cluster: Cluster) -> None:
    for number in range(6):
        await cluster.put(f"u{number}.service")
    for number in range(6):
        await cluster.until_running(f"u{number}.service")
    assert sorted(len(m.systemd.active) for m in cluster.machines.values()) == [2, 2, 2]
    assert [m.id[0] for m in await cluster.registry.machines()] == ["a", "b", "c"]
    await cluster.until_states("u0.service", 1)
    view = await cluster.registry.unit_view("u0.service")
    assert view is not None
    assert view.current == "launched"


async def test_metrics_tell_who_leads_and_what_is_there(cluster: Cluster) -> None:
    await cluster.put("x.service")
    await cluster.until_running("x.service")
    found: dict[str, dict[str, float]] = {}
    for letter, machine in cluster.machines.items():
        lines = metrics_of(machine.engine, machine.agent, machine.presence, machine.etcd).render().splitlines()
        found[letter] = {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}
        assert "# TYPE fleet_engine_reconcile_count_total counter" in lines
    leaders = [letter for letter, values in found.items() if values["fleet_engine_leader_start_time"]]
    assert leaders == cluster.leaders()
    assert time.time() - 60 < found[leaders[0]]["fleet_engine_leader_start_time"] <= time.time()
    for name in ("fleet_engine_reconcile_count_total", "fleet_engine_writes_total"):
        assert [letter for letter, values in found.items() if values[name]] == leaders
    assert all(values["fleet_etcd_requests_total"] > 3 for values in found.values())
    assert all(values["fleet_machine_present"] == 1 for values in found.values())
    assert sorted(values["fleet_units"] for values in found.values()) == [0, 0, 1]
    assert {values[key] for values in found.values() for key in ("fleet_machine_frozen", "fleet_units_in_trouble")} == {
        0
    }


async def test_loaded_then_launched_then_destroyed(cluster: Cluster) -> None:
    await cluster.put("x.service", desired="loaded")
    await cluster.until_states("x.service", 1, "inactive")
    assert cluster.running("x.service") == []
    await cluster.put("x.service")
    await cluster.until_running("x.service")
    assert await cluster.registry.delete_unit("x.service") == Unit("x.service", tuple(parse_unit(SLEEP))).hash
    await cluster.until(lambda: cluster.running("x.service") == [], "stopped")
    await cluster.until_states("x.service", 0)
    for machine in cluster.machines.values():
        assert not list((machine.directory / "units").glob("x.service"))


async def test_a_dead_machine_loses_its_units_to_the_others_once(cluster: Cluster) -> None:
    for number in range(6):
        await cluster.put(f"u{number}.service")
    for number in range(6):
        await cluster.until_running(f"u{number}.service")
    victim = next(letter for letter in "abc" if letter not in cluster.leaders())
    starts = {letter: dict(m.systemd.starts) for letter, m in cluster.machines.items() if letter != victim}
    mine = set(cluster.machines[victim].systemd.active)
    await cluster.machines[victim].die()
    took = await cluster.until(lambda: all(cluster.running(name) for name in mine), "moved", seconds=TTL + 3)
    assert took < TTL + 2
    for letter, before in starts.items():
        now = cluster.machines[letter].systemd.starts
        assert {name: now[name] for name in before} == before, "a unit of another machine was started again"


async def test_the_leaders_death_is_survived(cluster: Cluster) -> None:
    await cluster.put("u.service")
    await cluster.until_running("u.service")
    leader = cluster.leaders()[0]
    await cluster.machines[leader].die()
    await cluster.until(lambda: len(cluster.leaders()) == 1 and cluster.leaders() != [leader], "another leader")
    await cluster.until_running("u.service")
    writer = cluster.machines[cluster.leaders()[0]].registry
    assert await writer.put_unit("v.service", parse_unit(SLEEP), "launched", None)
    await cluster.until_running("v.service")


async def test_a_restarted_fleetd_touches_no_unit_and_nobody_notices(cluster: Cluster) -> None:
    for number in range(6):
        await cluster.put(f"u{number}.service")
    for number in range(6):
        await cluster.until_running(f"u{number}.service")
    for letter, machine in cluster.machines.items():
        presence = await cluster.etcd.get(machine.keys.presence(machine.id))
        for _ in range(3):
            await machine.restart()
        await cluster.until(lambda m=machine: m.presence.lease is not None, "present again")  # type: ignore[misc]
        again = await cluster.etcd.get(machine.keys.presence(machine.id))
        assert presence is not None
        assert again is not None
        assert again.create == presence.create, f"machine {letter} was seen to leave"
    await asyncio.sleep(0.5)
    for machine in cluster.machines.values():
        assert all(count == 1 for count in machine.systemd.starts.values())
        assert not machine.systemd.stops


async def test_new_content_replaces_the_old_on_the_same_machine(cluster: Cluster) -> None:
    await cluster.put("u.service")
    await cluster.until_running("u.service")
    place = cluster.running("u.service")
    await cluster.put("u.service", "[Service]\nExecStart=/bin/sleep 77\n")
    await cluster.until(
        lambda: any("77" in m.systemd.active.get("u.service", "") for m in cluster.machines.values()), "new content"
    )
    assert cluster.running("u.service") == place


async def test_a_replaced_unit_never_vanishes_from_the_states(cluster: Cluster) -> None:
    """Upstream's /state loses the unit for up to seven seconds (no. 9 of its known bugs)."""
    await cluster.put("u.service")
    await cluster.until_states("u.service", 1)
    await cluster.put("u.service", "[Service]\nExecStart=/bin/sleep 77\n")
    for _ in range(40):
        assert len(await cluster.registry.states(unit="u.service")) == 1
        await asyncio.sleep(0.02)


async def test_a_moving_unit_is_stopped_before_it_starts_elsewhere(cluster: Cluster) -> None:
    await cluster.registry.patch_metadata([("a" * 32, "role", "db")])
    await cluster.put("m.service", SLEEP + "[X-Fleet]\nMachineMetadata=role=db\n")
    await cluster.until(lambda: cluster.running("m.service") == ["a"], "on a")
    a = cluster.machines["a"].systemd
    a.slow.add("m.service")
    a.let_stop.clear()
    await cluster.registry.patch_metadata([("b" * 32, "role", "db"), ("a" * 32, "role", "")])
    await cluster.until(lambda: a.calls["stop"] > 0, "stopping on a")
    await asyncio.sleep(0.5)
    assert cluster.running("m.service") == ["a"]
    a.let_stop.set()
    await cluster.until(lambda: cluster.running("m.service") == ["b"], "on b")


async def test_a_bad_unit_does_not_hold_up_good_ones(cluster: Cluster) -> None:
    for machine in cluster.machines.values():
        machine.systemd.broken.add("bad.service")
    await cluster.put("bad.service")
    await cluster.put("false.service", "[Service]\nExecStart=/bin/false\n")
    for number in range(5):
        await cluster.put(f"good{number}.service")
    for number in range(5):
        await cluster.until_running(f"good{number}.service")
    await cluster.until_states("false.service", 1, "failed")
    states = await cluster.registry.states(unit="bad.service")
    assert [s.load for s in states] == ["bad-setting"]


async def test_garbage_in_an_assignment_stops_nothing(cluster: Cluster) -> None:
    await cluster.put("u.service")
    await cluster.put("v.service")
    await cluster.until_running("u.service")
    await cluster.until_running("v.service")
    place = cluster.machines[cluster.running("u.service")[0]]
    for leader in cluster.leaders():
        await cluster.machines[leader].crash()
    await cluster.etcd.txn([], [op_put(place.keys.assign(place.id, "u.service"), "\x00garbage")])
    await asyncio.sleep(0.5)
    assert cluster.running("u.service")
    assert not place.systemd.stops


async def test_garbage_in_a_unit_freezes_it_where_it_runs(cluster: Cluster) -> None:
    await cluster.put("u.service")
    await cluster.until_running("u.service")
    keys = cluster.machines["a"].keys
    await cluster.etcd.txn([], [op_put(keys.unit("u.service"), "[]")])
    await cluster.put("v.service")
    await cluster.until_running("v.service")
    assert cluster.running("u.service")


async def test_many_units_need_few_calls_of_systemd(cluster: Cluster) -> None:
    for number in range(60):
        await cluster.put(f"u{number}.service")
    await cluster.until(lambda: sum(len(m.systemd.active) for m in cluster.machines.values()) == 60, "60 units")
    for machine in cluster.machines.values():
        assert machine.systemd.calls["reload"] == 0, "a new unit file needs no reload"


async def test_a_cloned_machine_is_refused_and_the_first_undisturbed(
    cluster: Cluster, etcd_process: EtcdProcess, tmp_path: Path
) -> None:
    clone = FakeMachine("a", [etcd_process.url], tmp_path / "clone", ttl=TTL, prefix=cluster.machines["a"].keys.prefix)
    clone.ip, clone.boot = "192.0.2.250", "boot-clone"
    clone.build()
    await clone.start()
    await asyncio.sleep(TTL * 1.5)
    assert clone.presence.lease is None
    assert "192.0.2.250" in clone.presence.problem
    assert cluster.machines["a"].ip in clone.presence.problem
    assert cluster.machines["a"].presence.lease is not None
    await clone.stop()


async def test_a_rebooted_machine_is_back_before_its_old_lease_ends(cluster: Cluster) -> None:
    await cluster.put("u.service", SLEEP + f"[X-Fleet]\nMachineID={'b' * 32}\n")
    await cluster.until(lambda: cluster.running("u.service") == ["b"], "on b")
    b = cluster.machines["b"]
    await b.die()
    await b.boot_again()
    await cluster.until(lambda: cluster.running("u.service") == ["b"], "running again on b")
    await asyncio.sleep(TTL + 1)
    assert cluster.running("u.service") == ["b"]
    assert b.systemd.starts["u.service"] == 1


async def test_an_engine_that_was_paused_writes_nothing(cluster: Cluster) -> None:
    """A zombie leader's transactions are refused, whatever it still believes."""
    leader = cluster.leaders()[0]
    zombie = cluster.machines[leader].engine
    await cluster.put("u.service")
    await cluster.until_running("u.service")
    epoch = zombie._epoch
    image = zombie.image
    await cluster.machines[leader].crash()
    await cluster.until(lambda: cluster.leaders() not in ([], [leader]), "another leader")
    zombie.etcd = cluster.etcd
    zombie._epoch = epoch
    from flotilla_fleet.model import Target
    from flotilla_fleet.scheduler import Change

    await zombie._apply([Change("u.service", Target("", "zombie"), unassign=(image.targets["u.service"].machine,))])
    view = await cluster.machines[cluster.leaders()[0]].registry.unit_view("u.service")
    assert view is not None
    assert view.target.reason != "zombie"
    assert cluster.running("u.service")


def test_options_survive_the_way_through_etcd() -> None:
    from flotilla_fleet.model import Unit, decode_unit, encode_unit

    unit = Unit("u.service", (UnitOption("Service", "ExecStart", '/bin/echo ä \\\n\t"x"'),), "loaded")
    assert decode_unit("k", "u.service", encode_unit(unit)) == unit
