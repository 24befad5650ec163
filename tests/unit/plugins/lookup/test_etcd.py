# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lookups of etcd against a scripted gateway."""

from __future__ import annotations

import base64

import pytest

pytest.importorskip("requests")

from ansible.errors import AnsibleLookupError
from ansible_collections.flotilla.cluster.plugins.lookup import etcd, etcd_prefix
from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS
from ansible_collections.flotilla.cluster.plugins.plugin_utils._etcd_lookup import client_parameters
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

OWN = {"missing": "error", "base64": False, "relative": False}


def b64(data):
    return base64.b64encode(data).decode()


def kv(key, value):
    return {"key": b64(key), "value": b64(value)}


def run(plugin, url, *terms, **options):
    """The lookup as Ansible runs it, less the loading of its documentation, from which its options come."""
    defaults = {name: spec.get("default") for name, spec in ETCD_ARGUMENTS.items()}
    lookup = plugin.LookupModule()
    lookup.set_options = lambda **_options: None
    lookup.get_option = {**defaults, "endpoints": [url], **OWN, **options}.get
    return lookup.run(list(terms))


def keys(*found):
    responses = [{"response_range": {"kvs": [item]} if item else {}} for item in found]
    return Exchange("POST", "/v3/kv/txn", ANY, answer={"header": {}, "succeeded": True, "responses": responses})


def prefix(*found):
    return Exchange("POST", "/v3/kv/range", ANY, answer={"header": {}, "kvs": list(found), "count": str(len(found))})


def test_values_come_in_the_order_of_their_keys(serve):
    server = serve(keys(kv(b"/b", b"2"), kv(b"/a", "\u00e4".encode())))
    assert run(etcd, server.url, "/b", "/a", "/b") == ["2", "\u00e4", "2"]


@pytest.mark.parametrize(("missing", "found"), [("none", ["1", None]), ("skip", ["1"])])
def test_a_missing_key(serve, missing, found):
    assert run(etcd, serve(keys(kv(b"/a", b"1"), None)).url, "/a", "/no", missing=missing) == found


def test_a_missing_key_is_an_error_if_nothing_is_said(serve):
    with pytest.raises(AnsibleLookupError, match="etcd has no key /no; write it first, or give missing='none'"):
        run(etcd, serve(keys(None)).url, "/no")


def test_a_value_that_is_no_text(serve):
    assert run(etcd, serve(keys(kv(b"/a", b"\xff"))).url, "/a", base64=True) == ["/w=="]
    with pytest.raises(AnsibleLookupError, match="the value of /a is not UTF-8 text; read it with base64=true"):
        run(etcd, serve(keys(kv(b"/a", b"\xff"))).url, "/a")


def test_prefixes(serve):
    server = serve(prefix(kv(b"/a/x", b"1"), kv(b"/a/y", b"2")), prefix())
    assert run(etcd_prefix, server.url, "/a/", "/b/") == [{"/a/x": "1", "/a/y": "2"}, {}]
    server = serve(prefix(kv(b"/a/x", b"1")))
    assert run(etcd_prefix, server.url, "/a/", relative=True) == [{"x": "1"}]
    with pytest.raises(AnsibleLookupError, match="a key below /a/ is not UTF-8 text"):
        run(etcd_prefix, serve(prefix(kv(b"/a/\xff", b"1"))).url, "/a/")


@pytest.mark.parametrize("plugin", [etcd, etcd_prefix])
def test_what_cannot_be_is_one_sentence(plugin, monkeypatch):
    for term in ("", 5):
        with pytest.raises(AnsibleLookupError, match="is no key of etcd"):
            run(plugin, "http://127.0.0.1:1", term)
    with pytest.raises(AnsibleLookupError, match="connection refused"):
        run(plugin, "http://127.0.0.1:1", "/a", timeout=1.0)
    with pytest.raises(AnsibleLookupError, match="username is ann and password is not set"):
        run(plugin, "http://127.0.0.1:1", "/a", username="ann")
    monkeypatch.setattr(_http_session, "REQUESTS_ERROR", "no such module")
    with pytest.raises(AnsibleLookupError, match="requests is not installed"):
        run(plugin, "http://127.0.0.1:1", "/a")


def test_user_and_password_as_etcdctl_takes_them():
    options = {"username": "ann:with:colon", "client_key": "~/key"}
    found = client_parameters(options.get)
    assert (found["username"], found["password"]) == ("ann", "with:colon")
    assert not found["client_key"].startswith("~")
    assert client_parameters({"username": "a:b", "password": "c"}.get)["username"] == "a:b"
