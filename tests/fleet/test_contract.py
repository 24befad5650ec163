# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanges recorded on upstream fleet 1.0.0, replayed in their order against our API.

``exchanges.json`` holds each request with the status, headers and body of upstream's answer. Ours
must be the same, byte for byte, but for the cases in ``DIFFERENCES``. What the engine and agents
had done by the time of a request is played by ``BEFORE``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_server import Answer, Server
from memory_store import MACHINES, MemoryStore

from flotilla_fleet import __version__
from flotilla_fleet.model import Unit, UnitState
from flotilla_fleet.unitfile import UnitOption

F1, F2, F3 = (machine.id for machine in MACHINES)
EXCHANGES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "exchanges.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Differs:
    """What we answer instead, and why."""

    why: str
    status: int
    message: str = ""
    body: str | None = None


_BOGUS = 'desiredState "bogus" is not one of inactive, loaded, launched'
_REFUSED = (
    "upstream stores any desired state on update, after which the unit can be neither read nor "
    "removed, and answers 500 on create: refused, with the allowed values"
)
_NO_POISON = "the unit was not poisoned, so it is there as before"
_GO_TYPES = "upstream shows the names of Go types; and it refuses the value form it documents"

DIFFERENCES = {
    "state-item-missing": Differs("upstream's handler dies and drops the connection", 404, "unit state does not exist"),
    "put-badjson": Differs(
        "the reason comes from another JSON parser",
        400,
        "unable to decode body: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    "put-badstate-new": Differs(_REFUSED, 400, _BOGUS),
    "poison-put-badstate": Differs(_REFUSED, 400, _BOGUS),
    "poison-get": Differs(
        _NO_POISON,
        200,
        body='{"currentState":"inactive","desiredState":"inactive","name":"poison.service",'
        '"options":[{"name":"Description","section":"Unit","value":"hello"},'
        '{"name":"ExecStart","section":"Service","value":"/bin/sleep infinity"}]}',
    ),
    "poison-put-inactive": Differs(_NO_POISON, 204, body=""),
    "poison-delete": Differs(_NO_POISON, 204, body=""),
    "patch-badjson": Differs(
        _GO_TYPES,
        400,
        "unable to decode body: it is of type object, not array of operations",
    ),
    "patch-badop": Differs(_GO_TYPES, 400, "invalid op: expect add, remove, or replace"),
    "patch-badpath": Differs(_GO_TYPES, 400, "machine metadata path invalid"),
    "patch-stringvalue": Differs(_GO_TYPES, 204, body=""),
    "unavailable-503-discovery": Differs(
        "the description of the API needs no etcd; upstream answers 503 to everything", 200
    ),
}


def _state(name: str, digest: str, machine: str, running: bool = True) -> UnitState:
    active, sub = ("active", "running") if running else ("inactive", "dead")
    job = "launched" if running else "loaded"
    return UnitState(name, machine, digest, "loaded", active, sub, job)  # type: ignore[arg-type]


def _loaded(store: MemoryStore) -> None:
    store.place("a.service", F1)
    store.publish(_state("a.service", store.units["a.service"].hash, F1, running=False))


def _launched(store: MemoryStore) -> None:
    store.publish(_state("a.service", store.units["a.service"].hash, F1))


def _global(store: MemoryStore) -> None:
    for machine in (F1, F2, F3):
        store.publish(_state("g.service", store.units["g.service"].hash, machine))


def _hundred(store: MemoryStore) -> None:
    store.units.clear()
    store.published.clear()
    machines = next(e["machines"] for e in EXCHANGES if e["case"] == "units-page1-exactly100")
    options = (UnitOption("Service", "ExecStart", "/bin/sleep infinity"),)
    for number, machine in enumerate(machines):
        unit = Unit(f"d{number:03}.service", options, "launched")
        store.units[unit.name] = unit
        machine_id = (F1, F2, F3)[int(machine) - 1]
        store.place(unit.name, machine_id)
        store.publish(_state(unit.name, unit.hash, machine_id))


def _one_more(store: MemoryStore) -> None:
    options = (UnitOption("Service", "ExecStart", "/bin/sleep infinity"),)
    store.units["d100.service"] = Unit("d100.service", options)


def _outage(store: MemoryStore) -> None:
    store.outage = "fleet server unable to communicate with etcd"


def _no_outage(store: MemoryStore) -> None:
    store.outage = ""


BEFORE: dict[str, Callable[[MemoryStore], None]] = {
    "get-a-loaded": _loaded,
    "get-a-launched": _launched,
    # Upstream's agents drop the state of a unit whose content changes; ours do not, but the API
    # shows what there is.
    "get-a-replaced": lambda store: store.forget("a.service", F1),
    "state-global": _global,
    "units-list": _launched,
    "state-after-delete": lambda store: store.published.clear(),
    "state-page1-exactly100": _hundred,
    "unavailable-503-discovery": _outage,
    "units-page1-exactly100": _no_outage,
    "units-page2-of-101": _one_more,
}


def _long(text: str) -> str:
    """``<x*250>`` of the recording written out."""
    return re.sub(r"<(.)\*(\d+)>", lambda match: match[1] * int(match[2]), text)


def _expected_poison_list(answer: Answer, recorded: dict[str, Any]) -> None:
    """Upstream's list misses the poisoned unit; ours has it, and is the same beside it."""
    units = answer.json["units"]
    assert [unit for unit in units if unit["name"] == "poison.service"] != []
    rest = [unit for unit in units if unit["name"] != "poison.service"]
    assert rest == json.loads(recorded["answer"])["units"]


def _expected_discovery(answer: Answer, recorded: dict[str, Any]) -> None:
    """Same schemas and methods; ``Unit.reason`` and ``UnitState.error`` are the fields more."""
    document = answer.json
    assert {key: document[key] for key in recorded["top"]} == recorded["top"]
    fields = {name: sorted(s["properties"]) for name, s in document["schemas"].items()}
    fields["Unit"].remove("reason")
    fields["UnitState"].remove("error")
    assert fields == recorded["schemas"]
    methods = {
        method["id"]: [
            method["httpMethod"],
            method["path"],
            sorted(method.get("parameters", {})),
            method.get("request", {}).get("$ref", ""),
            method.get("response", {}).get("$ref", ""),
        ]
        for resource in document["resources"].values()
        for method in resource["methods"].values()
    }
    assert methods == recorded["methods"]


def _expected_metrics(answer: Answer, recorded: dict[str, Any]) -> None:
    """The same metrics of the process; those of Go's runtime are not ours to give."""
    text = answer.body.decode()
    for name in recorded["names"]:
        assert f"# TYPE {name}\n" in text
    assert f'fleet_info{{machine_id="f{"1" + "0" * 29}1",version="{__version__}"}} 1\n' in text


SPECIAL = {
    "poison-list": _expected_poison_list,
    "discovery": _expected_discovery,
    "metrics-head": _expected_metrics,
}


def _check_body(answer: Answer, recorded: dict[str, Any]) -> None:
    if "sha256" in recorded:
        assert hashlib.sha256(answer.body).hexdigest() == recorded["sha256"]
    else:
        assert answer.body.decode() == recorded["answer"]


def _check_headers(answer: Answer, recorded: dict[str, Any]) -> None:
    headers = recorded["headers"]
    assert answer.headers.get("Content-Type") == headers.get("Content-Type")
    if "Content-Length" in headers and recorded["case"] not in SPECIAL:
        assert answer.headers.get("Content-Length") == headers["Content-Length"]
    assert ("Content-Length" in answer.headers) or recorded["status"] == 204


def _check(answer: Answer, recorded: dict[str, Any]) -> None:
    case = recorded["case"]
    # Upstream leaves the header out of its 503 answers; ours always tells.
    assert answer.headers["Server"] == f"fleetd/{__version__}"
    differs = DIFFERENCES.get(case)
    if differs is None:
        assert answer.status == recorded["status"]
        _check_headers(answer, recorded)
        SPECIAL.get(case, _check_body)(answer, recorded)
        return
    upstreams = (recorded["status"], recorded.get("answer"))
    assert (answer.status, answer.body.decode()) != upstreams, "no difference any more"
    assert answer.status == differs.status
    if differs.message:
        error = {"error": {"code": differs.status, "message": differs.message}}
        assert answer.json == error
    if differs.body is not None:
        assert answer.body.decode() == differs.body


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def server(store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(store, tmp_path_factory.mktemp("contract") / "fleet.sock") as running:
        yield running


# One test a case so that a failure names it; they share the store and must run in this order.
@pytest.mark.parametrize("recorded", EXCHANGES, ids=lambda recorded: str(recorded["case"]))
def test_exchange(recorded: dict[str, Any], server: Server, store: MemoryStore) -> None:
    before = BEFORE.get(recorded["case"])
    if before:
        server.run(lambda: before(store))
    body = recorded.get("body")
    content_type = recorded.get("content_type")
    answer = server.call(
        recorded["method"],
        _long(recorded["target"]),
        _long(body) if body is not None else None,
        (content_type,) if content_type else (),
    )
    _check(answer, recorded)


def test_every_difference_and_special_case_is_a_recorded_one() -> None:
    cases = {recorded["case"] for recorded in EXCHANGES}
    assert set(DIFFERENCES) | set(SPECIAL) | set(BEFORE) <= cases
    assert all(differs.why for differs in DIFFERENCES.values())
