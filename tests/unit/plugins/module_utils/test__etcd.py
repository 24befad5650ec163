# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The etcd client against a scripted gateway."""

from __future__ import annotations

import base64
import typing as t

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    EtcdClient,
    EtcdError,
    EtcdUnavailable,
    EtcdUncertain,
    Fields,
    prefix_end,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import EtcdClusterClient
from ansible_collections.flotilla.cluster.plugins.module_utils._http import HttpError, OptionError, Reply
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")],
)
def test_prefix_ends(prefix, end):
    assert prefix_end(prefix) == end


def post(path: str, answer: t.Any, sent: t.Any = ANY, **more: t.Any) -> Exchange:
    return Exchange("POST", f"/v3{path}", sent, answer=answer, **more)


def test_members_of_the_cluster(serve):
    server = serve(
        post(
            "/cluster/member/list",
            {
                "header": {"cluster_id": "17237436991929493444", "member_id": "1", "raft_term": "2"},
                "members": [
                    {
                        "ID": "18249187646912138824",
                        "name": "core-02",
                        "peerURLs": ["https://b:2380"],
                        "clientURLs": ["c"],
                    },
                    {"ID": "7", "peerURLs": ["https://c:2380"], "isLearner": True},
                ],
            },
            {},
        )
    )
    learner, voter = EtcdClusterClient([server.url]).member_list()
    assert (voter.id, voter.name, voter.client_urls, voter.started) == (18249187646912138824, "core-02", ("c",), True)
    assert (learner.is_learner, learner.started, learner.peer_urls) == (True, False, ("https://c:2380",))


def test_status_of_one_member(serve):
    answer = {"header": {"member_id": "5", "revision": "41"}, "version": "3.5.16", "dbSize": "20480", "raftTerm": "3"}
    one, other = serve(), serve(post("/maintenance/status", answer, {}))
    status = EtcdClusterClient([one.url, other.url]).status(other.url)
    assert (status.endpoint, status.member_id, status.version) == (other.url, 5, "3.5.16")
    assert (status.db_size, status.revision, status.raft_term, status.leader) == (20480, 41, 3, 0)


def test_an_endpoint_that_is_not_one_of_the_clients_is_refused():
    with pytest.raises(OptionError, match="is not one of the endpoints"):
        EtcdClusterClient(["http://127.0.0.1:1"]).status("http://127.0.0.1:2")


def test_put_and_delete(serve):
    key = base64.b64encode(b"/k").decode()
    server = serve(
        post("/kv/put", {"header": {"revision": "5"}}, {"key": key, "value": "AP8=", "lease": "9"}),
        post("/kv/deleterange", {"header": {"revision": "6"}, "deleted": "2"}, {"key": key, "range_end": "L2s="}),
    )
    client = EtcdClient([server.url])
    assert client.put(b"/k", b"\x00\xff", lease=9) == 5
    result = client.delete(b"/k", b"/k")
    assert (result.deleted, result.revision) == (2, 6)


def test_the_other_branch_of_a_transaction(serve):
    server = serve(
        post(
            "/kv/txn",
            {
                "header": {"revision": "5"},
                "responses": [{"response_range": {"kvs": [{"key": "aw==", "value": "dg=="}]}}],
            },
        )
    )
    compare = _etcd.unmodified(b"k", 1)
    result = EtcdClient([server.url]).txn([compare], [_etcd.request_put(b"k", b"x")], [_etcd.request_range(b"k")])
    assert result.succeeded is False
    assert result.ranges[0].kvs[0].value == b"v"


@pytest.mark.parametrize("call", ["put", "delete"])
@pytest.mark.parametrize("trouble", [{"hang_up": True}, {"status": 503, "answer": {"code": 14, "message": "x"}}])
def test_a_write_is_never_sent_twice(serve, call, trouble):
    server = serve(Exchange("POST", ANY, ANY, **trouble))
    server._script[0].path = {"put": "/v3/kv/put", "delete": "/v3/kv/deleterange"}[call]
    client = EtcdClient([server.url, "http://127.0.0.1:1"])
    with pytest.raises(EtcdUncertain, match="the write may have been done"):
        getattr(client, call)(*([b"k", b"v"] if call == "put" else [b"k"]))


def test_a_write_that_was_not_sent_goes_to_the_next_endpoint(serve):
    server = serve(post("/kv/put", {"header": {"revision": "5"}}))
    assert EtcdClient(["http://127.0.0.1:1", server.url]).put(b"k", b"v") == 5


def test_a_read_goes_round_all_endpoints_and_says_what_each_said(serve):
    no_leader = [post("/kv/range", {"code": 14, "message": "etcdserver: no leader"}, status=503)] * 3
    server = serve(*no_leader)
    with pytest.raises(EtcdUnavailable) as caught:
        EtcdClient(["http://127.0.0.1:1", server.url]).range(b"k")
    assert f"{server.url}: 'etcdserver: no leader'" in str(caught.value)
    assert "http://127.0.0.1:1: connection refused" in str(caught.value)
    assert "check that a majority of the members runs" in str(caught.value)


def test_the_whole_run_ends_at_its_deadline(serve):
    slow = [post("/kv/range", {}, stalls=3.0)]
    client = EtcdClient([serve(*slow).url], request_timeout=5, timeout=0.3)
    with pytest.raises(EtcdUnavailable, match=r"no whole answer within 0\.\d+ s"):
        client.range(b"k")
    with pytest.raises(EtcdUnavailable, match=r"not sent, as the 0\.3 s for all requests have passed"):
        client.range(b"k")


def test_errors_keep_code_and_words(serve):
    server = serve(post("/kv/range", {"code": 11, "message": "required revision has been compacted"}, status=400))
    with pytest.raises(EtcdError) as caught:
        EtcdClient([server.url]).range(b"k", revision=1)
    assert (caught.value.code, caught.value.message) == (11, "required revision has been compacted")


def test_old_etcd_puts_the_words_elsewhere(serve):
    old = {"error": "etcdserver: duplicate key given in txn request", "code": 3}
    with pytest.raises(EtcdError, match="duplicate key"):
        EtcdClient([serve(post("/kv/txn", old, status=400)).url]).txn([], [])


@pytest.mark.parametrize("value", ["", "x", "1.5", [], {}, True, 1.5, None, "9" * 21, "\u0663"])
def test_what_is_no_integer(value):
    fields = Fields(Reply("POST u", 200, "", b""), {"n": value})
    if value == "\u0663":
        # a digit, though not one that etcd sends
        assert fields.integer("n") == 3
        return
    with pytest.raises(Exception, match="field n is not a 64-bit integer"):
        fields.integer("n")


@pytest.mark.parametrize("value", ["\u00e9", "%%", "a", "YQ==\n", 3, None])
def test_what_is_no_base64(value):
    fields = Fields(Reply("POST u", 200, "", b""), {"n": value})
    with pytest.raises(HttpError, match=r"field n is not (base64|a string)"):
        fields.octets("n")
