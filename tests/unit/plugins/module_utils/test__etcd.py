# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The etcd client, and what etcd_kv decides with it: against a scripted gateway and a small etcd in memory."""

from __future__ import annotations

import base64
import typing as t

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd, _etcd_kv
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    EtcdClient,
    EtcdError,
    EtcdUnavailable,
    EtcdUncertain,
    Fields,
    cut,
    prefix_end,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import HttpError, OptionError, Reply
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")],
)
def test_prefix_ends(prefix, end):
    assert prefix_end(prefix) == end


@hypothesis.given(st.binary(min_size=1, max_size=4), st.binary(max_size=5))
def test_a_prefix_end_parts_what_begins_so_from_all_else(prefix, key):
    end = prefix_end(prefix)
    inside = prefix <= key and (key < end or end == b"\0")
    assert inside == key.startswith(prefix)


@hypothesis.given(st.lists(st.integers(0, 2_000_000), max_size=400))
def test_transactions_keep_order_and_bounds(sizes):
    batches = cut(sizes, lambda size: size)
    assert [size for batch in batches for size in batch] == sizes
    for batch in batches:
        assert 0 < len(batch) <= 128
        assert len(batch) == 1 or sum(batch) <= 1_400_000
    # and none is cut too early
    for left, right in zip(batches, batches[1:]):
        assert len(left) == 128 or sum(left) + right[0] > 1_400_000


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
    learner, voter = EtcdClient([server.url]).member_list()
    assert (voter.id, voter.name, voter.client_urls, voter.started) == (18249187646912138824, "core-02", ("c",), True)
    assert (learner.is_learner, learner.started, learner.peer_urls) == (True, False, ("https://c:2380",))


def test_status_of_one_member(serve):
    answer = {"header": {"member_id": "5", "revision": "41"}, "version": "3.5.16", "dbSize": "20480", "raftTerm": "3"}
    one, other = serve(), serve(post("/maintenance/status", answer, {}))
    status = EtcdClient([one.url, other.url]).status(other.url)
    assert (status.endpoint, status.member_id, status.version) == (other.url, 5, "3.5.16")
    assert (status.db_size, status.revision, status.raft_term, status.leader) == (20480, 41, 3, 0)


def test_an_endpoint_that_is_not_one_of_the_clients_is_refused():
    with pytest.raises(OptionError, match="is not one of the endpoints"):
        EtcdClient(["http://127.0.0.1:1"]).status("http://127.0.0.1:2")


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


class MemoryEtcd(EtcdClient):
    """An etcd in memory behind the client: revisions, compares, and troubles in the order given.

    :param troubles: for each request that writes: None; "lost", done but not answered; "dropped", not done and
        not answered; or a (key, value) that another writer writes just before
    """

    def __init__(self, data: dict[bytes, bytes], troubles: list[t.Any]) -> None:
        super().__init__(["http://127.0.0.1:1"])
        self.revision = 1
        self.data = {key: (value, 1) for key, value in data.items()}
        self.troubles = list(troubles)
        self.writes = 0

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.data.pop(key, None)
        else:
            self.data[key] = (value, self.revision)

    def call(self, path: str, body: dict[str, t.Any], *, write: bool = False, endpoint: str | None = None) -> Fields:
        if write:
            self.writes += 1
            trouble = self.troubles.pop(0) if self.troubles else None
            if isinstance(trouble, tuple):
                self.revision += 1
                self.write(*trouble)
            if trouble == "dropped":
                raise EtcdUncertain("not answered")
            answer = self.txn_answer(body)
            if trouble == "lost":
                raise EtcdUncertain("not answered")
        else:
            answer = self.range_answer(body) if path == "/kv/range" else self.txn_answer(body)
        return Fields(Reply("POST memory", 200, "", b""), answer)

    def span(self, body: dict[str, t.Any]) -> list[bytes]:
        key, end = (base64.b64decode(body.get(name, "")) for name in ("key", "range_end"))
        return sorted(found for found in self.data if (key <= found < end if end else found == key))

    def range_answer(self, body: dict[str, t.Any]) -> dict[str, t.Any]:
        found = self.span(body)
        limit = int(body.get("limit", "0")) or len(found)
        kvs = [
            {
                "key": base64.b64encode(key).decode(),
                "value": "" if body.get("keys_only") else base64.b64encode(self.data[key][0]).decode(),
                "mod_revision": str(self.data[key][1]),
            }
            for key in found[:limit]
        ]
        more = len(found) > limit
        return {"header": {"revision": str(self.revision)}, "kvs": kvs, "count": str(len(found)), "more": more}

    def holds(self, compare: dict[str, t.Any]) -> bool:
        limit = int(compare["mod_revision"])
        if compare["result"] == "LESS":
            return all(self.data[key][1] < limit for key in self.span(compare))
        revisions = [self.data[key][1] for key in self.span(compare)] or [0]
        return revisions == [limit]

    def txn_answer(self, body: dict[str, t.Any]) -> dict[str, t.Any]:
        if not all(self.holds(compare) for compare in body.get("compare", [])):
            return {"header": {"revision": str(self.revision)}}
        operations = body.get("success", [])
        assert len(operations) <= 128
        if any("request_range" not in operation for operation in operations):
            self.revision += 1
        responses = []
        for operation in operations:
            ((kind, request),) = operation.items()
            if kind == "request_range":
                responses.append({"response_range": self.range_answer(request)})
                continue
            for key in self.span(request) if kind == "request_delete_range" else [base64.b64decode(request["key"])]:
                self.write(key, base64.b64decode(request["value"]) if kind == "request_put" else None)
            responses.append({})
        return {"header": {"revision": str(self.revision)}, "succeeded": True, "responses": responses}


NAMES = [b"a", b"b", b"c", b"p/1", b"p/2", b"p/\xff"]
VALUES = st.sampled_from([b"1", b"2", b"3"])
STORED = st.dictionaries(st.sampled_from(NAMES), VALUES)
WANTED = st.dictionaries(st.sampled_from(NAMES[:3]), st.one_of(st.none(), VALUES), min_size=1)
OTHERS = st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), VALUES))
TROUBLES = st.lists(st.one_of(st.none(), st.sampled_from(["lost", "dropped"]), OTHERS), max_size=4)


def entries(wanted: dict[bytes, bytes | None], prefix: bool) -> list[_etcd_kv.Wanted]:
    found = [_etcd_kv.Wanted(key, value) for key, value in wanted.items()]
    return found + ([_etcd_kv.Wanted(b"p/", None, True)] if prefix else [])


@hypothesis.given(STORED, WANTED, st.booleans(), TROUBLES)
def test_whatever_goes_wrong_the_keys_end_as_wanted(stored, wanted, prefix, troubles):
    etcd = MemoryEtcd(stored, troubles)
    outcome = _etcd_kv.apply(etcd, entries(wanted, prefix), check=False, values=True)
    # what others wrote after it was read, while other keys were still to be written, is theirs
    others = {trouble[0] for trouble in troubles if isinstance(trouble, tuple)}
    for key, value in wanted.items():
        assert key in others or etcd.data.get(key, (None, 0))[0] == value
    if prefix:
        assert not [key for key in etcd.data if key.startswith(b"p/") and key not in others]
    untouched = {key: value for key, value in stored.items() if key not in wanted and not (prefix and key[:1] == b"p")}
    for key, value in untouched.items():
        assert key in others or etcd.data[key][0] == value
    # all that is as it was not at first is told, unless someone else did it
    for key, value in wanted.items():
        if stored.get(key) != value and key not in others:
            assert (outcome.changes[key].before, outcome.changes[key].after) == (stored.get(key), value)


@hypothesis.given(STORED, WANTED, st.booleans())
def test_check_mode_tells_exactly_what_is_done_without_it(stored, wanted, prefix):
    told, done = (
        (etcd, _etcd_kv.apply(etcd, entries(wanted, prefix), check=check, values=True))
        for check in (True, False)
        for etcd in [MemoryEtcd(stored, [])]
    )
    assert told[0].writes == 0
    assert told[1].changes == done[1].changes
    assert done[0].writes == (1 if done[1].changes else 0)
    again = _etcd_kv.apply(done[0], entries(wanted, prefix), check=False, values=True)
    assert again.changes == {}
    assert done[0].writes == (1 if done[1].changes else 0)


@hypothesis.given(STORED, st.sampled_from(NAMES[:3]), VALUES, st.lists(st.one_of(st.none(), VALUES), max_size=3))
def test_one_key_ends_as_wanted_whoever_else_writes_it(stored, key, value, writes):
    etcd = MemoryEtcd(stored, [(key, other) for other in writes])
    outcome = _etcd_kv.apply(etcd, [_etcd_kv.Wanted(key, value)], check=False, values=True)
    # nobody writes after our last request, and a request that came too late changed nothing
    assert etcd.data[key][0] == value
    assert etcd.writes <= len(writes) + 1
    if outcome.changes:
        assert outcome.changes[key].before == ([stored.get(key), *writes])[etcd.writes - 1]


def test_a_prefix_of_many_pages_is_read_whole():
    etcd = MemoryEtcd({b"p/%04d" % number: b"x" for number in range(2500)}, [])
    assert len(etcd.read_prefix(b"p/").kvs) == 2500
    assert [len(etcd.read_prefix(b"p/", limit=limit).kvs) for limit in (1, 1000, 1500, 9999)] == [1, 1000, 1500, 2500]
    assert etcd.read_prefix(b"p/", limit=1500).count == 2500
