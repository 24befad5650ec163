# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a server answers, a module ends with a result or with one sentence, never with a traceback."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import typing as t
from unittest import mock

import pytest

pytest.importorskip("requests")
pytest.importorskip("hypothesis")

from ansible.module_utils.testing import patch_module_args
from ansible_collections.flotilla.cluster.plugins.module_utils import _fleet, _http, _http_stream
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import MODULES
from hypothesis import given, settings
from hypothesis import strategies as st

ETCD = (
    "header revision succeeded responses response_range response_put kvs key value count more mod_revision"
    " create_revision version lease token code message error member_id members ID name peerURLs clientURLs isLearner"
    " leader raftAppliedIndex dbSize dbSizeInUse errors alarms memberID alarm"
)
DISCOVERY = "action node nodes key value dir createdIndex errorCode message cause"
FLEET = (
    "units states machines nextPageToken name options section value desiredState currentState machineID reason hash"
    " systemdLoadState systemdActiveState systemdSubState id primaryIP metadata error code message"
)
TOKEN = "ab" * 16
WORDS = [
    "",
    "YQ==",
    "%%",
    "3",
    "-1",
    "9" * 5000,
    "launched",
    "inactive",
    "active",
    "a.service",
    "\ud800",
    "\0",
    "\x1b[2J",
]


def answers(fields: str) -> st.SearchStrategy[bytes]:
    """JSON made of the fields that a server really sends, with values that it does not; and other bytes."""
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(WORDS)
    )
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(fields.split()), inner, max_size=6),
        max_leaves=25,
    )
    objects = st.dictionaries(st.sampled_from(fields.split()), values, max_size=8)
    bodies = (objects | values).map(lambda data: json.dumps(data).encode())
    return bodies | st.binary(max_size=60) | st.just(b"[" * 100_000) | st.just(b"<html>503</html>")


def places(data: t.Any) -> list[tuple[t.Any, ...]]:
    """The ways to every value of JSON data, the data itself first."""
    if isinstance(data, dict):
        inner = data.items()
    elif isinstance(data, list):
        inner = enumerate(data)
    else:
        return [()]
    return [(), *((name, *rest) for name, value in inner for rest in places(value))]


def with_replaced(data: t.Any, place: tuple[t.Any, ...], value: t.Any) -> t.Any:
    if not place:
        return value
    copy = data.copy()
    copy[place[0]] = with_replaced(data[place[0]], place[1:], value)
    return copy


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([*WORDS, [], {}, [None], [3], [[]], [{}], {"a": 3}, {"a": None}]),
)


@st.composite
def nearly(draw: st.DrawFn, *usual: tuple[int, t.Any]) -> list[tuple[int, bytes]]:
    """The answers of a usual run, with one value in one of them replaced."""
    number = draw(st.integers(0, len(usual) - 1))
    status, data = usual[number]
    changed = with_replaced(data, draw(st.sampled_from(places(data))), draw(JUNK))
    found = [*usual[:number], (status, changed), *usual[number + 1 :]]
    return [(code, json.dumps(body).encode()) for code, body in found]


STATUSES = st.sampled_from([200, 200, 200, 201, 204, 301, 400, 404, 409, 500, 503])


def run(module: str, arguments: dict[str, t.Any], replies: list[tuple[int, bytes]]) -> dict[str, t.Any]:
    """Runs a module whose requests are answered by these in turn, over and over; returns what it prints."""
    asked = 0

    def request(self: t.Any, method: str, path: str, *_rest: t.Any, **_more: t.Any) -> _http.Reply:
        nonlocal asked
        status, body = replies[asked % len(replies)]
        asked += 1
        return _http.Reply(f"{method} {self.base}", status, "application/json", body)

    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_http.HttpClient, "request", request))
        stack.enter_context(mock.patch.object(_http_stream.StreamClient, "lines", return_value=None))
        stack.enter_context(mock.patch.object(_fleet, "UNAVAILABLE_SECONDS", 0.0))
        stack.enter_context(mock.patch.object(_fleet, "_MOST_PAGES", 20))
        stack.enter_context(mock.patch("time.sleep"))
        stack.enter_context(patch_module_args(arguments))
        stack.enter_context(contextlib.redirect_stdout(printed))
        with pytest.raises(SystemExit):
            importlib.import_module(f"{MODULES}.{module}").main()
    return t.cast("dict[str, t.Any]", json.loads(printed.getvalue()))


def check(module: str, arguments: dict[str, t.Any], replies: list[tuple[int, bytes]]) -> None:
    result = run(module, arguments, replies)
    assert "exception" not in result
    if result.get("failed"):
        assert result["msg"]
        # one line, without what a terminal would act on
        assert result["msg"].isprintable()


def replies(fields: str) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    return st.lists(st.tuples(STATUSES, answers(fields)), min_size=1, max_size=4)


KV = {"key": "L2E=", "value": "Mg==", "mod_revision": "7", "create_revision": "3", "version": "2", "lease": "1"}
HEADER = {"revision": "9"}
READ = (200, {"header": HEADER, "succeeded": True, "responses": [{"response_range": {"kvs": [KV], "count": "1"}}]})
PREFIX = (200, {"header": HEADER, "kvs": [{**KV, "key": "L3A="}], "count": "1", "more": False})
WRITTEN = (200, {"header": HEADER, "succeeded": True, "responses": [{}, {}]})
LOGIN = (200, {"header": HEADER, "token": "T"})

OWN = {"ID": "5", "name": "m1", "peerURLs": ["https://h1:2380"], "clientURLs": ["https://h1:2379"]}
LEARNER = {"ID": "6", "peerURLs": ["https://h2:2380"], "isLearner": True}
LISTED = (200, {"header": HEADER, "members": [OWN]})
SAID = (200, {"header": {**HEADER, "member_id": "5"}, "version": "3.6.14", "leader": "5", "dbSize": "9", "errors": []})
ALARMED = (200, {"alarms": [{"memberID": "5", "alarm": "NOSPACE"}]})

MEMBER = {"key": "/_etcd/registry/x/1f", "value": "core-01=https://192.0.2.1:2380", "createdIndex": 4}
SIZE = (200, {"action": "get", "node": {"key": "k", "value": "3"}})
MEMBERS = (200, {"action": "get", "node": {"key": "k", "dir": True, "nodes": [MEMBER, {**MEMBER, "key": "/2f"}]}})
EMPTY = (200, {"action": "get", "node": {"key": "k", "dir": True}})
GONE = (404, {"errorCode": 100, "message": "Key not found"})

CONTENT = "[Service]\nExecStart=/bin/true\n"
OPTION = {"section": "Service", "name": "ExecStart", "value": "/bin/true"}
UNIT = {
    "name": "a.service",
    "options": [OPTION],
    "desiredState": "launched",
    "currentState": "launched",
    "machineID": "m1",
    "reason": "none",
}
STATE = {
    "name": "a.service",
    "hash": "",
    "machineID": "m1",
    "systemdLoadState": "loaded",
    "systemdActiveState": "active",
    "systemdSubState": "running",
}
GLOBAL = {**UNIT, "options": [OPTION, {"section": "X-Fleet", "name": "Global", "value": "true"}]}
STATES = (200, {"states": [STATE]})
MACHINES = (200, {"machines": [{"id": "m1", "primaryIP": "192.0.2.1", "metadata": {"disk": "ssd"}}]})

NEARLY = settings(deadline=None, max_examples=120)
ANYTHING = settings(deadline=None, max_examples=30)


def kv(**more: t.Any) -> dict[str, t.Any]:
    keys = [{"key": "/a", "value": "1"}, {"key": "/p", "prefix": True, "state": "absent"}]
    return {"keys": keys, "timeout": 1, "_ansible_diff": True, **more}


def test_the_usual_answers_are_those_of_a_usual_run():
    """What the tests below change a little would else not get as far as they should."""

    def usual(module: str, arguments: dict[str, t.Any], *found: tuple[int, t.Any]) -> dict[str, t.Any]:
        return run(module, arguments, [(status, json.dumps(body).encode()) for status, body in found])

    assert usual("etcd_kv", kv(), READ, PREFIX, WRITTEN)["deleted"] == ["/p"]
    assert usual("etcd_kv", kv(username="u", password="pppp"), LOGIN, READ, PREFIX, WRITTEN)["updated"] == ["/a"]
    assert usual("etcd_kv_info", {"keys": ["/a"], "prefixes": ["/p"]}, READ, PREFIX)["count"] == 2
    assert usual("etcd_discovery", {"token": f"https://h/{TOKEN}"}, SIZE, MEMBERS)["status"] == "burnt"
    assert usual("fleet_unit", {"name": "a", "content": CONTENT}, (200, UNIT), (200, UNIT), STATES)["changed"] is False
    whole = usual("fleet_unit", {"name": "a"}, (200, GLOBAL), (200, GLOBAL), STATES, MACHINES)
    assert whole["units"][0]["states"][0]["active"] == "active"
    assert usual("fleet_unit_info", {}, (200, {"units": [UNIT]}), STATES)["units"][0]["content"] == CONTENT
    assert usual("fleet_machine_info", {}, MACHINES)["machines"][0]["metadata"] == {"disk": "ssd"}


@NEARLY
@given(nearly(READ, PREFIX, WRITTEN))
def test_etcd_kv_nearly_right(found):
    check("etcd_kv", kv(), found)


@NEARLY
@given(nearly(LOGIN, READ, PREFIX, WRITTEN))
def test_etcd_kv_with_a_user_nearly_right(found):
    check("etcd_kv", kv(username="u", password="pppp"), found)


@NEARLY
@given(nearly(READ, PREFIX))
def test_etcd_kv_info_nearly_right(found):
    check("etcd_kv_info", {"keys": ["/a"], "prefixes": ["/p"], "timeout": 1}, found)


@NEARLY
@given(nearly(SIZE, MEMBERS))
def test_etcd_discovery_nearly_right(found):
    check("etcd_discovery", {"token": f"https://h/{TOKEN}"}, found)


@NEARLY
@given(nearly(SIZE, EMPTY, SIZE, EMPTY, (200, {}), GONE, EMPTY))
def test_etcd_discovery_absent_nearly_right(found):
    check("etcd_discovery", {"token": f"https://h/{TOKEN}", "state": "absent"}, found)


@NEARLY
@given(nearly((200, UNIT), (200, UNIT), STATES))
def test_fleet_unit_nearly_right(found):
    check("fleet_unit", {"name": "a", "content": CONTENT, "timeout": 0.01, "_ansible_diff": True}, found)


@NEARLY
@given(nearly((200, GLOBAL), (200, GLOBAL), STATES, MACHINES))
def test_fleet_unit_global_nearly_right(found):
    check("fleet_unit", {"name": "a", "timeout": 0.01, "_ansible_diff": True}, found)


@NEARLY
@given(nearly((200, {"units": [UNIT], "nextPageToken": "x"}), (200, {"units": [GLOBAL]}), STATES))
def test_fleet_unit_info_nearly_right(found):
    check("fleet_unit_info", {}, found)


@NEARLY
@given(nearly(MACHINES))
def test_fleet_machine_info_nearly_right(found):
    check("fleet_machine_info", {}, found)


@NEARLY
@given(nearly(LISTED, SAID, (200, {"member": LEARNER}), LISTED, SAID))
def test_etcd_member_nearly_right(found):
    check("etcd_member", {"peer_urls": ["https://h2:2380"], "timeout": 0.5, "_ansible_diff": True}, found)


@NEARLY
@given(nearly(LISTED, SAID, ALARMED, (200, {})))
def test_etcd_maintenance_nearly_right(found):
    check("etcd_maintenance", {"disarm": ["NOSPACE"], "timeout": 0.5}, found)


@ANYTHING
@given(replies(ETCD), st.sampled_from(["present", "promoted", "absent", "leader", "follower"]))
def test_etcd_member(found, state):
    check("etcd_member", {"name": "m1", "peer_urls": ["https://h"], "state": state, "timeout": 0.5}, found)


AUTH = {
    "username": "root",
    "password": "secret of root",
    "roles": [{"name": "a", "permissions": [{"key": "/a/", "prefix": True, "access": "readwrite"}]}],
    "users": [{"name": "root", "password": "secret of root"}, {"name": "a", "password": "secret of a"}],
    "timeout": 0.5,
}
PERMISSIONS = (200, {"perm": [{"permType": "WRITE", "key": "L2Ev", "range_end": "L2Iv"}]})


@NEARLY
@given(
    nearly(
        (200, {"token": "t"}),
        (200, {"roles": ["a", "root"]}),
        (200, {"users": ["a"]}),
        PERMISSIONS,
        (200, {}),
        (200, {}),
    )
)
def test_etcd_auth_nearly_right(found):
    check("etcd_auth", AUTH, found)


@ANYTHING
@given(replies(ETCD))
def test_etcd_auth(found):
    check("etcd_auth", AUTH, found)


LEFT = {"machines": ["a" * 32], "prefix": "/a/", "timeout": 0.5, "_ansible_diff": True}
GONE = [f"fleet-machine-{'b' * 32}", "root"]


@NEARLY
@given(nearly((200, {"users": GONE}), (200, {"roles": GONE}), (200, {"kvs": [], "count": "0"}), PERMISSIONS, (200, {})))
def test_fleet_etcd_users_nearly_right(found):
    check("fleet_etcd_users", LEFT, found)


@ANYTHING
@given(replies(ETCD + " users roles"))
def test_fleet_etcd_users(found):
    check("fleet_etcd_users", LEFT, found)


ROLE = {"name": "a", "permissions": [{"key": "", "prefix": True, "access": "readwrite"}], "timeout": 0.5}
USER = {"name": "a", "new_password": "secret of a", "roles": ["b"], "timeout": 0.5}


@NEARLY
@given(nearly((200, {"roles": ["a"]}), (200, {"users": ["a"]}), PERMISSIONS, (200, {})))
def test_etcd_role_nearly_right(found):
    check("etcd_role", {**ROLE, "_ansible_diff": True}, found)


@NEARLY
@given(
    nearly(
        (200, {"roles": ["a"]}),
        (200, {"users": ["a"]}),
        (200, {"roles": ["c"]}),
        (400, {"code": 3, "message": "authentication failed"}),
        (200, {}),
    )
)
def test_etcd_user_nearly_right(found):
    check("etcd_user", {**USER, "_ansible_diff": True}, found)


@ANYTHING
@given(replies(ETCD), st.sampled_from(["present", "absent"]))
def test_etcd_role_and_user(found, state):
    check("etcd_role", {**ROLE, "state": state}, found)
    check("etcd_user", {**USER, "state": state}, found)


@ANYTHING
@given(replies(ETCD))
def test_etcd_maintenance(found):
    arguments = {"keep_revisions": 1, "defragment": True, "least_bytes": 0, "disarm": ["NOSPACE"], "timeout": 0.5}
    check("etcd_maintenance", arguments, found)


@ANYTHING
@given(replies(ETCD), st.booleans())
def test_etcd_kv(found, user):
    check("etcd_kv", kv(username="u", password="pppp") if user else kv(), found)


@ANYTHING
@given(replies(ETCD))
def test_etcd_kv_info(found):
    check("etcd_kv_info", {"keys": ["/a"], "prefixes": ["/p"], "timeout": 1}, found)


@ANYTHING
@given(replies(DISCOVERY), st.sampled_from(["present", "absent"]))
def test_etcd_discovery_of_a_token(found, state):
    check("etcd_discovery", {"token": f"https://h/{TOKEN}", "state": state}, found)


@ANYTHING
@given(replies(DISCOVERY))
def test_etcd_discovery_of_a_new_token(found):
    check("etcd_discovery", {"url": "https://h", "size": 3}, [(200, f"https://h/{TOKEN}".encode()), *found])


@ANYTHING
@given(replies(FLEET), st.sampled_from(["inactive", "loaded", "launched", "absent"]), st.booleans())
def test_fleet_unit(found, state, content):
    more = {"content": CONTENT} if content else {}
    check("fleet_unit", {"name": "a.service", "state": state, "timeout": 0.01, "_ansible_diff": True, **more}, found)


@ANYTHING
@given(replies(FLEET), st.sampled_from([None, ["a.service"]]))
def test_fleet_unit_info(found, names):
    check("fleet_unit_info", {"names": names}, found)


@ANYTHING
@given(replies(FLEET))
def test_fleet_machine_info(found):
    check("fleet_machine_info", {}, found)
