# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import Member, Status, View, problems_of
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

NAMES = ["core-01", "core-02", "core-03"]


def member(number, **changes):
    return Member(
        **{
            "id": number,
            "name": f"core-0{number}",
            "peer_urls": (f"https://192.0.2.1{number}:2380",),
            "client_urls": (f"https://192.0.2.1{number}:2379",),
            "is_learner": False,
            **changes,
        }
    )


def status(number, leader=1, errors=(), **changes):
    return Status(
        **{
            "endpoint": f"https://192.0.2.1{number}:2379",
            "member_id": number,
            "version": "3.5.33",
            "db_size": 1,
            "leader": leader,
            "revision": 1,
            "raft_index": 1,
            "raft_applied_index": 1,
            "raft_term": 2,
            "is_learner": False,
            "errors": errors,
            **changes,
        }
    )


def view(members=None, **statuses):
    members = [member(number) for number in (1, 2, 3)] if members is None else members
    found = {number: status(number) for number in (1, 2, 3)}
    found.update({int(key[1:]): value for key, value in statuses.items()})
    return View(tuple(members), found)


def test_a_healthy_cluster():
    assert problems_of(view(), NAMES) == []


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (view(_2="GET ...: connection refused"), "core-02 does not answer (GET ...: connection refused)"),
        (view(_2=status(2, leader=0)), "core-02 has no leader"),
        (view(_3=status(3, leader=3)), "members follow different leaders"),
        (view(_3=status(3, errors=("alarm: NOSPACE",))), "core-03 reports alarm: NOSPACE"),
        (view(_3=status(3, member_id=9)), "core-03 should be member 3, but https://192.0.2.13:2379 is member 9"),
        (view([member(1), member(2)]), "core-03 is not in the member list"),
        (view([member(1), member(2), member(3, client_urls=())]), "core-03 has not joined yet"),
    ],
)
def test_what_is_wrong_is_said(seen, problem):
    assert problems_of(seen, NAMES) == [problem]


def test_an_added_member_without_a_name_has_its_url_as_name():
    seen = view([*(member(n) for n in (1, 2, 3)), member(4, name="", client_urls=())])
    assert problems_of(seen, NAMES) == ["the member at https://192.0.2.14:2380 has not joined yet"]


def test_other_members_can_be_left_out():
    assert problems_of(view(_3="dead"), NAMES[:2], others=False) == []
    assert problems_of(view(_2="dead"), NAMES[:2], others=False) == ["core-02 does not answer (dead)"]


def listing(url, number=5):
    answer = {"members": [{"ID": str(number), "name": "core-01", "peerURLs": ["https://p"], "clientURLs": [url]}]}
    return Exchange("POST", "/v3/cluster/member/list", ANY, answer=answer)


def saying(leader="5"):
    answer = {"header": {"member_id": "5"}, "version": "3.6.14", **({"leader": leader} if leader else {})}
    return Exchange("POST", "/v3/maintenance/status", ANY, answer=answer)


def scripted(serve, *statuses):
    """A server of one member; its own URL is in its answers, so the script is filled in afterwards."""
    server = serve()
    for item in statuses:
        server._script += [listing(server.url), item]
    return server


def test_the_whole_module(serve, run_module):
    server = scripted(serve, saying())
    result = run_module("etcd_cluster_info", endpoints=[server.url], members=["core-01"])
    assert (result["changed"], result["healthy"], result["problems"]) == (False, True, [])
    (found,) = result["members"]
    assert found["id"] == "5"
    assert (found["joined"], found["leader"], found["version"]) == (True, True, "3.6.14")


def test_it_waits_for_a_leader(serve, run_module):
    server = scripted(serve, saying(leader=""), saying())
    assert run_module("etcd_cluster_info", endpoints=[server.url], members=["core-01"], wait=True)["healthy"]


def test_it_fails_when_the_time_is_up(serve, run_module):
    server = scripted(serve, saying(leader=""))
    result = run_module("etcd_cluster_info", endpoints=[server.url], wait=True, timeout=0.2)
    assert result["failed"]
    assert result["msg"] == "the etcd cluster is not healthy after 0.2 s: core-01 has no leader"


def test_no_cluster_is_an_answer_too(run_module):
    result = run_module("etcd_cluster_info", endpoints=["http://127.0.0.1:1"], timeout=2)
    assert (result["healthy"], result["members"]) == (False, [])
    assert "connection refused" in result["problems"][0]


@pytest.mark.parametrize("made", [False, True])
def test_what_the_host_has(run_module, tmp_path, made):
    bootstrap = tmp_path / "bootstrap.env"
    if made:
        (tmp_path / "data/member/snap").mkdir(parents=True)
        for name in ("0000000000000004-00000000000186a2.snap", "0000000000000002-000000000000000a.snap", "db"):
            (tmp_path / "data/member/snap" / name).touch()
        (tmp_path / "data/member/wal").mkdir()
        bootstrap.write_text('FLOTILLA_ETCD_BOOTSTRAP="--initial-cluster=a --initial-cluster-state=new"\n')
    result = run_module(
        "etcd_cluster_info",
        endpoints=["http://127.0.0.1:1"],
        timeout=1,
        data_dir=str(tmp_path / "data"),
        bootstrap_file=str(bootstrap),
    )
    options = "--initial-cluster=a --initial-cluster-state=new" if made else ""
    disk = result["local"].pop("disk")
    assert (disk is not None and 0 < disk["free"] < disk["size"]) == made
    assert result["local"] == {
        "data": made,
        "bootstrap": options,
        "log": made,
        "snapshot_index": 100002 if made else 0,
    }


def test_a_host_without_requests(run_module, monkeypatch):
    monkeypatch.setattr(_http_session, "REQUESTS_ERROR", "no such module")
    assert "requests" in run_module("etcd_cluster_info")["msg"]
    result = run_module("etcd_cluster_info", _ansible_check_mode=True)
    assert (result["healthy"], "failed" in result) == (False, False)
