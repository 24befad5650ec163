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
from ansible_collections.flotilla.cluster.plugins.module_utils import _fleet, _http
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import MODULES
from hypothesis import given, settings
from hypothesis import strategies as st

ETCD = (
    "header revision succeeded responses response_range response_put kvs key value count more mod_revision"
    " create_revision version lease token code message error member_id"
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
        stack.enter_context(mock.patch.object(_http.HttpClient, "lines", return_value=None))
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


@settings(deadline=None, max_examples=50)
@given(replies(ETCD), st.booleans())
def test_etcd_kv(found, user):
    more = {"username": "u", "password": "pppp"} if user else {}
    keys = [{"key": "/a", "value": "1"}, {"key": "/p", "prefix": True, "state": "absent"}]
    check("etcd_kv", {"keys": keys, "timeout": 1, "_ansible_diff": True, **more}, found)


@settings(deadline=None, max_examples=50)
@given(replies(ETCD))
def test_etcd_kv_info(found):
    check("etcd_kv_info", {"keys": ["/a"], "prefixes": ["/p"], "timeout": 1}, found)


@settings(deadline=None, max_examples=50)
@given(replies(DISCOVERY), st.sampled_from(["present", "absent"]))
def test_etcd_discovery_of_a_token(found, state):
    check("etcd_discovery", {"token": f"https://h/{TOKEN}", "state": state}, found)


@settings(deadline=None, max_examples=50)
@given(replies(DISCOVERY))
def test_etcd_discovery_of_a_new_token(found):
    check("etcd_discovery", {"url": "https://h", "size": 3}, [(200, f"https://h/{TOKEN}".encode()), *found])


@settings(deadline=None, max_examples=50)
@given(replies(FLEET), st.sampled_from(["inactive", "loaded", "launched", "absent"]), st.booleans())
def test_fleet_unit(found, state, content):
    more = {"content": "[Service]\nExecStart=/bin/true\n"} if content else {}
    check("fleet_unit", {"name": "a.service", "state": state, "timeout": 0.01, "_ansible_diff": True, **more}, found)


@settings(deadline=None, max_examples=50)
@given(replies(FLEET), st.sampled_from([None, ["a.service"]]))
def test_fleet_unit_info(found, names):
    check("fleet_unit_info", {"names": names}, found)


@settings(deadline=None, max_examples=50)
@given(replies(FLEET))
def test_fleet_machine_info(found):
    check("fleet_machine_info", {}, found)
