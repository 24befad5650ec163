# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What etcd_kv does about other writers and lost answers, against an etcd in memory that has both."""

from __future__ import annotations

import base64
import typing as t

import pytest

pytest.importorskip("requests")
pytest.importorskip("hypothesis")

import hypothesis
from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_kv
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    EtcdClient,
    EtcdUncertain,
    Fields,
    cut,
    prefix_end,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import Reply
from hypothesis import strategies as st


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
        self.leases: dict[int, int] = {}
        self.bound: dict[bytes, int] = {}

    def lease_answer(self, path: str, body: dict[str, t.Any]) -> dict[str, t.Any]:
        lease = int(body["ID"])
        if path == "/lease/grant":
            self.leases[lease] = max(2, int(body["TTL"]))
            return {"TTL": str(self.leases[lease])}
        if path == "/lease/revoke":
            del self.leases[lease]
            return {}
        if path == "/lease/keepalive":
            return {"result": {"TTL": str(self.leases.get(lease, 0))}}
        assert path == "/lease/timetolive"
        return {"grantedTTL": str(self.leases.get(lease, 0))}

    def write(self, key: bytes, value: bytes | None, lease: int = 0) -> None:
        self.bound[key] = lease
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
        elif path.startswith("/lease"):
            answer = self.lease_answer(path, body)
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
                "lease": str(self.bound.get(key, 0)),
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
                value = base64.b64decode(request["value"]) if kind == "request_put" else None
                self.write(key, value, int(request.get("lease", 0)))
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
    assert etcd.read_prefix(b"p/", limit=1500).total == 2500


SYNCED = st.dictionaries(st.sampled_from(NAMES), VALUES)


@hypothesis.given(STORED, SYNCED, TROUBLES)
def test_below_a_pruned_prefix_there_is_what_is_listed_and_nothing_else(stored, wanted, troubles):
    etcd = MemoryEtcd(stored, troubles)
    found = entries(wanted, False)
    outcome = _etcd_kv.apply(etcd, found, check=False, values=True, prune=[b"p/"])
    others = {trouble[0] for trouble in troubles if isinstance(trouble, tuple)}
    assert {key for key in etcd.data if key[:1] == b"p"} - others == {key for key in wanted if key[:1] == b"p"} - others
    assert {key for key in stored if key[:1] != b"p"} - others <= set(etcd.data)
    if not others:
        gone = {key for key, change in outcome.changes.items() if change.after is None}
        assert gone == {key for key in stored if key[:1] == b"p"} - set(wanted)
        again = _etcd_kv.apply(etcd, found, check=False, values=True, prune=[b"p/"])
        assert again.changes == {}


def conditional(key: bytes, wanted: bytes | None, **condition: t.Any) -> _etcd_kv.Wanted:
    return _etcd_kv.Wanted(key, wanted, condition=_etcd_kv.Condition(**condition))


@hypothesis.given(STORED, st.lists(st.one_of(st.none(), OTHERS), max_size=4), VALUES, VALUES)
def test_a_value_is_swapped_only_for_the_one_expected(stored, troubles, old, new):
    """Whoever writes when: what is overwritten is what was expected, or the key is as wanted without our doing."""
    etcd = MemoryEtcd(stored, troubles)
    history: list[bytes | None] = []
    write = etcd.write

    def watched(key: bytes, value: bytes | None, lease: int = 0) -> None:
        if key == b"a" and value == new:
            history.append(etcd.data[key][0] if key in etcd.data else None)
        write(key, value, lease)

    etcd.write = watched  # type: ignore[method-assign]
    try:
        outcome = _etcd_kv.apply(etcd, [conditional(b"a", new, value=old)], check=False, values=True)
    except _etcd_kv.KvUnexpected:
        assert etcd.data.get(b"a", (None, 0))[0] not in (old, new)
    else:
        assert etcd.data[b"a"][0] == new
        if b"a" in outcome.changes:
            assert history[-1] == old


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"value": b"x"}, True),
        ({"value": b"y"}, False),
        ({"revision": 1}, True),
        ({"revision": 0}, False),
        ({"revision": 7}, False),
    ],
)
def test_conditions_of_one_key(condition, holds):
    etcd = MemoryEtcd({b"a": b"x"}, [])
    wanted = [conditional(b"a", b"z", **condition), _etcd_kv.Wanted(b"b", b"also")]
    for check in (True, False):
        if holds:
            outcome = _etcd_kv.apply(etcd, wanted, check=check, values=True)
            assert set(outcome.changes) == {b"a", b"b"}
            continue
        with pytest.raises(_etcd_kv.KvUnexpected, match="nothing was written"):
            _etcd_kv.apply(etcd, wanted, check=check, values=True)
        assert etcd.writes == 0
        skipped = _etcd_kv.apply(etcd, wanted, check=check, values=True, skip=True)
        assert (set(skipped.changes), skipped.skipped) == ({b"b"}, (b"a",))
        etcd.data.pop(b"b", None)
        etcd.writes = 0
    # as wanted already: the condition of the run before no longer holds, and need not
    again = _etcd_kv.apply(MemoryEtcd({b"a": b"z"}, []), wanted[:1], check=False, values=True)
    assert again.changes == {}


def test_what_an_unmet_condition_tells():
    etcd = MemoryEtcd({b"a": b"secret"}, [])
    for wanted, show, words in (
        (
            conditional(b"a", b"n", value=b"o"),
            True,
            "keys entry 'a' has 'secret' since revision 1, and its if_value is",
        ),
        (
            conditional(b"a", b"n", value=b"o"),
            False,
            "keys entry 'a' has another value since revision 1, and its if_va",
        ),
        (
            conditional(b"a", b"n", revision=0),
            False,
            "keys entry 'a' exists since revision 1, and its if_revision is 0",
        ),
        (conditional(b"b", b"n", revision=4), True, "keys entry 'b' does not exist, and its if_revision is 4"),
    ):
        with pytest.raises(_etcd_kv.KvUnexpected) as caught:
            _etcd_kv.apply(etcd, [wanted], check=False, values=True, show=show)
        assert words in str(caught.value)
        assert show or "secret" not in str(caught.value)


@pytest.mark.parametrize("troubles", [[], ["lost"], ["dropped"], [(b"b", b"other")]])
def test_keys_with_a_time_to_live_share_a_lease_that_is_kept(troubles):
    etcd = MemoryEtcd({b"a": b"1", b"b": b"1"}, troubles)
    wanted = [_etcd_kv.Wanted(key, b"1", ttl=60) for key in (b"a", b"b", b"c")]
    outcome = _etcd_kv.apply(etcd, wanted, check=False, values=True)
    assert len(etcd.leases) == 1
    lease = next(iter(etcd.leases))
    assert [etcd.bound[key] for key in (b"a", b"b", b"c")] == [lease] * 3
    assert _etcd_kv.results(outcome, sensitive=False, diff=True)["diff"]["after"]["a"] == "1 (for 60 s)"
    assert _etcd_kv.results(outcome, sensitive=False, diff=True)["updated"] == ["a", "b"]
    again = _etcd_kv.apply(etcd, wanted, check=False, values=True)
    assert (again.changes, list(etcd.leases)) == ({}, [lease])
    # a lease that is left alone, one of another length, and none
    for ttl, changed in ((None, False), (90, True), (0, True)):
        outcome = _etcd_kv.apply(etcd, [_etcd_kv.Wanted(b"a", b"1", ttl=ttl)], check=False, values=True)
        assert bool(outcome.changes) is changed
        if ttl is not None:
            assert etcd.leases.get(etcd.bound[b"a"], 0) == ttl


def test_a_lease_shorter_than_the_cluster_has_is_refused_and_given_back():
    etcd = MemoryEtcd({}, [])
    with pytest.raises(_etcd_kv.OptionError, match="a ttl of 1 s, and leases of this cluster live 2 s at least"):
        _etcd_kv.apply(etcd, [_etcd_kv.Wanted(b"a", b"1", ttl=1)], check=False, values=True)
    assert (etcd.leases, etcd.writes) == ({}, 0)
