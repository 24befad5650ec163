# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may not be believed: another etcd, an older one, garbage in it, machines that vanish all at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes import FakeMachine
from memory_etcd import MemoryEtcd, Server
from proxy import Proxy
from support.etcd import EtcdProcess, etcd_or_skip
from test_scheduler import A, B, C, World, unit, world

from flotilla_fleet import engine as engines
from flotilla_fleet import presence
from flotilla_fleet.engine import BRAKE_LEAST, PAUSE, PAUSE_MOST, brake_of, next_pause
from flotilla_fleet.etcd import (
    Etcd,
    EtcdError,
    ForeignCluster,
    Unreachable,
    _keep_tcp_alive,
    nearest_first,
    op_delete,
    op_put,
    prefix_end,
)
from flotilla_fleet.memory import Memory
from flotilla_fleet.model import JobState, Machine, Target, encode_machine
from flotilla_fleet.pin import Known, Pin, accept, known_of, refusal
from flotilla_fleet.registry import Keys, Registry
from flotilla_fleet.store import StoreError
from flotilla_fleet.unitfile import parse_unit

SLEEP = "[Service]\nExecStart=/bin/sleep infinity\n"
TTL = 2


async def put(machine: FakeMachine, name: str, text: str = SLEEP, desired: JobState = "launched") -> None:
    view = await machine.registry.unit_view(name)
    assert await machine.registry.put_unit(name, parse_unit(text), desired, view.unit if view else None)


async def until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def active(*machines: FakeMachine) -> list[str]:
    return sorted(name for machine in machines for name in machine.systemd.active)


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


@pytest.fixture
async def pair(etcd_process: EtcdProcess, tmp_path: Path) -> AsyncIterator[list[FakeMachine]]:
    prefix = f"/{tmp_path.name}/"
    machines = [FakeMachine(x, [etcd_process.url], tmp_path / x, ttl=TTL, prefix=prefix) for x in "ab"]
    for machine in machines:
        await machine.start()
    await until(lambda: all(m.presence.lease for m in machines), "both present")
    yield machines
    for machine in machines:
        await machine.stop()


# -- another registry ----------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"cluster_id": 7, "revision": 9, "prefix": "/f/"}, Known(7, 9, "/f/")),
        ({}, Known()),
        ({"cluster_id": "7", "revision": 9, "prefix": "/f/"}, Known()),
        ({"cluster_id": 7, "revision": None, "prefix": "/f/"}, Known()),
    ],
)
def test_what_is_remembered(record: dict[str, object], expected: Known) -> None:
    assert known_of(record) == expected


def test_another_prefix_is_refused() -> None:
    assert refusal(Known(7, 9, "/f/"), "/f/") == ""
    assert refusal(Known(), "/f/") == ""
    assert "etcd_key_prefix is /g/ and this machine's units come from /f/" in refusal(Known(7, 9, "/f/"), "/g/")


@pytest.fixture
async def own(tmp_path: Path, etcd_process: EtcdProcess) -> AsyncIterator[tuple[EtcdProcess, list[FakeMachine]]]:
    """Two machines on an etcd of their own, with u0 and u1 running, of which a copy is in data.old."""
    etcd = EtcdProcess(etcd_process.program, tmp_path / "own", "--snapshot-count", "1000")
    etcd.start()
    machines = [FakeMachine(letter, [etcd.url], tmp_path / letter, ttl=TTL) for letter in "ab"]
    try:
        for machine in machines:
            await machine.start()
        for name in ("u0.service", "u1.service"):
            await put(machines[0], name)
        await until(lambda: active(*machines) == ["u0.service", "u1.service"], "running")
        await until(lambda: all(m.memory.read("registry") for m in machines), "remembered")
        yield etcd, machines
    finally:
        for machine in machines:
            await machine.stop()
        etcd.stop()


async def frozen(machine: FakeMachine) -> str:
    for _ in range(200):
        try:
            await machine.registry.unit_views()
        except StoreError as exc:
            if "fleetd --accept-registry" in str(exc):
                return str(exc)
        await asyncio.sleep(0.05)
    raise AssertionError("not frozen")


async def revision_of(url: str) -> int:
    client = Etcd([url])
    try:
        return (await client.range("/x")).revision
    finally:
        await client.close()


async def test_an_older_state_of_etcd_freezes_until_it_is_accepted(
    own: tuple[EtcdProcess, list[FakeMachine]],
) -> None:
    etcd, machines = own
    data = etcd.directory / "data"
    etcd.kill()
    shutil.copytree(data, etcd.directory / "old")
    etcd.start()
    await asyncio.sleep(1)  # connections of before are given up
    for name in ("u2.service", "u3.service"):
        await put(machines[0], name)
    everything = [f"u{number}.service" for number in range(4)]
    await until(lambda: active(*machines) == everything, "four running")
    etcd.kill()
    shutil.rmtree(data)
    (etcd.directory / "old").rename(data)
    etcd.start()
    for machine in machines:
        assert "went back in time" in await frozen(machine)
    # After the doubt only the operator's word counts; what leadership left behind has expired by then.
    await asyncio.sleep(3 * TTL)
    before = await revision_of(etcd.url)
    await machines[0].restart()  # nor does a new fleetd believe it
    assert "went back in time" in await frozen(machines[0])
    await asyncio.sleep(2 * TTL)
    assert active(*machines) == everything
    assert await revision_of(etcd.url) == before, "a frozen machine wrote, and would have brought etcd to where it was"
    stranger = Etcd([etcd.url])
    for _ in range(30):
        await stranger.txn([], [op_put("/of/somebody/else", "x")])
    await stranger.close()
    assert await revision_of(etcd.url) > machines[1].etcd.revision
    await asyncio.sleep(TTL)
    assert active(*machines) == everything
    assert not any(machine.engine.leading for machine in machines)
    for machine in machines:
        accept(machine.memory)
    await until(lambda: active(*machines) == ["u0.service", "u1.service"], "as the registry says", 30)
    for machine in machines:
        assert all(count == 1 for count in machine.systemd.starts.values())
    await put(machines[1], "u4.service")
    await until(lambda: "u4.service" in active(*machines), "new units run")


async def test_a_wiped_etcd_stops_nothing_even_after_a_restart(own: tuple[EtcdProcess, list[FakeMachine]]) -> None:
    etcd, machines = own
    await asyncio.sleep(1.5)
    for machine in machines:
        await machine.crash()
    etcd.kill()
    shutil.rmtree(etcd.directory / "data")
    etcd.start()
    for machine in machines:
        await machine.boot_again()
    for machine in machines:
        await frozen(machine)
    assert active(*machines) == ["u0.service", "u1.service"]


async def test_a_changed_prefix_stops_nothing(own: tuple[EtcdProcess, list[FakeMachine]]) -> None:
    _etcd, machines = own
    for machine in machines:
        await machine.crash()
        machine.keys = type(machine.keys)("/other/")
        await machine.boot_again()
        assert "etcd_key_prefix is /other/" in await frozen(machine)
    await asyncio.sleep(1)
    assert active(*machines) == ["u0.service", "u1.service"]


async def test_an_accepted_registry_is_remembered(tmp_path: Path, etcd_process: EtcdProcess) -> None:
    machine = FakeMachine("a", [etcd_process.url], tmp_path / "a", prefix=f"/{tmp_path.name}/")
    machine.memory.write("registry", {"cluster_id": 1, "revision": 2, "prefix": machine.keys.prefix})
    await machine.boot_again()
    assert "belongs to etcd cluster" in await frozen(machine)
    accept(Memory(machine.directory / "memory"))
    await until(lambda: machine.presence.lease is not None, "present")
    await until(lambda: machine.memory.read("registry").get("revision", 0) > 2, "remembered")
    assert not machine.memory.read("accept")
    await machine.restart()
    await until(lambda: machine.presence.lease is not None, "present again")
    await machine.stop()


async def test_one_stale_answer_is_no_reason_to_freeze(etcd_process: EtcdProcess) -> None:
    client = Etcd([etcd_process.url])
    known = await revision_of(etcd_process.url)
    client.revision = known + 1
    with pytest.raises(ForeignCluster):
        await client.get("/x")
    client.revision = known
    await client.txn([], [op_put("/x", "y")])
    assert client.refusal == ""
    await client.close()


# -- garbage -------------------------------------------------------------------

GARBAGE = "\x00\x01not a record{"


async def write(machine: FakeMachine, key: str) -> None:
    await machine.etcd.txn([], [op_put(key, GARBAGE)])


async def test_a_garbled_presence_moves_nothing_and_is_mended(pair: list[FakeMachine]) -> None:
    for number in range(4):
        await put(pair[0], f"u{number}.service")
    await until(lambda: len(active(*pair)) == 4, "running")
    for machine in pair:
        await write(machine, machine.keys.presence(machine.id))
    etcd = pair[0].etcd

    async def mended() -> bool:
        found = [await etcd.get(m.keys.presence(m.id)) for m in pair]
        return all(kv is not None and kv.lease and b"nonce" in kv.value for kv in found)

    end = time.monotonic() + 15
    while not await mended():
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    for machine in pair:
        assert not machine.systemd.stops
        assert all(count == 1 for count in machine.systemd.starts.values())


async def test_a_removed_presence_and_removed_states_come_back(pair: list[FakeMachine]) -> None:
    await put(pair[0], "u.service")
    await until(lambda: active(*pair) == ["u.service"], "running")
    place = next(m for m in pair if m.systemd.active)
    for _ in range(200):
        if await place.registry.states(unit="u.service"):
            break
        await asyncio.sleep(0.02)
    await write(place, place.keys.state(place.id, "u.service"))
    for _ in range(300):
        states = await pair[0].registry.states(unit="u.service")
        if states and states[0].active == "active":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the state was not mended")
    assert place.systemd.starts["u.service"] == 1
    assert not place.systemd.stops


async def test_a_garbled_leader_is_written_over(pair: list[FakeMachine]) -> None:
    await until(lambda: any(m.engine.leading for m in pair), "a leader")
    await write(pair[0], pair[0].keys.leader)
    await put(pair[0], "u.service")
    await until(lambda: active(*pair) == ["u.service"], "somebody leads again")


async def test_a_garbled_unit_stays_and_the_api_says_so(pair: list[FakeMachine]) -> None:
    for name in ("u.service", "v.service"):
        await put(pair[0], name)
    await until(lambda: active(*pair) == ["u.service", "v.service"], "running")
    keys, registry = pair[0].keys, pair[0].registry
    await write(pair[0], keys.unit("u.service"))
    await put(pair[0], "w.service")
    await until(lambda: "w.service" in active(*pair), "others are served")
    with pytest.raises(StoreError, match="destroyed and submitted again"):
        await registry.unit_view("u.service")
    assert [view.unit.name for view in await registry.unit_views()] == ["v.service", "w.service"]
    assert "u.service" in active(*pair)
    assert await registry.delete_unit("u.service") == ""
    await until(lambda: "u.service" not in active(*pair), "destroyed")


async def test_a_garbled_target_and_assignment_change_nothing(pair: list[FakeMachine]) -> None:
    await put(pair[0], "u.service")
    await until(lambda: active(*pair) == ["u.service"], "running")
    place = next(m for m in pair if m.systemd.active)
    await write(place, place.keys.target("u.service"))
    await write(place, place.keys.assign(place.id, "u.service"))
    await asyncio.sleep(1)
    assert place.systemd.starts["u.service"] == 1
    assert not place.systemd.stops
    await place.restart()
    await asyncio.sleep(1)
    assert not place.systemd.stops
    (state,) = await place.registry.states(unit="u.service")
    assert "not usable" in state.error
    assert state.active == "active"
    # The operator mends the one and removes the other, which the engine then writes anew.
    options = [["Service", "ExecStart", "/bin/sleep infinity"]]
    good = json.dumps({"desired": "launched", "options": options})
    await place.etcd.txn([], [op_put(place.keys.assign(place.id, "u.service"), good)])
    await place.etcd.txn([], [op_delete(place.keys.target("u.service"))])
    for _ in range(200):
        view = await place.registry.unit_view("u.service")
        if view is not None and view.target.machine == place.id:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("the target was not written anew")
    assert not place.systemd.stops
    assert active(*pair) == ["u.service"]


async def test_a_unit_that_cannot_be_installed_tells_why(pair: list[FakeMachine]) -> None:
    for machine in pair:
        (machine.directory / "units" / "u.service").mkdir()
        await machine.restart()
    await put(pair[0], "u.service")
    for _ in range(300):
        states = await pair[0].registry.states(unit="u.service")
        if states:
            break
        await asyncio.sleep(0.02)
    assert [(state.load, state.active, state.job) for state in states] == [("error", "failed", "inactive")]
    assert "u.service" in states[0].error
    await pair[0].registry.delete_unit("u.service")
    for _ in range(300):
        if not await pair[0].registry.states(unit="u.service"):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the state is left")


def test_units_on_a_machine_that_cannot_be_read_are_left_alone() -> None:
    w = world(unit("u.service"), unit("v.service", Conflicts="u.service"), machines="ab")
    place = w.where("u.service")
    del w.machines[place]
    w.frozen = frozenset({"u.service"})
    assert not w.step()
    assert w.where("u.service") == place


def test_a_frozen_unit_without_a_record_still_conflicts() -> None:
    w = world(unit("u.service"), machines="a")
    del w.units["u.service"]
    w.frozen = frozenset({"u.service"})
    w.units["v.service"] = unit("v.service", Conflicts="u.service")
    w.step()
    assert w.where("v.service") == ""
    assert w.assigns[A, "u.service"]


# -- many machines lost at once ------------------------------------------------


@pytest.mark.parametrize(
    ("known", "lost", "copies", "expected"),
    [
        (3, 0, 200, 0),
        (3, 1, 200, 0),
        (2, 1, 200, 0),  # half is not most
        (3, 2, 200, 134),
        (3, 2, 6, BRAKE_LEAST),
        (10, 5, 100, 0),
        (10, 6, 100, 20),
        (1, 1, 5, BRAKE_LEAST),
    ],
)
def test_the_brake(known: int, lost: int, copies: int, expected: int) -> None:
    assert brake_of(known, lost, copies) == expected


def test_a_stream_of_changes_is_planned_in_larger_and_larger_parts() -> None:
    pauses = [PAUSE]
    while len(pauses) < 6:
        pauses.append(next_pause(pauses[-1], left=0.01))
    assert pauses[1] == 2 * PAUSE
    assert pauses[-1] == PAUSE_MOST
    assert next_pause(PAUSE_MOST, left=-0.01) == PAUSE


def crowd(count: int) -> World:
    return world(*(unit(f"u{number:02d}.service") for number in range(count)))


def test_with_the_brake_on_a_survivor_takes_a_part_and_the_rest_waits_where_it_was() -> None:
    w = crowd(30)
    w.lose(B)
    w.lose(C)
    w.brake = 20
    w.step()
    held = [name for name in w.units if w.where(name) == A]
    assert len(held) == 20
    waiting = [name for name in w.units if w.where(name) in (B, C)]
    assert len(waiting) == 10
    for name in waiting:
        assert w.machines_with(name) == [w.where(name)]
        assert "most machines are lost" in w.why(name)
    assert not w.step()
    w.machines[B] = Machine(B)
    w.machines[C] = Machine(C)
    w.brake = 0
    w.settle()
    assert [name for name in waiting if w.where(name) not in (B, C)] == []
    assert all(w.targets[name] == Target(w.where(name)) for name in waiting)


def test_when_the_brake_is_released_the_rest_moves() -> None:
    w = crowd(30)
    w.lose(B)
    w.lose(C)
    w.brake = 20
    w.step()
    w.brake = 0
    w.settle()
    assert all(w.where(name) == A for name in w.units)


def test_the_brake_does_not_hold_up_new_units() -> None:
    w = crowd(30)
    w.lose(B)
    w.lose(C)
    w.brake = 20
    w.step()
    w.units["new.service"] = unit("new.service")
    w.step()
    assert w.where("new.service") == A


async def test_machines_whose_leases_end_one_after_the_other_are_lost_together_for_the_brake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the second is lost, the first one's units have left it, and it counts all the same."""
    server, keys = Server(), Keys("/t/")
    monkeypatch.setattr(engines, "presence_now", lambda: server.clock)
    for machine in (A, B, C):
        server.txn([], [op_put(keys.presence(machine), encode_machine(Machine(machine)), server.grant(1000))], [])
    registry = Registry(MemoryEtcd(server), keys)  # type: ignore[arg-type]
    for number in range(60):
        assert await registry.put_unit(f"u{number:02d}.service", parse_unit(SLEEP), "launched", None)
    engine = engines.Engine(MemoryEtcd(server), keys, "e", 1000, Memory(tmp_path), 5)  # type: ignore[arg-type]
    assert await engine._campaign()
    heard = await engine._begin()

    async def decide() -> dict[str, int]:
        nonlocal heard
        for event in server.events(keys.prefix, heard + 1):
            engine._enter(event)
        heard = server.revision
        await engine._apply(engine._plan().changes)
        listing = server.select("/t/assign/", prefix_end("/t/assign/"))
        return Counter(keys.split(kv.key)[1] for kv in listing)

    assert await decide() == {A: 20, B: 20, C: 20}
    server.revoke(server.keys[keys.presence(A)].lease)
    assert await decide() == {B: 30, C: 30}
    server.tick(2)
    server.revoke(server.keys[keys.presence(B)].lease)
    assert await decide() == {B: 20, C: brake_of(3, 2, 60)}
    server.tick(engines.BRAKE_SECONDS)
    assert await decide() == {C: 60}


# -- a fleetd that ends -------------------------------------------------------------


def lonely_engine(server: Server, tmp_path: Path) -> engines.Engine:
    return engines.Engine(MemoryEtcd(server), Keys("/t/"), "e", 1000, Memory(tmp_path), 5)  # type: ignore[arg-type]


async def test_an_engine_ends_although_a_machine_goes_in_that_moment(tmp_path: Path) -> None:
    """``wait_for`` of Python 3.11 would swallow the cancellation, and fleetd would never end."""
    engine = lonely_engine(Server(), tmp_path)
    deciding = asyncio.create_task(engine._decide())
    engine._news.set()
    await asyncio.sleep(0.01)  # it waits now for more that is to be planned together
    engine._hurry.set()
    await asyncio.sleep(0)  # what waits is done, and nobody has been told
    deciding.cancel()
    done, _pending = await asyncio.wait({deciding}, timeout=5)
    assert done


def test_nothing_waits_in_a_way_that_swallows_a_cancellation() -> None:
    """The hosts' Python may be 3.11, the one that runs this is newer and would not show it."""
    files = sorted(Path(engines.__file__).parent.glob("*.py"))
    assert files
    assert [path.name for path in files if "asyncio.wait_for(" in path.read_text()] == []


def test_no_limit_of_time_is_aiohttps() -> None:
    """Those of the hosts' aiohttp 3.8 leave a task marked as cancelled; a newer one, as here, would not show it."""
    lines = [line for path in Path(engines.__file__).parent.glob("*.py") for line in path.read_text().splitlines()]
    limits = [line.strip() for line in lines if "ClientTimeout(" in line or "sock_connect" in line]
    assert limits == ["no_limit = aiohttp.ClientTimeout(total=None)"]


async def test_an_engine_that_has_resigned_does_not_lead_again(tmp_path: Path) -> None:
    server = Server()
    engine = lonely_engine(server, tmp_path)
    running = asyncio.create_task(engine.run())
    for _look in range(500):
        if engine.leading:
            break
        await asyncio.sleep(0.01)
    await engine.resign()
    async with asyncio.timeout(5):
        await running
    assert engine.keys.leader not in server.keys
    assert not engine.leading


async def test_who_follows_another_registry_leads_when_others_had_time_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HOLD_SECONDS", 0.5)
    server, memory = Server(), Memory(tmp_path / "accepted")
    engine = lonely_engine(server, tmp_path)
    pin = Pin(engine.etcd, memory, engine.keys.prefix, accepted=engine.hold)
    accept(memory)
    reading = asyncio.create_task(pin.run())
    await asyncio.sleep(0)
    assert not memory.read("accept")
    begun = time.monotonic()
    assert await engine._campaign()
    assert time.monotonic() - begun > 0.4
    await engine.resign()
    reading.cancel()


async def test_leadership_that_comes_after_the_resignation_is_given_back(tmp_path: Path) -> None:
    server = Server()
    engine = lonely_engine(server, tmp_path)
    assert await engine._campaign()
    lease = server.keys[engine.keys.leader].lease
    await engine.resign()
    assert lease not in server.leases
    assert engine.keys.leader not in server.keys


# -- watching with a token ---------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", ""),
        ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", ""),
        ("no reason given", "old"),
    ],
)
async def test_a_watch_that_a_restarted_member_refuses_asks_for_another_token(
    monkeypatch: pytest.MonkeyPatch, reason: str, kept: str
) -> None:
    """Nothing else of the client may ever be refused: one that only watches would be refused for ever."""
    client = Etcd(["http://192.0.2.1:2379"], None, 1.0, "root", "secret")
    client._token = "old"

    async def opened(_endpoint: str, _body: object) -> contextlib.AsyncExitStack:
        return contextlib.AsyncExitStack()

    async def refused(_endpoint: str, _response: object) -> AsyncIterator[tuple[object, ...]]:
        yield ()
        raise EtcdError(f"the watch was cancelled: {reason}")

    monkeypatch.setattr(client, "_open_stream", opened)
    monkeypatch.setattr(client, "_batches", refused)
    with pytest.raises(EtcdError, match="cancelled"):
        async for _batch in client.watch("/a", 1):
            pass
    assert client._token == kept


class Behind:
    """An etcd that was emptied: it holds back what comes with the token of its past, and gives new ones."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.silent = False
        self.end = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.path} {request.headers.get('Authorization', '')}".strip())
        if self.silent or request.headers.get("Authorization") == "past":
            await self.end.wait()
        return web.json_response({"header": {"cluster_id": "1", "revision": "2"}, "token": "new"})


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Behind, Etcd]]:
    etcd = Behind()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", etcd.answer)
    async with TestServer(application) as server:
        client = Etcd([str(server.make_url("/"))] * 2, None, 0.3, "machine", "secret")
        yield etcd, client
        etcd.end.set()
        await client.close()


async def test_a_token_that_an_emptied_etcd_holds_back_is_replaced(behind: tuple[Behind, Etcd]) -> None:
    """It would be refused only when that etcd has written as much as the one before it."""
    etcd, client = behind
    client._token = "past"
    with pytest.raises(Unreachable):
        await client.range("/a")
    assert etcd.asked == ["/v3/kv/range past"] * 2
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await client.range("/a")
    assert etcd.asked[2:] == ["/v3/auth/authenticate", "/v3/kv/range new"]
    client._token = "past"
    with pytest.raises(Unreachable):
        await anext(client.watch("/a", 1))
    assert client._token == ""


async def test_who_waited_for_a_token_that_nobody_gives_does_not_wait_once_more(behind: tuple[Behind, Etcd]) -> None:
    etcd, client = behind
    etcd.silent = True
    begun = time.monotonic()
    failed = await asyncio.gather(*(client.range(f"/{number}") for number in range(6)), return_exceptions=True)
    assert [type(error) for error in failed] == [Unreachable] * 6
    assert time.monotonic() - begun < 1.2
    assert etcd.asked == ["/v3/auth/authenticate"] * 2
    etcd.silent = False
    await client.range("/a")
    assert client._token == "new"


# -- watching through a machine that dies -----------------------------------------


def test_a_member_of_ones_own_is_asked_first() -> None:
    servers = ["https://192.0.2.1:2379", "https://192.0.2.2:2379", "https://[2001:db8::3]:2379"]
    assert nearest_first(servers, "192.0.2.9") == servers
    assert nearest_first(servers, "192.0.2.2") == [servers[1], servers[0], servers[2]]
    assert nearest_first(servers, "2001:db8::3") == [servers[2], servers[0], servers[1]]
    assert nearest_first(["http://192.0.2.1:2379", "http://127.0.0.1:2379"], "") == [
        "http://127.0.0.1:2379",
        "http://192.0.2.1:2379",
    ]


def test_a_silent_stream_from_a_dead_machine_ends_before_any_lease_of_five_seconds() -> None:
    with socket.socket() as sock:
        transport = SimpleNamespace(get_extra_info=lambda _name: sock)
        _keep_tcp_alive(SimpleNamespace(connection=SimpleNamespace(transport=transport)))  # type: ignore[arg-type]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert idle + interval * count < 5


# -- renewals -----------------------------------------------------------------


async def test_a_late_answer_does_not_make_the_next_renewal_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """While etcd elects a leader an answer takes long; the lease counts from when it was asked for."""
    clock = 100.0
    sent: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    class Slow:
        async def lease_keepalive(self, _lease: int) -> int:
            nonlocal clock
            sent.append(clock)
            clock += [0.0, 1.5, 3.0, 0.0, 0.0][len(sent) - 1]
            return 0 if len(sent) == 5 else 6

    monkeypatch.setattr(presence, "now", lambda: clock)
    monkeypatch.setattr(presence.asyncio, "sleep", sleep)
    with pytest.raises(presence.LeaseLost):
        await presence.Lease(Slow(), 1, 6, clock).keep()  # type: ignore[arg-type]
    assert sent == pytest.approx([102, 104, 106, 109, 111])


# -- a machine in trouble ------------------------------------------------------


def test_a_machine_in_trouble_keeps_what_it_has_and_gets_nothing_new() -> None:
    w = world(unit("u0.service"), unit("u1.service"), unit("g.service", Global="true"), machines="ab")
    before = dict(w.targets)
    w.machines[A] = Machine(A, trouble="has lost its connection to systemd")
    assert not w.step()
    w.units["new.service"] = unit("new.service")
    w.units["only.service"] = unit("only.service", MachineID=A)
    w.units["g2.service"] = unit("g2.service", Global="true")
    w.step()
    assert w.where("new.service") == B
    assert "1 has lost its connection to systemd" in w.why("only.service")
    assert w.machines_with("g2.service") == [B]
    assert {name: w.targets[name] for name in before} == before
    w.machines[A] = Machine(A)
    w.settle()
    assert w.where("only.service") == A
    assert w.machines_with("g2.service") == [A, B]


async def test_trouble_is_told_at_once_and_taken_back(pair: list[FakeMachine]) -> None:
    pair[0].presence.tell_trouble("is not well")
    before = await pair[1].etcd.get(pair[0].keys.presence(pair[0].id))
    for number in range(3):
        await put(pair[1], f"u{number}.service")
        await asyncio.sleep(0.3)
    await until(lambda: len(pair[1].systemd.active) == 3, "all on the other machine")
    pair[0].presence.tell_trouble("")
    await asyncio.sleep(0.5)
    await put(pair[1], "v.service")
    await until(lambda: "v.service" in pair[0].systemd.active, "used again")
    after = await pair[1].etcd.get(pair[0].keys.presence(pair[0].id))
    assert before is not None
    assert after is not None
    assert before.create == after.create, "the machine was seen to leave"


# -- etcd out of reach, and out of space -----------------------------------------


async def test_a_call_ends_in_time_however_many_members_are_silent(etcd_process: EtcdProcess) -> None:
    proxies = [Proxy(etcd_process.url) for _ in range(5)]
    for proxy in proxies:
        await proxy.start()
        proxy.cut()
    client = Etcd([proxy.url for proxy in proxies], timeout=0.5)
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        await client.get("/x")
    assert time.monotonic() - begun < 1.5
    proxies[3].heal()
    await client.get("/x")
    await client.close()
    for proxy in proxies:
        await proxy.stop()


async def fill(client: Etcd) -> None:
    for number in range(100):
        await client.txn([], [op_put(f"/fill/{number}", "x" * 2**18)])


async def test_without_space_nothing_stops_and_the_api_names_the_cure(
    tmp_path: Path, etcd_process: EtcdProcess
) -> None:
    etcd = EtcdProcess(etcd_process.program, tmp_path / "small", "--quota-backend-bytes", str(16 * 2**20))
    etcd.start()
    machine = FakeMachine("a", [etcd.url], tmp_path / "a", ttl=TTL)
    client = Etcd([etcd.url])
    try:
        await machine.start()
        await put(machine, "u.service")
        await until(lambda: active(machine) == ["u.service"], "running")
        lease = machine.presence.lease
        assert lease is not None
        with pytest.raises(Unreachable, match="etcdctl alarm disarm"):
            await fill(client)
        with pytest.raises(StoreError, match="etcdctl alarm disarm"):
            await put(machine, "v.service")
        await asyncio.sleep(TTL * 1.5)
        for _ in range(2):
            await machine.restart()
            await until(lambda: machine.presence.lease is not None, "present")
            assert machine.presence.lease is not None
            assert machine.presence.lease.id == lease.id, "the lease was not taken up"
        await asyncio.sleep(TTL * 1.5)
        assert machine.presence.lease is not None
        assert machine.systemd.starts["u.service"] == 1
        assert not machine.systemd.stops
    finally:
        await client.close()
        await machine.stop()
        etcd.stop()


# -- the same machine twice ------------------------------------------------------


async def test_a_clone_is_refused_though_it_sees_the_same_boot_id(pair: list[FakeMachine], tmp_path: Path) -> None:
    await put(pair[0], "u.service", SLEEP + f"[X-Fleet]\nMachineID={pair[0].id}\n")
    await until(lambda: "u.service" in pair[0].systemd.active, "running")
    clone = FakeMachine("a", pair[0].endpoints, tmp_path / "clone", ttl=TTL, prefix=pair[0].keys.prefix)
    clone.ip, clone.boot = "192.0.2.200", pair[0].boot
    await clone.boot_again()
    try:
        await until(lambda: "cloned" in clone.presence.problem, "it says why")
        assert pair[0].ip in clone.presence.problem
        await asyncio.sleep(2 * TTL)
        assert clone.presence.lease is None
        assert not clone.systemd.calls["start"]
        assert not list((clone.directory / "units").iterdir())
        assert pair[0].systemd.starts["u.service"] == 1
        assert not pair[0].systemd.stops
    finally:
        await clone.stop()


async def test_a_machine_that_got_another_id_lets_its_old_one_go(pair: list[FakeMachine]) -> None:
    old = pair[0].keys.presence(pair[0].id)
    await pair[0].crash()
    pair[0].id = pair[1].id
    await pair[0].boot_again()
    await until(lambda: "cloned" in pair[0].presence.problem, "refused")
    for _ in range(200):
        if await pair[1].etcd.get(old) is None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the old id is kept alive")


async def test_a_machine_with_another_address_is_itself_still(pair: list[FakeMachine]) -> None:
    lease = pair[0].presence.lease
    assert lease is not None
    pair[0].ip = "192.0.2.99"
    pair[0].ttl = TTL + 1  # so that the lease cannot be taken up
    await pair[0].restart()
    await until(lambda: pair[0].presence.lease is not None, "present", 1.5)
