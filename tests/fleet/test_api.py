# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API does beyond the exchanges recorded on upstream."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import MACHINE_ID, Answer, Server, UnixConnection
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MACHINES, MemoryStore

from flotilla_fleet import api
from flotilla_fleet.connections import Connections
from flotilla_fleet.metrics import Metrics
from flotilla_fleet.model import Target, Unit
from flotilla_fleet.store import Event
from flotilla_fleet.unitfile import UnitOption

HELLO = [{"section": "Service", "name": "ExecStart", "value": "/bin/sleep infinity"}]
JSON = ("application/json",)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def server(store: MemoryStore, tmp_path: Path) -> Iterator[Server]:
    with Server(store, tmp_path / "fleet.sock") as running:
        yield running


# -- units ---------------------------------------------------------------------


def test_a_template_cannot_be_created_launched(server: Server, store: MemoryStore) -> None:
    for state in ("loaded", "launched"):
        answer = server.put("t@.service", options=HELLO, desiredState=state)
        assert (answer.status, answer.message) == (400, 'cannot activate template "t@.service"')
    assert store.units == {}
    assert server.put("t@.service", options=HELLO).status == 201
    assert server.put("t@1.service", options=HELLO, desiredState="launched").status == 201


def test_new_content_is_refused_with_a_bad_state_too(server: Server, store: MemoryStore) -> None:
    server.put("a.service", options=HELLO)
    other = [{**HELLO[0], "value": "/bin/true"}]
    answer = server.put("a.service", options=other, desiredState="Launched")
    assert answer.status == 400
    assert answer.message == 'desiredState "Launched" is not one of inactive, loaded, launched'
    assert store.units["a.service"].options[0].value == "/bin/sleep infinity"


@pytest.mark.parametrize("name", ["a.target", "a.slice", "a.timer", "a.mount"])
def test_types_beside_services_are_taken(server: Server, name: str) -> None:
    assert server.put(name, options=HELLO, desiredState="launched").status == 201


@pytest.mark.parametrize("kind", ["snapshot", "busname"])
def test_types_that_systemd_dropped(server: Server, kind: str) -> None:
    answer = server.put(f"a.{kind}", options=HELLO)
    assert answer.status == 400
    assert f'unit type "{kind}" no longer exists in systemd' in answer.message


def test_reason_is_shown_while_a_unit_is_wanted(server: Server, store: MemoryStore) -> None:
    server.put("a.service", options=HELLO, desiredState="launched")
    store.targets["a.service"] = Target("", "no machine has disk=ssd")
    assert server.get("units/a.service").json["reason"] == "no machine has disk=ssd"
    assert server.get("units").json["units"][0]["reason"] == "no machine has disk=ssd"
    store.targets["a.service"] = Target(MACHINES[0].id, "waits for its turn")
    assert server.get("units/a.service").json["reason"] == "waits for its turn"
    server.put("a.service", desiredState="inactive")
    store.targets["a.service"] = Target("", "left over")
    assert "reason" not in server.get("units/a.service").json


def test_put_reads_and_decides_again_when_another_was_first(server: Server, store: MemoryStore) -> None:
    store.contention = 3
    assert server.put("a.service", options=HELLO, desiredState="loaded").status == 201
    assert store.units["a.service"].desired == "loaded"


def test_a_new_unit_is_stored_with_one_request(server: Server, store: MemoryStore) -> None:
    before = store.reads
    assert server.put("a.service", options=HELLO, desiredState="loaded").status == 201
    assert store.reads - before == 1
    assert server.put("a.service", options=HELLO, desiredState="launched").status == 204
    assert store.units["a.service"].desired == "launched"


def test_put_gives_up_when_others_are_always_first(server: Server, store: MemoryStore) -> None:
    store.contention = 1000
    answer = server.put("a.service", options=HELLO)
    assert answer.status == 409
    assert 'unit "a.service" was changed by others during 10 attempts' in answer.message
    assert 1000 - store.contention == api.PUT_ATTEMPTS


def test_put_of_what_is_there_writes_nothing(server: Server, store: MemoryStore) -> None:
    server.put("a.service", options=HELLO, desiredState="loaded")
    revision = store.revision
    assert server.put("a.service", options=HELLO, desiredState="loaded").status == 204
    assert server.put("a.service", desiredState="loaded").status == 204
    assert store.revision == revision


def test_new_content_keeps_nothing_of_the_old(server: Server, store: MemoryStore) -> None:
    server.put("a.service", options=HELLO, desiredState="launched")
    other = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
    assert server.put("a.service", options=other).status == 201
    unit = store.units["a.service"]
    assert unit == Unit("a.service", (UnitOption("Service", "ExecStart", "/bin/true"),), "inactive")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[]", "unable to decode body: it is of type array, not object"),
        ("3", "unable to decode body: it is of type number, not object"),
        ('{"options":{}}', "unable to decode body: field options is of type object, not array"),
        ('{"options":[3]}', "unable to decode body: options[0] is of type number, not object"),
        (
            '{"options":[{"section":1}]}',
            "unable to decode body: field options[0].section is of type number, not string",
        ),
        ('{"desiredState":true}', "unable to decode body: field desiredState is of type boolean, not string"),
        ('{"name":"\\ud800"}', "unable to decode body: it is not UTF-8 text (surrogates not allowed)"),
        (b'{"name":"\xff"}', "unable to decode body: it is not UTF-8 text (invalid start byte)"),
        ("[" * 100_000, "unable to decode body: it is nested too deeply"),
        ("  ", "unable to decode body: EOF"),
        ('{"options":[{"section":"S","name":"A","value":"1\\nB=2"}]}', "read back as something else"),
        ('{"options":[{"section":"S","name":"A","value":"\\u0000"}]}', "the line holds a NUL byte"),
    ],
)
def test_bad_bodies(server: Server, store: MemoryStore, body: str | bytes, message: str) -> None:
    answer = server.call("PUT", "/fleet/v1/units/a.service", body, JSON)
    assert answer.status == 400
    assert message in answer.message
    assert store.units == {}


def test_two_content_types(server: Server) -> None:
    answer = server.call("PUT", "/fleet/v1/units/a.service", "{}", JSON * 2)
    # Newer versions of aiohttp refuse this before we see it.
    assert (answer.status, answer.body.decode()) in [
        (415, '{"error":{"code":415,"message":"expected 1 Content-Type, got 2"}}'),
        (400, "Duplicate 'Content-Type' header found."),
    ]


def test_null_fields_are_absent_fields(server: Server, store: MemoryStore) -> None:
    body = json.dumps({"name": None, "options": HELLO, "desiredState": None})
    assert server.call("PUT", "/fleet/v1/units/a.service", body, JSON).status == 201
    assert store.units["a.service"].desired == "inactive"


def test_empty_option_values_are_left_out_of_answers(server: Server) -> None:
    server.put("a.service", options=[{"section": "Service", "name": "ExecStart"}])
    options = server.get("units/a.service").json["options"]
    assert options == [{"section": "Service", "name": "ExecStart"}]


# -- limits --------------------------------------------------------------------


def test_a_body_of_more_than_a_mebibyte(server: Server, store: MemoryStore) -> None:
    answer = server.call("PUT", "/fleet/v1/units/a.service", b" " * (1024 * 1024 + 1), JSON)
    assert (answer.status, answer.message) == (413, "the body is larger than 1048576 bytes")
    options = [{"section": "S", "name": f"N{n}", "value": "v" * 1000} for n in range(1000)]
    assert server.put("a.service", options=options).status == 201


def test_a_line_or_header_that_is_too_long(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flotilla_fleet.http")
    long = "x" * (api.LINE_MAX + 1)
    assert server.get(f"units/{long}").status in (400, 414)
    assert server.call("GET", "/fleet/v1/units", content_types=(long,)).status == 400
    assert server.get("units").status == 200
    assert "refused a malformed request" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_client_that_sends_its_body_slowly_is_told_so_and_blocks_nobody(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_TIMEOUT", 0.3)
    connection = UnixConnection(server.path)
    connection.putrequest("PUT", "/fleet/v1/units/a.service")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    started = time.monotonic()
    assert server.get("units").status == 200
    assert time.monotonic() - started < 0.25
    response = connection.getresponse()
    assert response.status == 408
    assert b"did not arrive within 0.3 s" in response.read()
    connection.close()


def _plug(server: Server, head: bytes = b"") -> socket.socket:
    """A connection that has sent so much of a request."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(str(server.path))
    sock.sendall(head)
    return sock


def test_who_is_one_too_many_is_told_so_and_nobody_else_notices(tmp_path: Path, store: MemoryStore) -> None:
    with Server(store, tmp_path / "s", Connections(most=2)) as server:
        kept = UnixConnection(server.path)
        kept.request("GET", "/fleet/v1/units")
        kept.getresponse().read()
        idle = _plug(server)
        answer = server.get("units")
        assert (answer.status, answer.message) == (503, "fleetd has 2 connections on this address, try again later")
        kept.request("GET", "/fleet/v1/units")
        assert kept.getresponse().read() == b"{}"
        idle.close()
        for _try in range(100):
            if server.get("units").status == 200:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("a connection that was closed still counts")
        kept.close()


def test_who_sends_no_whole_request_is_not_waited_for(tmp_path: Path, store: MemoryStore) -> None:
    with Server(store, tmp_path / "s", Connections(silence=0.4)) as server:
        stream = Stream(server)
        assert stream.line() == b"\n"
        half, asks = _plug(server, b"GET /fleet/v1/units HTT"), UnixConnection(server.path)
        begun = time.monotonic()
        for _time in range(10):  # asks all the time, each time later than the other has been silent
            asks.request("GET", "/fleet/v1/units")
            assert asks.getresponse().read() == b"{}"
            time.sleep(0.1)
        with half, contextlib.suppress(ConnectionResetError):
            assert half.recv(100) == b""
        asks.close()
        assert time.monotonic() - begun < 3
        server.run(lambda: store.tell("unit", "a.service"))
        assert stream.event()["name"] == "a.service", "a stream is no silence"
        stream.close()


def test_page_size(tmp_path: Path, store: MemoryStore) -> None:
    with Server(store, tmp_path / "s", token_limit=2) as server:
        for name in ("a", "b", "c"):
            server.put(f"{name}.service", options=HELLO)
        first = server.get("units").json
        assert [unit["name"] for unit in first["units"]] == ["a.service", "b.service"]
        second = server.get(f"units?nextPageToken={first['nextPageToken']}").json
        assert [unit["name"] for unit in second["units"]] == ["c.service"]
        assert "nextPageToken" not in second
        assert server.get("units?nextPageToken=ZAACAA==").message == "token limit must be 2"


@pytest.mark.parametrize("limit", [0, 65536])
def test_page_size_out_of_range(store: MemoryStore, limit: int) -> None:
    with pytest.raises(ValueError, match=f"token_limit is {limit}, not 1 to 65535"):
        api.make_app(store, MACHINE_ID, token_limit=limit)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "page token is 0 bytes long, not 4: use one that an answer gave"),
        ("ZAAB", "page token is 3 bytes long, not 4: use one that an answer gave"),
        ("ZAABAA", "illegal base64 data at input byte 4"),
        ("ZA*BAA==", "illegal base64 data at input byte 2"),
        ("%C3%A9AABAA==", "illegal base64 data at input byte 0"),
    ],
)
def test_bad_tokens(server: Server, token: str, message: str) -> None:
    answer = server.get(f"units?nextPageToken={token}")
    assert (answer.status, answer.message) == (400, message)


@given(st.integers(1, 0xFFFF), st.integers(1, 0xFFFF))
def test_tokens_are_read_back(limit: int, page: int) -> None:
    assert api.page_of([api.encode_token(limit, page)], limit) == page


# -- errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "units", None),
        ("GET", "units/a.service", None),
        ("GET", "state", None),
        ("GET", "state/a.service", None),
        ("GET", "machines", None),
        ("PUT", "units/a.service", json.dumps({"options": HELLO})),
        ("DELETE", "units/a.service", None),
        ("PATCH", "machines", '[{"op":"remove","path":"/m/metadata/a"}]'),
    ],
)
def test_a_registry_that_does_not_answer(
    server: Server, store: MemoryStore, method: str, target: str, body: str | None
) -> None:
    store.outage = "etcd did not answer within 5 s"
    answer = server.call(method, f"/fleet/v1/{target}", body, JSON if body else ())
    assert (answer.status, answer.message) == (503, "etcd did not answer within 5 s")
    assert server.call("GET", "/metrics").status == 200


def test_a_fault_of_ours_is_a_500_without_details(
    server: Server, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.published = None  # type: ignore[assignment]
    answer = server.get("state")
    assert (answer.status, answer.message) == (500, "")
    assert "cannot answer GET" in caplog.text


def test_metadata_operations_are_all_checked_before_any_is_applied(server: Server, store: MemoryStore) -> None:
    good = {"op": "add", "path": f"/{MACHINES[0].id}/metadata/a", "value": "1"}
    for bad in (
        {"op": "move", "path": good["path"], "value": "1"},
        {"op": "add", "path": "/m/metadata/a b", "value": "1"},
        {"op": "add", "path": "/m/metadata/a\n", "value": "1"},
        {"op": "add", "path": 3, "value": "1"},
        {"op": "add", "path": good["path"], "value": {"value": 3}},
        {"op": "replace", "path": good["path"], "value": ""},
        "remove",
    ):
        body = json.dumps([good, bad])
        assert server.call("PATCH", "/fleet/v1/machines", body, JSON).status == 400
    assert store.dynamic == {}
    both = json.dumps([good, {**good, "op": "replace", "value": {"value": "2"}}])
    assert server.call("PATCH", "/fleet/v1/machines", both).status == 204
    assert store.dynamic == {(MACHINES[0].id, "a"): "2"}


# -- who did what --------------------------------------------------------------


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "flotilla_fleet.audit")
    return caplog


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "flotilla_fleet.audit"]


def test_every_write_is_logged(server: Server, audit: pytest.LogCaptureFixture) -> None:
    who = f"uid={os.getuid()} gid={os.getgid()} pid={os.getpid()}"
    server.put("a.service", options=HELLO, desiredState="launched")
    server.put("a.service", desiredState="bogus")
    server.call("DELETE", "/fleet/v1/units/a.service")
    server.call("DELETE", "/fleet/v1/units/a%0Ab.service")
    server.call("PATCH", "/fleet/v1/machines", '[{"op":"add","path":"/m/metadata/k","value":"v"}]')
    server.get("units")
    digest = "8385c9176f09a5ee3bbb88d45c6fc3f0b69d1f52"
    bogus = '400 "desiredState \\"bogus\\" is not one of inactive, loaded, launched"'
    assert _lines(audit) == [
        f'PUT unit unit="a.service" desired=launched hash={digest} by {who}: 201',
        f'PUT unit unit="a.service" by {who}: {bogus}',
        f'DELETE unit unit="a.service" hash={digest} by {who}: 204',
        f'DELETE unit unit="a\\nb.service" by {who}: 404 "unit does not exist"',
        f'PATCH machines m/k="v" by {who}: 204',
    ]


def test_a_write_with_unknown_outcome_is_logged_as_such(
    server: Server, store: MemoryStore, audit: pytest.LogCaptureFixture
) -> None:
    store.outage = "etcd did not answer"
    server.put("a.service", options=HELLO)
    assert _lines(audit)[0].endswith(': 503 "etcd did not answer"')


def test_the_subject_of_a_certificate_is_logged() -> None:
    class Transport:
        def get_extra_info(self, name: str) -> Any:
            subject = ((("commonName", "core-01"),), (("organizationName", 'a"b'),))
            return {"subject": subject} if name == "peercert" else None

    class Request:
        transport = Transport()
        remote = "10.0.0.1"

    assert api._peer(Request()) == (  # type: ignore[arg-type]
        'subject="commonName=core-01,organizationName=a\\"b" address=10.0.0.1'
    )


# -- metrics -------------------------------------------------------------------


def test_requests_are_counted(server: Server) -> None:
    server.get("units")
    server.get("units")
    server.get("units/a.service")
    server.call("PROPFIND", "/fleet/v1/units")
    text = server.call("GET", "/metrics").body.decode()
    for line in (
        'fleet_http_requests_total{code="200",method="GET",resource="units"} 2',
        'fleet_http_requests_total{code="404",method="GET",resource="unit"} 1',
        'fleet_http_requests_total{code="405",method="other",resource="units"} 1',
        "# TYPE process_resident_memory_bytes gauge",
    ):
        assert line in text.splitlines()


def test_metrics_of_the_caller_are_shown_too(tmp_path: Path, store: MemoryStore) -> None:
    metrics = Metrics()
    metrics.gauge("fleet_engine_leader", "1 while this machine leads.", lambda: 1)
    metrics.counter("fleet_engine_passes_total", "Plans made.")
    metrics.count("fleet_engine_passes_total", {"why": 'a"\\\nb'}, by=2.5)
    with Server(store, tmp_path / "s", metrics=metrics) as server:
        lines = server.call("GET", "/metrics").body.decode().splitlines()
    assert "fleet_engine_leader 1" in lines
    assert 'fleet_engine_passes_total{why="a\\"\\\\\\nb"} 2.5' in lines


def test_process_metrics_are_of_this_process(server: Server) -> None:
    text = server.call("GET", "/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert 1e6 < float(values["process_resident_memory_bytes"]) < 1e10
    assert time.time() - 3600 * 24 < float(values["process_start_time_seconds"]) < time.time()
    assert 3 < float(values["process_open_fds"]) < 10_000


# -- events --------------------------------------------------------------------


class Stream:
    def __init__(self, server: Server) -> None:
        self.connection = UnixConnection(server.path)
        self.connection.request("GET", "/fleet/v1/events")
        self.response = self.connection.getresponse()

    def line(self) -> bytes:
        return self.response.readline()

    def event(self) -> dict[str, Any]:
        while (line := self.line()) == b"\n":
            pass
        return dict(json.loads(line))

    def close(self) -> None:
        self.connection.close()
        self.response.close()


@pytest.fixture
def stream(server: Server) -> Iterator[Stream]:
    opened = Stream(server)
    assert opened.line() == b"\n"
    yield opened
    opened.close()


def test_events_tell_of_every_change(server: Server, stream: Stream) -> None:
    assert stream.response.headers["Content-Type"] == "application/x-ndjson"
    server.put("a.service", options=HELLO)
    server.call("DELETE", "/fleet/v1/units/a.service")
    server.call("PATCH", "/fleet/v1/machines", '[{"op":"remove","path":"/m/metadata/k"}]')
    assert [stream.event() for _ in range(3)] == [
        {"deleted": False, "kind": "unit", "machine": "", "name": "a.service", "revision": 2},
        {"deleted": True, "kind": "unit", "machine": "", "name": "a.service", "revision": 3},
        {"deleted": False, "kind": "machine", "machine": "m", "name": "", "revision": 4},
    ]


def test_a_quiet_stream_has_a_heartbeat(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "HEARTBEAT", 0.05)
    opened = Stream(server)
    assert [opened.line() for _ in range(4)] == [b"\n"] * 4
    opened.close()


def test_all_streams_share_one_of_the_store(server: Server, store: MemoryStore, stream: Stream) -> None:
    others = [Stream(server) for _ in range(3)]
    for other in others:
        assert other.line() == b"\n"
    assert server.run(lambda: len(store._queues)) == 1
    server.put("a.service", options=HELLO)
    assert {other.event()["name"] for other in [stream, *others]} == {"a.service"}
    for other in others:
        other.close()


def test_a_lost_stream_ends_the_clients(server: Server, store: MemoryStore, stream: Stream) -> None:
    server.put("a.service", options=HELLO)
    server.run(store.break_streams)
    assert stream.event()["name"] == "a.service"
    assert stream.line() == b""
    again = Stream(server)
    assert again.line() == b"\n"
    server.put("b.service", options=HELLO)
    assert again.event()["name"] == "b.service"
    again.close()


def test_the_stream_of_the_store_closes_with_the_last_listener(
    server: Server, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "HEARTBEAT", 0.05)
    opened = Stream(server)
    opened.line()
    assert server.run(lambda: len(store._queues)) == 1
    opened.close()
    deadline = time.monotonic() + 5
    while server.run(lambda: len(store._queues)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.run(lambda: len(store._queues)) == 0


def test_a_reader_that_is_too_slow_is_dropped_and_others_go_on(
    server: Server, store: MemoryStore, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "EVENTS_BEHIND", 50)
    slow = Stream(server)
    slow.line()
    slow_socket = slow.connection.sock
    assert slow_socket is not None
    slow_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def burst() -> None:
        for _ in range(500):
            store.tell("state", "x" * 200 + ".service", MACHINES[0].id)

    for _ in range(20):
        server.run(burst)
        for _ in range(500):
            assert stream.event()["kind"] == "state"
    assert server.get("units").status == 200
    slow_socket.settimeout(10)
    received = b""
    while chunk := slow.response.read(65536):
        received += chunk
    assert received.count(b"\n") < 10_000
    slow.close()


def test_stopping_ends_streams_at_once(tmp_path: Path, store: MemoryStore) -> None:
    with Server(store, tmp_path / "s") as server:
        opened = Stream(server)
        opened.line()
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 1
        assert opened.line() == b""
        opened.close()


def test_event_methods(server: Server) -> None:
    answer: Answer = server.call("POST", "/fleet/v1/events")
    assert (answer.status, answer.message) == (405, "only GET supported against this resource")


def test_events_are_json_of_the_record() -> None:
    assert set(Event.__dataclass_fields__) == {"kind", "name", "machine", "revision", "deleted"}
