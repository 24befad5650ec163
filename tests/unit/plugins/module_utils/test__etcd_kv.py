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
