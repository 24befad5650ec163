# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""etcd_member: what it refuses is decided on views, what it asks is seen by a scripted gateway."""

from __future__ import annotations

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import Member, Status, View
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_member import (
    Wanted,
    next_leader,
    refuse_add,
    refuse_remove,
)
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

LIST = "/v3/cluster/member/list"


def member(number, *, learner=False, joined=True):
    urls = (f"https://h{number}:2379",) if joined else ()
    return Member(number, f"m{number}" if joined else "", (f"https://h{number}:2380",), urls, learner)


def status(number, leader=1, applied=10):
    return Status("", number, "3.6.14", 1, leader, 1, applied, applied, 1, False, ())


def view(*members, silent=(), applied=None):
    told = {
        item.id: "refused" if item.id in silent else status(item.id, applied=(applied or {}).get(item.id, 10))
        for item in members
        if item.client_urls
    }
    return View(members, told)


VOTERS = [member(number) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("seen", "which", "words"),
    [
        (view(*VOTERS), 3, ""),
        (view(*VOTERS, silent=[3]), 3, ""),
        (view(*VOTERS, silent=[3]), 2, "of the 2 voting members that are left 1 would answer (m1), and 2 are needed"),
        (view(VOTERS[0]), 1, "it is the last voting member"),
        (view(*VOTERS[:2], silent=[2]), 2, ""),
        (view(*VOTERS[:2], silent=[2]), 1, "(none)"),
        # a learner has no vote to lose
        (view(VOTERS[0], member(2, learner=True)), 2, ""),
        (view(VOTERS[0], member(2, learner=True)), 1, "it is the last voting member"),
    ],
)
def test_removing(seen, which, words):
    reason = refuse_remove(seen, next(item for item in seen.members if item.id == which))
    assert (words in reason) if words else reason == ""


@pytest.mark.parametrize(
    ("seen", "learner", "words"),
    [
        (view(*VOTERS), True, ""),
        (view(*VOTERS), False, ""),
        (view(*VOTERS, silent=[2]), True, "m2 does not answer: bring it back, or remove it first"),
        (view(*VOTERS, member(4, joined=False, learner=True)), True, "was added and has not joined yet"),
        (view(*VOTERS, member(4, joined=False)), False, "was added and has not joined yet"),
        (view(*VOTERS, member(4, learner=True)), True, "m4 is a learner still: promote it first"),
    ],
)
def test_adding(seen, learner, words):
    reason = refuse_add(seen, Wanted("present", peer_urls=("https://new:2380",), learner=learner))
    assert (words in reason) if words else reason == ""


def test_the_voter_that_has_got_furthest_leads_next():
    seen = view(*VOTERS, member(4, learner=True), silent=[3], applied={1: 50, 2: 40, 4: 60})
    assert next_leader(seen, VOTERS[0]) == VOTERS[1]
    assert next_leader(view(VOTERS[0]), VOTERS[0]) is None


def listing(url, *more):
    own = {"ID": "5", "name": "m1", "peerURLs": ["https://h1:2380"], "clientURLs": [url]}
    return Exchange("POST", LIST, ANY, answer={"members": [own, *more]})


def saying():
    answer = {"header": {"member_id": "5"}, "version": "3.6.14", "leader": "5"}
    return Exchange("POST", "/v3/maintenance/status", ANY, answer=answer)


def look(server, *more):
    return [listing(server.url, *more), saying()]


NEW = {"ID": "6", "peerURLs": ["https://h2:2380"], "isLearner": True}
ADD = {"peerURLs": ["https://h2:2380"], "isLearner": True}


def refusal(path, message, code=14, status=503):
    return Exchange("POST", path, ANY, status=status, answer={"code": code, "message": message})


def test_an_unhealthy_cluster_is_asked_again(run_module, serve, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server = serve()
    server._script += [
        *look(server),
        refusal("/v3/cluster/member/add", "etcdserver: unhealthy cluster"),
        *look(server),
        Exchange("POST", "/v3/cluster/member/add", ADD, answer={"member": NEW}),
        *look(server, NEW),
    ]
    result = run_module("etcd_member", endpoints=[server.url], peer_urls=["https://h2:2380"])
    assert result["changed"] is True
    assert result["member"] == {
        "id": "6", "name": "", "learner": True, "peer_urls": ["https://h2:2380"], "client_urls": [],
    }  # fmt: skip


def test_an_addition_without_an_answer_is_not_done_twice(run_module, serve):
    server = serve()
    server._script += [
        *look(server),
        Exchange("POST", "/v3/cluster/member/add", ADD, hang_up=True),
        *look(server, NEW),
        *look(server, NEW),
    ]
    assert run_module("etcd_member", endpoints=[server.url], peer_urls=["https://h2:2380"])["changed"] is True


def test_another_refusal_is_told(run_module, serve):
    server = serve()
    server._script += [*look(server), refusal("/v3/cluster/member/add", "etcdserver: Peer URLs already exists", 9, 400)]
    result = run_module("etcd_member", endpoints=[server.url], peer_urls=["https://h2:2380"])
    assert "Peer URLs already exists" in result["msg"]


def test_a_learner_is_promoted_when_it_has_caught_up(run_module, serve, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server = serve()
    learner = {**NEW, "name": "m2", "clientURLs": ["http://127.0.0.1:1"]}
    voter = {**learner, "isLearner": False}
    path = "/v3/cluster/member/promote"
    server._script += [
        *look(server, learner),
        refusal(path, "etcdserver: can only promote a learner member which is in sync with leader", 9, 400),
        *look(server, learner),
        Exchange("POST", path, {"ID": "6"}, answer={}),
        *look(server, voter),
    ]
    result = run_module("etcd_member", endpoints=[server.url], name="m2", state="promoted")
    assert (result["changed"], result["member"]["learner"]) == (True, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"state": "absent"}, "no member is named; give its name, its id or its peer_urls"),
        ({"name": "m9"}, "peer_urls is empty"),
        ({"id": "xyz", "state": "absent"}, "id is 'xyz'; give a member's id in hexadecimal digits"),
        ({"peer_urls": ["h2:2380"]}, "peer_urls 'h2:2380' is not a URL"),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(run_module, options, words):
    assert words in run_module("etcd_member", endpoints=["http://127.0.0.1:1"], **options)["msg"]


@pytest.mark.parametrize("state", ["promoted", "leader", "follower"])
def test_a_member_that_is_none_is_told(run_module, serve, state):
    server = serve()
    server._script += look(server)
    result = run_module("etcd_member", endpoints=[server.url], name="m9", state=state)
    assert result["msg"] == "m9 is none of the members (m1); add it first"
