# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API has beyond upstream: questions to machines, drain, rebalance, and who may use them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import Server
from memory_store import MACHINES, MemoryStore

from flotilla_fleet import api
from flotilla_fleet.access import Role, needed, role_of
from flotilla_fleet.model import Target, Unit
from flotilla_fleet.question import Answer, Question
from flotilla_fleet.scheduler import Move
from flotilla_fleet.unitfile import UnitOption

HERE, THERE = MACHINES[0].id, MACHINES[1].id


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    plain = (UnitOption("Service", "ExecStart", "/bin/true"),)
    made.units = {
        "u.service": Unit("u.service", plain, "launched"),
        "g.service": Unit("g.service", (*plain, UnitOption("X-Fleet", "Global", "true")), "launched"),
        "lost.service": Unit("lost.service", plain, "launched"),
    }
    made.targets = {"u.service": Target(THERE), "lost.service": Target("", "no machine is present")}
    return made


@pytest.fixture
def server(store: MemoryStore, tmp_path: Path) -> Iterator[Server]:
    with Server(store, tmp_path / "sock") as made:
        yield made


def test_status_goes_to_the_units_machine(server: Server, store: MemoryStore) -> None:
    store.answers = [Answer("one\n"), Answer("two\n"), Answer("", 3)]
    answer = server.call("GET", "/fleet/v1/units/u.service/status")
    assert (answer.status, answer.body) == (200, b"one\ntwo\n")
    assert answer.headers["X-Exit-Status"] == "3"
    assert store.asked == [(THERE, Question("status", "u.service"))]


def test_a_global_unit_needs_a_machine(server: Server, store: MemoryStore) -> None:
    answer = server.call("GET", "/fleet/v1/units/g.service/journal")
    assert answer.status == 400
    assert "machineID" in answer.message
    answer = server.call("GET", f"/fleet/v1/units/g.service/journal?machineID={HERE}&lines=7&output=cat")
    assert answer.status == 200
    assert store.asked == [(HERE, Question("journal", "g.service", 7, "cat"))]


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("none.service/status", 404, "unit does not exist"),
        ("lost.service/status", 409, "no machine is present"),
        ("u.service/status?machineID=zz", 404, "is not present"),
        ("u.service/journal?lines=many", 400, "lines"),
        ("u.service/journal?lines=999999", 400, "100000"),
        ("u.service/journal?output=../etc", 400, "allowed are short"),
    ],
)
def test_questions_without_an_answer_say_why(server: Server, target: str, status: int, words: str) -> None:
    answer = server.call("GET", f"/fleet/v1/units/{target}")
    assert answer.status == status
    assert words in answer.message


def test_following_streams_until_the_end(server: Server, store: MemoryStore) -> None:
    store.answers = [Answer("a\n"), Answer("b\n")]
    assert server.call("GET", "/fleet/v1/units/u.service/journal?follow=1").body == b"a\nb\n"


def test_a_follower_that_is_gone_is_noticed_though_nothing_is_said(
    server: Server, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CLIENT_CHECK", 0.05)
    store.quiet = True
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(server.path))
        sock.sendall(b"GET /fleet/v1/units/u.service/journal?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert store.asking == 1
    end = time.monotonic() + 5
    while store.asking:
        assert time.monotonic() < end, "the question was not given up"
        time.sleep(0.02)


def test_a_machine_that_does_not_answer_a_follower_is_an_error(server: Server, store: MemoryStore) -> None:
    store.answers = []
    store.answer_fault = "machine did not answer in 10 s"
    answer = server.call("GET", "/fleet/v1/units/u.service/journal?follow=1")
    assert (answer.status, answer.message) == (503, "machine did not answer in 10 s")


def test_units_by_the_beginning_of_their_names_and_with_reasons(server: Server, store: MemoryStore) -> None:
    plain = store.units["u.service"].options
    store.units["idle.service"] = Unit("idle.service", plain)
    store.units["late.service"] = Unit("late.service", plain, "launched")
    store.units["lazy.service"] = Unit("lazy.service", plain, "loaded")
    store.targets["lazy.service"] = Target(HERE, "update waits")

    def names(query: str) -> list[str]:
        return [unit["name"] for unit in server.call("GET", f"/fleet/v1/units?{query}").json.get("units", ())]

    assert names("namePrefix=l") == ["late.service", "lazy.service", "lost.service"]
    assert names("namePrefix=x") == []
    # global units are on machines without a target, inactive ones want none
    assert names("withReason=1") == ["late.service", "lazy.service", "lost.service"]
    assert names("withReason=true&namePrefix=la") == ["late.service", "lazy.service"]
    assert len(names("withReason=0")) == 6


def test_restart_is_a_write(server: Server, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    assert server.call("GET", "/fleet/v1/units/u.service/restart").status == 405
    with caplog.at_level("INFO"):
        assert server.call("POST", "/fleet/v1/units/u.service/restart").status == 200
    assert store.asked == [(THERE, Question("restart", "u.service"))]
    digest = store.units["u.service"].hash
    said = f'POST restart unit="u.service" hash={digest} machine="{THERE}" by uid='
    assert any(record.message.startswith(said) for record in caplog.records)


def test_drain_and_undrain(server: Server, store: MemoryStore) -> None:
    assert server.call("POST", f"/fleet/v1/machines/{HERE}/drain").status == 204
    machines = server.call("GET", "/fleet/v1/machines").json["machines"]
    assert [machine.get("draining", False) for machine in machines] == [True, False, False]
    assert server.call("DELETE", f"/fleet/v1/machines/{HERE}/drain").status == 204
    assert not store.present[HERE].draining
    assert server.call("POST", "/fleet/v1/machines/nope/drain").status == 404


def test_rebalance_shows_and_then_does(server: Server, store: MemoryStore) -> None:
    store.moves = (Move("u.service", HERE, THERE), Move("v.service", HERE, THERE))
    shown = server.call("GET", "/fleet/v1/rebalance?most=1").json
    assert shown == {"moves": [{"name": "u.service", "source": HERE, "target": THERE}]}
    assert store.requested == []
    assert server.call("POST", "/fleet/v1/rebalance").status == 200
    assert store.requested == list(store.moves)
    assert server.call("GET", "/fleet/v1/rebalance?most=0").status == 400


def certificate(*organizations: str) -> dict[str, object]:
    return {"subject": ((("commonName", "someone"),), *((("organizationName", o),) for o in organizations))}


@pytest.mark.parametrize(
    ("organizations", "role"),
    [
        ((), Role.NOBODY),
        (("fleet:viewer",), Role.VIEWER),
        (("fleet:operator", "fleet:viewer"), Role.OPERATOR),
        (("fleet:admin",), Role.ADMIN),
        (("admin",), Role.NOBODY),
        (("fleet:root",), Role.NOBODY),
        (("fleet:nobody",), Role.NOBODY),
        (("fleet:Admin ",), Role.NOBODY),
    ],
)
def test_roles_of_certificates(organizations: tuple[str, ...], role: Role) -> None:
    assert role_of(certificate(*organizations)) is role


def test_no_certificate_is_nobody() -> None:
    assert role_of(None) is Role.NOBODY
    assert role_of({}) is Role.NOBODY


@pytest.mark.parametrize(
    ("method", "resource", "role"),
    [
        ("GET", "units", Role.VIEWER),
        ("GET", "journal", Role.VIEWER),
        ("PUT", "unit", Role.OPERATOR),
        ("DELETE", "unit", Role.OPERATOR),
        ("POST", "restart", Role.OPERATOR),
        ("PATCH", "machines", Role.ADMIN),
        ("POST", "drain", Role.ADMIN),
        ("POST", "rebalance", Role.ADMIN),
        ("BREW", "anything", Role.ADMIN),
    ],
)
def test_what_needs_which_role(method: str, resource: str, role: Role) -> None:
    assert needed(method, resource) is role
