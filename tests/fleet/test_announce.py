# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where services are: what a machine announces, the API for it, the sidekick of a container, and files that follow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from api_server import MACHINE_ID, UnixConnection
from api_server import Server as ApiServer
from memory_etcd import MemoryEtcd, Server
from memory_store import MemoryStore

from flotilla_fleet.announce import Announcement, AnnouncementError, Bulletin, check
from flotilla_fleet.ctl.announce import Place, whereabouts
from flotilla_fleet.ctl.errors import CtlError
from flotilla_fleet.ctl.follow import parse, read_template, render, services_of
from flotilla_fleet.registry import Keys
from flotilla_fleet.store import StoreError

KEYS = Keys("/f/")
ME = "a" * 32
FLEET = Path(__file__).resolve().parents[2] / "fleet"


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# -- what a machine announces -------------------------------------------------------


@pytest.fixture
def etcd() -> Server:
    return Server()


@contextlib.asynccontextmanager
async def bulletin_of(client: MemoryEtcd, machine: str = ME, ttl: int = 5) -> AsyncIterator[Bulletin]:
    made = Bulletin(client, KEYS, machine, "192.0.2.1", ttl)  # type: ignore[arg-type]
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_is_there_as_long_as_it_is_announced(etcd: Server) -> None:
    async with bulletin_of(MemoryEtcd(etcd)) as board:
        async with board.announce("web", "web@1.service", "192.0.2.1", 80) as told:
            await asyncio.wait_for(told.wait(), 5)
            [kv] = etcd.select("/f/announce/", b"/f/announce0")
            assert (kv.key, json.loads(kv.value)) == (
                f"/f/announce/{ME}/web/web@1.service",
                {"address": "192.0.2.1", "port": 80},
            )
            assert kv.lease in etcd.leases
            assert await board.read() == (Announcement("web", "web@1.service", ME, "192.0.2.1", 80),)
        await until(lambda: not etcd.select("/f/announce/", b"/f/announce0"))
        # without anything to announce there is nothing to renew
        await until(lambda: not etcd.leases)


async def test_the_keys_of_a_machine_that_died_end_with_its_lease(etcd: Server) -> None:
    async with (
        bulletin_of(MemoryEtcd(etcd)) as board,
        board.announce("web", "web@1.service", "192.0.2.1", 80) as told,
    ):
        await asyncio.wait_for(told.wait(), 5)
        # a fleetd that is stopped does not take back what it told
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    assert etcd.select("/f/announce/", b"/f/announce0")
    etcd.tick(4.9)
    assert etcd.select("/f/announce/", b"/f/announce0")
    etcd.tick(0.2)
    assert not etcd.select("/f/announce/", b"/f/announce0")


async def test_a_lease_that_was_lost_is_replaced_with_all_keys(etcd: Server) -> None:
    async with (
        bulletin_of(MemoryEtcd(etcd), ttl=2) as board,
        board.announce("web", "web@1.service", "192.0.2.1", 80),
        board.announce("web", "web@2.service", "192.0.2.1", 81),
    ):
        await until(lambda: len(etcd.select("/f/announce/", b"/f/announce0")) == 2)
        [lease] = etcd.leases
        etcd.revoke(lease)
        await until(lambda: len(etcd.select("/f/announce/", b"/f/announce0")) == 2 and lease not in etcd.leases)


async def test_what_ends_while_etcd_is_away_is_removed_when_it_is_back(etcd: Server) -> None:
    client = MemoryEtcd(etcd)
    async with bulletin_of(client) as board, board.announce("web", "web@2.service", "192.0.2.1", 81):
        async with board.announce("web", "web@1.service", "192.0.2.1", 80) as told:
            await asyncio.wait_for(told.wait(), 5)
            client.down = True
        await asyncio.sleep(0.05)
        assert len(etcd.select("/f/announce/", b"/f/announce0")) == 2
        client.down = False
        await until(
            lambda: (
                [kv.key for kv in etcd.select("/f/announce/", b"/f/announce0")]
                == [f"/f/announce/{ME}/web/web@2.service"]
            )
        )


async def test_a_put_whose_answer_was_lost_leaves_no_key_behind(etcd: Server) -> None:
    client = MemoryEtcd(etcd)
    async with bulletin_of(client) as board, board.announce("web", "web@2.service", "192.0.2.1", 81) as other:
        await asyncio.wait_for(other.wait(), 5)
        client.lose = 1
        async with board.announce("web", "web@1.service", "192.0.2.1", 80):
            await until(lambda: client.lose == 0)
        await until(lambda: len(etcd.select("/f/announce/", b"/f/announce0")) == 1)


async def test_who_announces_anew_is_told_and_the_one_before_takes_nothing_back(etcd: Server) -> None:
    async with bulletin_of(MemoryEtcd(etcd)) as board:
        first = board.announce("web", "web@1.service", "192.0.2.1", 80)
        await asyncio.wait_for((await first.__aenter__()).wait(), 5)
        async with board.announce("web", "web@1.service", "192.0.2.1", 80) as told:
            await asyncio.wait_for(told.wait(), 5)
            await first.__aexit__(None, None, None)
            await asyncio.sleep(0.05)
            assert len(etcd.select("/f/announce/", b"/f/announce0")) == 1


async def test_all_listeners_follow_what_all_machines_announce(etcd: Server) -> None:
    async with (
        bulletin_of(MemoryEtcd(etcd)) as here,
        bulletin_of(MemoryEtcd(etcd), "b" * 32) as there,
        here.listen() as one,
        here.listen() as two,
    ):
        await asyncio.wait_for(asyncio.gather(one.wait(), two.wait()), 5)
        assert here.found == ()
        one.clear()
        async with there.announce("web", "web@1.service", "192.0.2.2", 80):
            await asyncio.wait_for(one.wait(), 5)
            assert here.found == (Announcement("web", "web@1.service", "b" * 32, "192.0.2.2", 80),)
            async with here.listen() as late:
                assert late.is_set()
        await until(lambda: here.found == ())


async def test_while_etcd_is_away_what_was_told_stays(etcd: Server) -> None:
    client = MemoryEtcd(etcd)
    async with bulletin_of(client) as board, board.announce("web", "web@1.service", "192.0.2.1", 80) as told:
        await asyncio.wait_for(told.wait(), 5)
        async with board.listen() as news:
            await until(lambda: bool(board.found))
            news.clear()
            client.down = True
            await asyncio.sleep(0.1)
            assert board.found
            assert not news.is_set()
            with pytest.raises(StoreError):
                await board.read()


async def test_a_record_that_makes_no_sense_is_left_out(etcd: Server) -> None:
    client = MemoryEtcd(etcd)
    from flotilla_fleet.etcd import op_put

    for index, text in enumerate(("", "[]", '{"address":"x","port":1}', '{"address":"192.0.2.1","port":70000}')):
        await client.txn([], [op_put(f"/f/announce/{ME}/web/w{index}.service", text)])
    await client.txn([], [op_put(f"/f/announce/{ME}", "{}")])
    async with bulletin_of(client) as board:
        assert await board.read() == ()


@pytest.mark.parametrize(
    ("service", "unit", "address", "port", "words"),
    [
        ("Web", "web.service", "192.0.2.1", "80", "service is"),
        ("we/b", "web.service", "192.0.2.1", "80", "service is"),
        ("web", "web", "192.0.2.1", "80", "unit is"),
        ("web", "../web.service", "192.0.2.1", "80", "unit is"),
        ("web", "web.service", "example.test", "80", "no IP address"),
        ("web", "web.service", "192.0.2.1", "0", "1 to 65535"),
        ("web", "web.service", "192.0.2.1", "65536", "1 to 65535"),
        ("web", "web.service", "192.0.2.1", "٣", "1 to 65535"),
        ("web", "web.service", "192.0.2.1", "", "1 to 65535"),
    ],
)
def test_what_cannot_be_announced(service: str, unit: str, address: str, port: str, words: str) -> None:
    with pytest.raises(AnnouncementError, match=words):
        check(service, unit, address, port)


# -- the API ---------------------------------------------------------------------


@contextlib.contextmanager
def served(etcd: Server, path: Path) -> Iterator[tuple[ApiServer, MemoryEtcd]]:
    client = MemoryEtcd(etcd)
    board = Bulletin(client, KEYS, MACHINE_ID, "192.0.2.7")  # type: ignore[arg-type]
    with ApiServer(MemoryStore(), path, bulletin=board) as server:
        task = asyncio.run_coroutine_threadsafe(board.run(), server.loop)
        try:
            yield server, client
        finally:
            task.cancel()


@pytest.fixture
def api(etcd: Server, tmp_path: Path) -> Iterator[tuple[ApiServer, MemoryEtcd]]:
    with served(etcd, tmp_path / "fleet.sock") as found:
        yield found


class Held:
    """A request whose answer goes on for as long as it is held."""

    def __init__(self, server: ApiServer, method: str, query: str) -> None:
        self.connection = UnixConnection(server.path)
        self.connection.request(method, f"/fleet/v1/announcements?{query}")
        self.response = self.connection.getresponse()

    def line(self) -> Any:
        while not (line := self.response.readline()).strip():
            pass
        return json.loads(line)

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@pytest.fixture
def hold(api: tuple[ApiServer, MemoryEtcd]) -> Iterator[Callable[[str, str], Held]]:
    made: list[Held] = []

    def call(method: str, query: str) -> Held:
        made.append(Held(api[0], method, query))
        return made[-1]

    yield call
    for held in made:
        held.close()


Hold = Callable[[str, str], Held]


def keys_in(etcd: Server) -> list[str]:
    return [kv.key.removeprefix(f"/f/announce/{MACHINE_ID}/") for kv in etcd.select("/f/announce/", b"/f/announce0")]


def test_an_announcement_is_its_connection(api: tuple[ApiServer, MemoryEtcd], etcd: Server, hold: Hold) -> None:
    server, _client = api
    held = hold("POST", "service=web&unit=web@1.service&port=8080")
    assert held.response.status == 200
    assert held.line() == {"announced": True}
    listed = server.call("GET", "/fleet/v1/announcements").json["announcements"]
    expected = {"address": "192.0.2.7", "machine": MACHINE_ID, "port": 8080}
    assert listed == [{**expected, "service": "web", "unit": "web@1.service"}]
    assert server.call("GET", "/fleet/v1/announcements?service=db").json == {"announcements": []}
    held.close()
    wait_until(lambda: not keys_in(etcd), 2)


def test_a_fleetd_that_ends_lets_its_clients_go_at_once_and_leaves_the_keys(etcd: Server, tmp_path: Path) -> None:
    with served(etcd, tmp_path / "fleet.sock") as (server, _client):
        held = Held(server, "POST", "service=web&unit=web@1.service&port=8080")
        wait_until(lambda: bool(keys_in(etcd)))
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    held.response.read()
    held.close()
    assert keys_in(etcd) == ["web/web@1.service"]


def test_followers_get_all_of_it_with_each_change(hold: Hold) -> None:
    follower = hold("GET", "watch=1&service=web")

    def next_units() -> list[str]:
        return [item["unit"] for item in follower.line()["announcements"]]

    assert next_units() == []
    one = hold("POST", "service=web&unit=web@1.service&port=8080")
    assert next_units() == ["web@1.service"]
    hold("POST", "service=db&unit=db.service&port=5432")
    hold("POST", "service=web&unit=web@2.service&port=8080")
    assert next_units() == ["web@1.service", "web@2.service"]
    one.close()
    assert next_units() == ["web@2.service"]


def test_requests_that_make_no_sense(api: tuple[ApiServer, MemoryEtcd]) -> None:
    server, client = api
    assert server.call("POST", "/fleet/v1/announcements?service=web&unit=web.service").status == 400
    assert "service is" in server.call("POST", "/fleet/v1/announcements?unit=web.service&port=1").message
    assert server.call("PUT", "/fleet/v1/announcements").status == 405
    client.down = True
    assert server.call("GET", "/fleet/v1/announcements").status == 503


# -- the sidekick ------------------------------------------------------------------

RUNNING: dict[str, Any] = {
    "State": {"Running": True, "Status": "running", "Health": {"Status": "healthy"}},
    "HostConfig": {"NetworkMode": "bridge"},
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8085"}], "90/tcp": None}},
}


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    return {**RUNNING, **{key: {**RUNNING[key], **value} for key, value in parts.items()}}


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (RUNNING, Place("", 8085)),
        (changed(State={"Health": None}), Place("", 8085)),
        (changed(HostConfig={"NetworkMode": "host"}, NetworkSettings={"Ports": {}}), Place("", 80)),
        (
            changed(NetworkSettings={"Ports": {"80/tcp": [{"HostIp": "192.0.2.9", "HostPort": "1"}]}}),
            Place("192.0.2.9", 1),
        ),
        (
            changed(
                NetworkSettings={
                    "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}, {"HostIp": "::", "HostPort": "2"}]}
                }
            ),
            Place("", 2),
        ),
    ],
)
def test_where_a_container_answers(container: dict[str, Any], expected: Place) -> None:
    assert whereabouts(container, 80) == expected


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (None, "no container"),
        (changed(State={"Running": False, "Status": "exited"}), "exited"),
        (changed(State={"Paused": True, "Status": "paused"}), "paused"),
        (changed(State={"Health": {"Status": "starting"}}), "starting"),
        (changed(State={"Health": {"Status": "unhealthy"}}), "unhealthy"),
        (changed(NetworkSettings={"Ports": {}}), "not published"),
        (changed(NetworkSettings={"Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}]}}), "not published"),
    ],
)
def test_why_a_container_is_not_announced(container: dict[str, Any] | None, words: str) -> None:
    found = whereabouts(container, 80)
    assert isinstance(found, str)
    assert words in found


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """As much of docker's API as the sidekick uses."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.container: dict[str, Any] | None = None
        self.streams: list[Any] = []
        super().__init__(str(path), _EngineHandler)
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def becomes(self, container: dict[str, Any] | None) -> None:
        self.container = container
        for handler in self.streams:
            line = b'{"Action":"x"}\n'
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def restarts(self) -> None:
        streams, self.streams = self.streams, []
        for handler in streams:
            handler.connection.shutdown(socket.SHUT_RDWR)


class _EngineHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeEngine

    def do_GET(self) -> None:
        if self.path.startswith("/events"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.server.streams.append(self)
            while self in self.server.streams:
                time.sleep(0.02)
            self.close_connection = True
            return
        body = json.dumps(self.server.container).encode()
        self.send_response(200 if self.server.container else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_args: object) -> None:
        return


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "docker.sock") as made:
        yield made
        made.streams = []
        made.shutdown()


@contextlib.contextmanager
def fleetctl(tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(FLEET), "FLEETCTL_ENDPOINT": f"unix://{tmp_path}/fleet.sock"}
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "flotilla_fleet.ctl.main", *words],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def sidekick(tmp_path: Path) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    docker = f"--docker={tmp_path}/docker.sock"
    return fleetctl(tmp_path, "announce", docker, "--container=web-1", "--port=80", "--linger=0.3", "web", "web@1")


def test_a_sidekick_follows_its_container(
    api: tuple[ApiServer, MemoryEtcd], etcd: Server, engine: FakeEngine, tmp_path: Path
) -> None:
    with sidekick(tmp_path) as process:
        wait_until(lambda: bool(engine.streams))
        engine.becomes(changed(State={"Health": {"Status": "starting"}}))
        wait_until(lambda: "starting" in (tmp_path / "log").read_text())
        assert not keys_in(etcd)
        engine.becomes(RUNNING)
        wait_until(lambda: keys_in(etcd) == ["web/web@1.service"])
        engine.becomes(changed(State={"Health": {"Status": "unhealthy"}}))
        wait_until(lambda: not keys_in(etcd))
        engine.becomes(RUNNING)
        wait_until(lambda: bool(keys_in(etcd)))
        engine.becomes(None)
        wait_until(lambda: not keys_in(etcd))
        engine.becomes(RUNNING)
        wait_until(lambda: bool(keys_in(etcd)))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not keys_in(etcd))
        assert process.wait(5) == 0
        assert time.monotonic() - began >= 0.3


def test_a_sidekick_that_is_killed_takes_its_key_along(
    api: tuple[ApiServer, MemoryEtcd], etcd: Server, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.container = RUNNING
    with sidekick(tmp_path) as process:
        wait_until(lambda: bool(keys_in(etcd)))
        process.kill()
        wait_until(lambda: not keys_in(etcd), 2)


def test_a_sidekick_keeps_announcing_while_the_engine_restarts(
    api: tuple[ApiServer, MemoryEtcd], etcd: Server, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.container = RUNNING
    with sidekick(tmp_path):
        wait_until(lambda: bool(keys_in(etcd)) and bool(engine.streams))
        [kv] = etcd.select("/f/announce/", b"/f/announce0")
        engine.restarts()
        wait_until(lambda: bool(engine.streams))
        assert etcd.select("/f/announce/", b"/f/announce0") == (kv,)
        engine.becomes(None)
        wait_until(lambda: not keys_in(etcd))


def test_a_sidekick_announces_to_the_next_fleetd(etcd: Server, engine: FakeEngine, tmp_path: Path) -> None:
    engine.container = RUNNING
    with sidekick(tmp_path):
        with served(etcd, tmp_path / "fleet.sock"):
            wait_until(lambda: bool(keys_in(etcd)))
        (tmp_path / "fleet.sock").unlink(missing_ok=True)
        before = max(etcd.leases, default=0)
        with served(etcd, tmp_path / "fleet.sock"):
            wait_until(lambda: [kv.lease > before for kv in etcd.select("/f/announce/", b"/f/announce0")] == [True])


# -- files that follow ----------------------------------------------------------------

TEMPLATE = """\
backend web
  @each web server $name $endpoint check  # $$5
  @none web http-request return status 503
backend db
  @each db server $unit $address $port
"""
COPIES = [
    {"service": "web", "unit": "web@2.service", "machine": "b" * 32, "address": "192.0.2.2", "port": 80},
    {"service": "web", "unit": "web@1.service", "machine": "a" * 32, "address": "2001:db8::1", "port": 80},
]


def test_a_template_with_copies() -> None:
    assert services_of(parse(TEMPLATE)) == ["db", "web"]
    assert render(parse(TEMPLATE), COPIES) == (
        "backend web\n"
        "server web-1-aaaaaaaa [2001:db8::1]:80 check  # $5\n"
        "server web-2-bbbbbbbb 192.0.2.2:80 check  # $5\n"
        "backend db\n"
    )
    assert render(parse(TEMPLATE), COPIES[::-1]) == render(parse(TEMPLATE), COPIES)


def test_a_template_without_copies() -> None:
    assert render(parse(TEMPLATE), []) == "backend web\nhttp-request return status 503\nbackend db\n"


def test_copies_of_one_number_on_two_machines_have_two_names() -> None:
    twins = [{**COPIES[0], "machine": machine * 32} for machine in "ab"]
    text = render(parse("@each web $name"), twins)
    assert text.splitlines() == ["web-2-aaaaaaaa", "web-2-bbbbbbbb"]


@pytest.mark.parametrize("text", ["@each web", "@every web x", "@each web $nam", "@each web costs $5", "  @none web"])
def test_templates_that_make_no_sense(text: str) -> None:
    with pytest.raises(CtlError, match="line 2 of the template"):
        parse(f"first\n{text}")


def test_a_template_in_a_unit_file(tmp_path: Path) -> None:
    unit = tmp_path / "front.service"
    unit.write_text("[Service]\nExecStart=/bin/x\n[X-Template]\nLine=one\nLine=@each web $name = $port\n")
    assert render(read_template(str(unit), True), COPIES[:1]) == "one\nweb-2-bbbbbbbb = 80\n"
    unit.write_text("[Service]\nExecStart=/bin/x\n")
    with pytest.raises(CtlError, match="has no section X-Template"):
        read_template(str(unit), True)


def follower(tmp_path: Path, *words: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    (tmp_path / "template").write_text("first\n@each web $name\n@none web nobody\n")
    (tmp_path / "check").write_text("#!/bin/sh\n! grep -q web-66 $1\n")
    (tmp_path / "reload").write_text(f"#!/bin/sh\ncat {tmp_path}/file >>{tmp_path}/reloads\n")
    for name in ("check", "reload"):
        (tmp_path / name).chmod(0o755)
    tools = (f"--check={tmp_path}/check {{}}", f"--reload={tmp_path}/reload")
    return fleetctl(tmp_path, "follow", *tools, *words, f"{tmp_path}/template", f"{tmp_path}/file")


def test_a_file_follows_and_is_told_of_only_when_it_changed(
    api: tuple[ApiServer, MemoryEtcd], hold: Hold, tmp_path: Path
) -> None:
    client, reloads = api[1], tmp_path / "reloads"
    name = f"web-1-{MACHINE_ID[:8]}\n"
    with follower(tmp_path):
        wait_until(lambda: reloads.exists() and reloads.read_text() == "first\nnobody\n")
        one = hold("POST", "service=web&unit=web@1.service&port=8080")
        wait_until(lambda: reloads.read_text() == f"first\nnobody\nfirst\n{name}")
        # a service that the template does not name, and one that the check refuses
        hold("POST", "service=db&unit=db.service&port=8080")
        bad = hold("POST", "service=web&unit=web@66.service&port=8080")
        wait_until(lambda: "stays as it is" in (tmp_path / "log").read_text())
        assert (tmp_path / "file").read_text() == f"first\n{name}"
        bad.close()
        client.down = True
        time.sleep(0.3)
        assert (tmp_path / "file").read_text() == f"first\n{name}"
        assert reloads.read_text().count("first") == 2
        client.down = False
        one.close()
        wait_until(lambda: reloads.read_text() == f"first\nnobody\nfirst\n{name}first\nnobody\n")


def test_without_fleetd_the_file_stays(tmp_path: Path) -> None:
    with follower(tmp_path, "--once") as process:
        assert process.wait(10) == 0
    assert (tmp_path / "file").read_text() == "first\nnobody\n"
    (tmp_path / "file").write_text("from before\n")
    with follower(tmp_path, "--once") as process:
        assert process.wait(10) == 0
    assert (tmp_path / "file").read_text() == "from before\n"
    assert not (tmp_path / "reloads").exists()


def test_announced_services_are_listed(etcd: Server, hold: Hold, tmp_path: Path) -> None:
    hold("POST", "service=web&unit=web@1.service&port=8080")
    wait_until(lambda: bool(keys_in(etcd)))
    with fleetctl(tmp_path, "list-announced", "--no-legend", "--fields=service,unit,address") as process:
        assert process.wait(10) == 0
    assert (tmp_path / "log").read_text().split() == ["web", "web@1.service", "192.0.2.7:8080"]
