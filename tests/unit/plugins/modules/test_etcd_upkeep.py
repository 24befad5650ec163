# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""etcd_snapshot, etcd_maintenance and etcd_wait against a scripted gateway."""

from __future__ import annotations

import base64
import hashlib
import json
import threading

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import Member, Status, View
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_maintenance import Wanted, due, in_order
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

SNAPSHOT = "/v3/maintenance/snapshot"
PAGES = bytes(range(256)) * 20
WHOLE = PAGES + hashlib.sha256(PAGES).digest()


def look(server):
    own = {"ID": "5", "name": "m1", "peerURLs": ["https://h1:2380"], "clientURLs": [server.url]}
    status = {"header": {"member_id": "5", "revision": "7"}, "version": "3.6.14", "leader": "5"}
    return [
        Exchange("POST", "/v3/cluster/member/list", ANY, answer={"members": [own]}),
        Exchange("POST", "/v3/maintenance/status", ANY, answer=status),
    ]


def lines(*parts, error=None):
    found = [{"result": {"remaining_bytes": "1", "blob": base64.b64encode(part).decode()}} for part in parts]
    if error:
        found.append({"error": error})
    return "".join(json.dumps(line) + "\n" for line in found).encode()


def test_a_snapshot_is_saved(run_module, serve, tmp_path):
    server = serve()
    answer = lines(WHOLE[:1000], WHOLE[1000:4000], WHOLE[4000:])
    server._script += [*look(server), Exchange("POST", SNAPSHOT, {}, answer=answer)]
    path = tmp_path / "a.snapshot"
    result = run_module("etcd_snapshot", endpoints=[server.url], path=str(path))
    assert (result["changed"], result["size"], result["revision"]) == (True, len(WHOLE), 7)
    assert path.read_bytes() == WHOLE
    assert result["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lines(WHOLE[:1000], WHOLE[1001:] + b"x"), "is damaged"),
        (lines(WHOLE[:1024]), "so it is no whole snapshot of etcd"),
        (b"", "so it is no whole snapshot of etcd"),
        (lines(WHOLE[:1024], error={"grpc_code": 14, "message": "etcdserver: no leader"}), "'etcdserver: no leader'"),
        (lines(WHOLE[:1024], error={"code": 13, "message": "disk gone"}), "'disk gone' (gRPC code 13)"),
        (b"<html>", "not JSON"),
        (b'{"result": 3}', "field result is not an object"),
        (b'{"result": {"blob": "%"}}', "field result.blob is not base64"),
    ],
)
def test_what_is_no_whole_snapshot_replaces_none(run_module, serve, tmp_path, answer, words):
    server = serve()
    server._script += [*look(server), Exchange("POST", SNAPSHOT, {}, answer=answer)]
    path = tmp_path / "a.snapshot"
    path.write_bytes(b"yesterday's")
    result = run_module("etcd_snapshot", endpoints=[server.url], path=str(path))
    assert words in result["msg"]
    assert "exception" not in result
    assert [item.name for item in tmp_path.iterdir()] == ["a.snapshot"]
    assert path.read_bytes() == b"yesterday's"


def test_a_stream_that_breaks_off_is_told(run_module, serve, tmp_path):
    server = serve()
    cut = Exchange("POST", SNAPSHOT, {}, answer=lines(WHOLE[:1024]), headers={"Content-Length": "9999"})
    server._script += [*look(server), cut]
    result = run_module("etcd_snapshot", endpoints=[server.url], path=str(tmp_path / "a"))
    assert "msg" in result
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "here"}, "give an absolute path"),
        ({"path": "/nonexistent/x", "state": "verified"}, "cannot be read: no such file or directory"),
        ({"path": "/x", "state": "restored"}, "all of the following are missing"),
    ],
)
def test_bad_options_are_told(run_module, monkeypatch, tmp_path, options, words):
    monkeypatch.chdir(tmp_path)
    result = run_module("etcd_snapshot", endpoints=["http://127.0.0.1:1"], **options)
    if words == "give an absolute path":
        # Ansible makes it absolute
        assert "msg" in result
    else:
        assert words in result["msg"]


def test_a_restore_needs_the_member_in_the_cluster(run_module, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(WHOLE)
    common = {"path": str(path), "state": "restored", "data_dir": str(tmp_path), "token": "t"}
    other = run_module("etcd_snapshot", name="m2", initial_cluster={"m1": "https://h1:2380"}, **common)
    assert "name 'm2' is none of initial_cluster (m1)" in other["msg"]
    none = run_module(
        "etcd_snapshot", name="m1", initial_cluster={"m1": "https://h1:2380"}, programs=["/nonexistent"], **common
    )
    assert "none of /nonexistent is there to restore a snapshot with" in none["msg"]
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def status(number, leader=1, size=1000, used=1000):
    return Status("", number, "3.6.14", size, leader, 1, 1, 1, 1, False, (), used)


@pytest.mark.parametrize(
    ("size", "used", "share", "least", "is_due"),
    [
        (1000, 400, 0.5, 0, True),
        (1000, 600, 0.5, 0, False),
        (1000, 0, 0.5, 2000, False),
        (1000, 1000, 0.0, 0, True),
        (0, 0, 0.0, 0, False),
        (1000, 0, None, 0, False),
    ],
)
def test_when_a_database_is_written_anew(size, used, share, least, is_due):
    assert due(status(1, size=size, used=used), Wanted(None, share, least, ())) is is_due


def test_the_leader_comes_last():
    members = tuple(Member(number, f"m{number}", (), ("https://h",), False) for number in (1, 2, 3))
    seen = View(members, {1: status(1), 2: status(2), 3: "refused"})
    assert [member.name for member, _status in in_order(seen)] == ["m2", "m1"]


def test_alarms_are_disarmed_one_by_one(run_module, serve):
    server = serve()
    alarms = {"alarms": [{"memberID": "5", "alarm": "NOSPACE"}, {"memberID": "6", "alarm": "CORRUPT"}]}
    server._script += [
        *look(server),
        Exchange("POST", "/v3/maintenance/alarm", {"action": "GET"}, answer=alarms),
        Exchange(
            "POST",
            "/v3/maintenance/alarm",
            {"action": "DEACTIVATE", "memberID": "5", "alarm": "NOSPACE"},
            answer={},
        ),
    ]
    result = run_module("etcd_maintenance", endpoints=[server.url], disarm=["NOSPACE"])
    assert (result["changed"], result["disarmed"]) == (True, [{"name": "m1", "alarm": "NOSPACE"}])


def test_a_cluster_that_is_not_whole_is_left_alone(run_module, serve):
    server = serve()
    (listed, _status) = look(server)
    silent = {"ID": "6", "name": "m2", "peerURLs": ["https://h2"], "clientURLs": ["http://127.0.0.1:1"]}
    listed.answer["members"].append(silent)
    server._script += [listed, _status]
    result = run_module("etcd_maintenance", endpoints=[server.url], keep_revisions=0)
    assert "nothing is done to a cluster that is not whole: m2 does not answer" in result["msg"]


RANGE = "/v3/kv/range"


def b64(data):
    return base64.b64encode(data).decode()


def test_a_key_that_is_there_is_not_waited_for(run_module, serve):
    answer = {"header": {"revision": "9"}, "kvs": [{"key": b64(b"/w"), "value": b64(b"up 7")}], "count": "1"}
    server = serve(Exchange("POST", RANGE, {"key": b64(b"/w")}, answer=answer))
    result = run_module("etcd_wait", endpoints=[server.url], key="/w", pattern="^up [0-9]$")
    assert (result["value"], result["revision"], result["changed"]) == ("up 7", 9, False)


def test_a_watch_ends_the_wait_with_the_event(run_module, serve):
    def event(value, revision):
        kv = {"key": b64(b"/w"), "value": b64(value)}
        found = {"result": {"header": {"revision": str(revision)}, "events": [{"kv": kv}]}}
        return json.dumps(found).encode() + b"\n"

    now = threading.Event()
    now.set()
    created = json.dumps({"result": {"header": {"revision": "9"}, "created": True}}).encode() + b"\n"
    server = serve(
        Exchange("POST", RANGE, {"key": b64(b"/w")}, answer={"header": {"revision": "9"}}),
        Exchange(
            "POST",
            "/v3/watch",
            {"create_request": {"key": b64(b"/w"), "start_revision": "10"}},
            stream=[(now, created), (now, event(b"no", 10)), (now, event(b"yes", 11))],
        ),
    )
    result = run_module("etcd_wait", endpoints=[server.url], key="/w", value="yes", timeout=10)
    assert (result["value"], result["revision"]) == ("yes", 11)


def test_a_watch_that_breaks_off_is_begun_anew(run_module, serve):
    answer = {"header": {"revision": "12"}}
    present = {**answer, "kvs": [{"key": b64(b"/w"), "value": b64(b"x")}]}
    server = serve(
        Exchange("POST", RANGE, ANY, answer=present),
        Exchange("POST", "/v3/watch", ANY, hang_up=True),
        Exchange("POST", RANGE, ANY, answer=answer),
    )
    result = run_module("etcd_wait", endpoints=[server.url], key="/w", state="absent", timeout=10)
    assert (result["value"], result["revision"]) == (None, 12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": ""}, "key is empty"),
        ({"key": "/w", "pattern": "("}, "is no regular expression"),
        ({"key": "/w", "value": "x", "state": "absent"}, "a key that is gone has no value"),
    ],
)
def test_a_wait_for_what_cannot_be_is_refused(run_module, options, words):
    assert words in run_module("etcd_wait", endpoints=["http://127.0.0.1:1"], **options)["msg"]
