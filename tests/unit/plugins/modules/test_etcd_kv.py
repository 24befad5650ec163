# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""etcd_kv and etcd_kv_info as a whole, against a scripted gateway."""

from __future__ import annotations

import base64
import typing as t

import pytest

pytest.importorskip("requests")

from ansible.module_utils.common.parameters import PASS_VARS
from ansible_collections.flotilla.cluster.plugins.modules import etcd_kv
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

# cores that do not know this show a module's arguments always
SHOW_ARGUMENTS = {"_ansible_inject_invocation": True} if "inject_invocation" in PASS_VARS else {}
TXN = "/v3/kv/txn"
RANGE = "/v3/kv/range"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def stored(key: str, value: str | bytes, revision: int = 7) -> dict[str, t.Any]:
    """A key the way the gateway writes it: numbers are strings."""
    return {
        "key": b64(key),
        "value": b64(value),
        "create_revision": "3",
        "mod_revision": str(revision),
        "version": "2",
    }


def read(keys: list[str], found: dict[str, t.Any], revision: int = 9, **more: t.Any) -> Exchange:
    """The transaction that reads keys, and its answer."""
    responses = []
    for key in keys:
        hits = [found[key]] if key in found else []
        # a count of 0 and an empty list are left out
        responses.append({"response_range": {"kvs": hits, "count": "1"} if hits else {"header": {"revision": "9"}}})
    sent = {"success": [{"request_range": {"key": b64(key)}} for key in keys]}
    answer = {"header": {"revision": str(revision)}, "succeeded": True, "responses": responses}
    return Exchange("POST", TXN, sent, answer=answer, **more)


def put(key: str, value: str | bytes) -> dict[str, t.Any]:
    return {"request_put": {"key": b64(key), "value": b64(value)}}


def guard(key: str, revision: int) -> dict[str, t.Any]:
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def write(guards: list[t.Any], operations: list[t.Any], *, revision: int = 10, **more: t.Any) -> Exchange:
    """A guarded transaction that writes, and its answer."""
    responses = [{name.replace("request", "response"): {}} for operation in operations for name in operation]
    answer = {"header": {"revision": str(revision)}, "succeeded": True, "responses": responses}
    more.setdefault("answer", answer)
    return Exchange("POST", TXN, {"compare": guards, "success": operations}, **more)


def lost(guards: list[t.Any], operations: list[t.Any]) -> Exchange:
    """The same when another writer was faster: C(succeeded) is false, and so left out."""
    return write(guards, operations, answer={"header": {"revision": "11"}})


def grpc(code: int, message: str, status: int = 400, path: str = TXN) -> Exchange:
    return Exchange("POST", path, ANY, status=status, answer={"code": code, "message": message})


def test_only_keys_that_differ_are_written_in_one_guarded_transaction(run_module, serve):
    server = serve(
        read(["/same", "/other", "/new"], {"/same": stored("/same", "1"), "/other": stored("/other", "2")}),
        write([guard("/other", 7), guard("/new", 0)], [put("/other", "x"), put("/new", "5")]),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/same": "1", "/other": "x", "/new": 5})
    assert result["changed"] is True
    assert (result["created"], result["updated"], result["deleted"]) == (["/new"], ["/other"], [])
    assert result["revision"] == 10


def test_nothing_is_written_when_all_is_as_wanted(run_module, serve):
    server = serve(read(["/a", "/gone"], {"/a": stored("/a", "1")}, revision=9))
    keys = [{"key": "/a", "value": "1"}, {"key": "/gone", "state": "absent"}]
    result = run_module("etcd_kv", endpoints=[server.url], keys=keys, _ansible_diff=True)
    assert result["changed"] is False
    assert result["revision"] == 9
    assert result["diff"] == {"before": {}, "after": {}}


def test_check_mode_tells_what_would_change_and_writes_nothing(run_module, serve):
    server = serve(read(["/a", "/b"], {"/a": stored("/a", "1"), "/b": stored("/b", b"\xff\x00")}))
    keys = [{"key": "/a", "value": "2"}, {"key": "/b", "state": "absent"}]
    result = run_module("etcd_kv", endpoints=[server.url], keys=keys, _ansible_check_mode=True, _ansible_diff=True)
    assert (result["updated"], result["deleted"]) == (["/a"], ["/b"])
    assert result["diff"] == {"before": {"/a": "1", "/b": "base64:/wA="}, "after": {"/a": "2"}}


def test_sensitive_values_show_nowhere(run_module, serve):
    server = serve(
        read(["/pw", "/new"], {"/pw": stored("/pw", "old-secret")}),
        write([guard("/pw", 7), guard("/new", 0)], [put("/pw", "new-secret"), put("/new", "other-secret")]),
    )
    result = run_module(
        "etcd_kv",
        endpoints=[server.url],
        keys={"/pw": "new-secret", "/new": "other-secret"},
        sensitive=True,
        _ansible_diff=True,
        **SHOW_ARGUMENTS,
    )
    assert result["updated"] == ["/pw"]
    assert result["invocation"]["module_args"]["endpoints"] == [server.url]
    assert "secret" not in str(result)
    assert result["diff"]["before"]["/pw"] != result["diff"]["after"]["/pw"]


def test_values_stay_out_of_the_hosts_log(run_module, serve, monkeypatch):
    logged: list[str] = []
    monkeypatch.setattr(
        etcd_kv.AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}")
    )
    server = serve(read(["/pw"], {"/pw": stored("/pw", "seen-value")}))
    run_module("etcd_kv", endpoints=[server.url], keys={"/pw": "seen-value"})
    assert "endpoints" in "".join(logged)
    assert "seen-value" not in "".join(logged)


def test_an_answer_keeps_words_that_are_also_values(run_module, serve):
    server = serve(
        read(["/present"], {}),
        write([guard("/present", 0)], [put("/present", "present")]),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys=[{"key": "/present", "value": "present"}])
    assert result["created"] == ["/present"]


def test_many_keys_are_cut_by_128_operations(run_module, serve):
    names = [f"/k{number:03}" for number in range(300)]
    batches = [names[:128], names[128:256], names[256:]]
    server = serve(
        *(read(batch, {}) for batch in batches),
        *(
            write([guard(name, 0) for name in batch], [put(name, "v") for name in batch], revision=20 + number)
            for number, batch in enumerate(batches)
        ),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys=dict.fromkeys(names, "v"))
    assert result["created"] == names
    assert result["revision"] == 22


def test_large_values_are_cut_by_bytes(run_module, serve):
    value = "x" * 600_000
    server = serve(
        read(["/a", "/b", "/c"], {}),
        write([guard("/a", 0), guard("/b", 0)], [put("/a", value), put("/b", value)]),
        write([guard("/c", 0)], [put("/c", value)]),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": value, "/b": value, "/c": value})
    assert result["created"] == ["/a", "/b", "/c"]


def test_a_prefix_is_deleted_at_one_stroke_guarded_by_the_revision_read(run_module, serve):
    end = b64("/app0")
    server = serve(
        Exchange(
            "POST",
            RANGE,
            {"key": b64("/app/"), "range_end": end, "limit": "1000", "keys_only": True},
            answer={
                "header": {"revision": "30"},
                "kvs": [{"key": b64("/app/a")}, {"key": b64(b"/app/\xff")}],
                "count": "2",
            },
        ),
        write(
            [{"key": b64("/app/"), "range_end": end, "target": "MOD", "result": "LESS", "mod_revision": "31"}],
            [{"request_delete_range": {"key": b64("/app/"), "range_end": end}}],
        ),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys=[{"key": "/app/", "prefix": True}], state="absent")
    assert result["deleted"] == ["/app/a", "base64:L2FwcC//"]


def test_another_writer_makes_it_read_and_decide_anew(run_module, serve):
    server = serve(
        read(["/a"], {"/a": stored("/a", "1", 7)}),
        lost([guard("/a", 7)], [put("/a", "wanted")]),
        read(["/a"], {"/a": stored("/a", "2", 8)}),
        write([guard("/a", 8)], [put("/a", "wanted")]),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "wanted"}, _ansible_diff=True)
    assert result["updated"] == ["/a"]
    assert result["diff"]["before"] == {"/a": "2"}


def test_another_writer_of_the_same_value_leaves_nothing_to_do(run_module, serve):
    server = serve(
        read(["/a"], {}),
        lost([guard("/a", 0)], [put("/a", "wanted")]),
        read(["/a"], {"/a": stored("/a", "wanted", 8)}),
    )
    assert run_module("etcd_kv", endpoints=[server.url], keys={"/a": "wanted"})["changed"] is False


def test_a_writer_that_never_stops_is_told_in_one_sentence(run_module, serve):
    rounds = []
    for revision in range(7, 12):
        rounds += [
            read(["/a"], {"/a": stored("/a", f"other {revision}", revision)}),
            lost([guard("/a", revision)], [put("/a", "wanted")]),
        ]
    result = run_module("etcd_kv", endpoints=[serve(*rounds).url], keys={"/a": "wanted"})
    assert result["msg"].startswith("another writer changed the same keys 5 times")


@pytest.mark.parametrize("done", [True, False])
def test_a_write_without_an_answer_is_read_before_it_is_tried_again(run_module, serve, done):
    operation = ([guard("/a", 0)], [put("/a", "wanted")])
    rest = [read(["/a"], {"/a": stored("/a", "wanted", 8)})] if done else [read(["/a"], {}), write(*operation)]
    server = serve(read(["/a"], {}), write(*operation, hang_up=True), *rest)
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "wanted"})
    assert result["created"] == ["/a"]


def test_an_unavailable_answer_to_a_write_counts_as_uncertain_too(run_module, serve):
    server = serve(
        read(["/a"], {}),
        grpc(14, "etcdserver: request timed out", 503),
        read(["/a"], {"/a": stored("/a", "wanted", 8)}),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "wanted"})
    assert result["created"] == ["/a"]


def test_a_write_that_stays_uncertain_fails_and_says_so(run_module, serve):
    rounds = [read(["/a"], {}), write([guard("/a", 0)], [put("/a", "x")], hang_up=True)] * 5
    result = run_module("etcd_kv", endpoints=[serve(*rounds).url], keys={"/a": "x"})
    assert result["failed"] is True
    assert "the write may have been done: read before it is tried again" in result["msg"]


def test_endpoints_are_tried_in_turn_and_the_good_one_is_kept(run_module, serve):
    good = serve(read(["/a"], {}), write([guard("/a", 0)], [put("/a", "1")]))
    weak = serve(grpc(14, "etcdserver: no leader", 503))
    result = run_module("etcd_kv", endpoints=["http://127.0.0.1:1", weak.url, good.url], keys={"/a": "1"})
    assert result["changed"] is True


def test_all_endpoints_refused_is_one_sentence_with_each_of_them(run_module):
    result = run_module("etcd_kv", endpoints=["http://127.0.0.1:1", "http://localhost:2"], keys={"/a": "1"})
    assert result["msg"] == (
        "no endpoint answered POST /v3/kv/txn (http://127.0.0.1:1: connection refused, http://localhost:2:"
        " connection refused); check that the service runs there and listens on this address"
    )


def authenticated(token: str) -> dict[str, str | None]:
    return {"Authorization": token}


def login(token: str) -> Exchange:
    return Exchange(
        "POST",
        "/v3/auth/authenticate",
        {"name": "ann", "password": "hush-hush"},
        answer={"header": {}, "token": token},
        wanted_headers={"Authorization": None},
    )


def test_one_token_serves_the_whole_run(run_module, serve):
    server = serve(
        login("T1"),
        read(["/a"], {}, wanted_headers=authenticated("T1")),
        write([guard("/a", 0)], [put("/a", "1")], wanted_headers=authenticated("T1")),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, username="ann", password="hush-hush")
    assert result["changed"] is True


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        (16, "etcdserver: invalid auth token", 401),
        (3, "etcdserver: revision of auth store is old", 400),
        (3, "etcdserver: user name is empty", 400),
    ],
)
def test_a_forgotten_token_is_fetched_once_more(run_module, serve, code, message, status):
    server = serve(
        login("T1"),
        read(["/a"], {}, wanted_headers=authenticated("T1")),
        grpc(code, message, status),
        login("T2"),
        write([guard("/a", 0)], [put("/a", "1")], wanted_headers=authenticated("T2")),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, username="ann", password="hush-hush")
    assert result["changed"] is True


def test_a_token_that_is_refused_twice_is_not_fetched_for_ever(run_module, serve):
    refused = grpc(16, "etcdserver: invalid auth token", 401)
    server = serve(login("T1"), refused, login("T2"), refused)
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, username="ann", password="hush-hush")
    assert "invalid auth token" in result["msg"]


def test_a_user_read_too_early_is_not_denied(run_module, serve):
    # what etcd before 3.6 says to root for a moment, after the users were changed
    denied = grpc(7, "etcdserver: permission denied", 403)
    server = serve(login("T1"), denied, read(["/a"], {"/a": stored("/a", "1")}, wanted_headers=authenticated("T1")))
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, username="ann", password="hush-hush")
    assert result["changed"] is False


@pytest.mark.parametrize("seconds", [30, 0.2])
def test_a_user_is_denied_what_is_not_its_own(run_module, serve, seconds):
    denied = grpc(7, "etcdserver: permission denied", 403)
    # with too little time left it is not asked again
    server = serve(login("T1"), *[denied] * (2 if seconds > 1 else 1))
    access = {"username": "ann", "password": "hush-hush", "timeout": seconds}
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, **access)
    assert "permission denied" in result["msg"]


def test_a_user_is_no_trouble_where_authentication_is_off(run_module, serve):
    off = {"error": "etcdserver: authentication is not enabled", "code": 9}
    server = serve(
        Exchange("POST", "/v3/auth/authenticate", ANY, status=412, answer=off),
        read(["/a"], {"/a": stored("/a", "1")}, wanted_headers={"Authorization": None}),
    )
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, username="ann", password="hush-hush")
    assert result["changed"] is False


@pytest.mark.parametrize(
    ("code", "message", "status", "fix"),
    [
        (3, "etcdserver: user name is empty", 400, "its authentication is on: give username and password"),
        (7, "etcdserver: permission denied", 403, "grant the user a role that allows it"),
        (8, "etcdserver: mvcc: database space exceeded", 429, "disarm the NOSPACE alarm"),
        (12, "Method Not Allowed", 501, "check the request against what etcd's version allows"),
    ],
)
def test_errors_are_told_by_grpc_code_and_words_whatever_the_status(run_module, serve, code, message, status, fix):
    for odd in (status, 500):
        server = serve(grpc(code, message, odd))
        result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"})
        assert f"etcd answered '{message}' (gRPC code {code}); " in result["msg"]
        assert fix in result["msg"]


def test_no_leader_at_first_and_one_in_the_second_round(run_module, serve):
    server = serve(grpc(14, "etcdserver: no leader", 503), read(["/a"], {"/a": stored("/a", "1")}))
    assert run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"})["changed"] is False


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"answer": b"<html>Bad Gateway", "status": 502},
            "status 502 with an answer that is not JSON ('<html>Bad Gateway')",
        ),
        ({"answer": b"404 page not found\n", "status": 404}, "no JSON gateway at /v3/"),
        (
            {"answer": b"Client sent an HTTP request to an HTTPS server.\n", "status": 400},
            "write https:// in endpoints",
        ),
        (
            {"answer": b"CommonName of client sending a request against gateway will be ignored\n", "status": 400},
            "use a client certificate without one, and give username and password",
        ),
        ({"answer": b""}, "an answer that is not JSON (an empty body)"),
        ({"answer": []}, "JSON array where an object belongs"),
        ({"answer": {"responses": "x"}}, "field responses is not a list of objects"),
        ({"answer": {"succeeded": 1}}, "field succeeded is not a boolean"),
        ({"answer": {"succeeded": True}}, "field responses is not 1 of them, not 0"),
        ({"answer": {"responses": [{"response_range": 3}]}}, "field responses.response_range is not an object"),
        ({"answer": {"responses": [{"response_range": {"kvs": [{"key": "%"}]}}]}}, "kvs.key is not base64"),
        ({"answer": {"responses": [{"response_range": {"count": "9" * 40}}]}}, "count is not a 64-bit integer"),
        ({"answer": {"error": "boom"}, "status": 503}, "JSON object that is no error of etcd"),
        ({"answer": b"{}", "headers": {"Content-Length": "50"}}, "closed before a whole answer had come"),
        ({"hang_up": True}, "closed before a whole answer had come"),
    ],
)
def test_any_other_answer_is_one_sentence(run_module, serve, answer, words):
    server = serve(Exchange("POST", TXN, ANY, **answer))
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"}, timeout=5)
    assert words in result["msg"]
    assert result["msg"].startswith(f"POST {server.url}/v3/kv/txn: ")
    assert "exception" not in result


def test_a_server_that_stalls_is_left_after_the_try(run_module, serve):
    slow = serve(Exchange("POST", TXN, ANY, stalls=5.0))
    result = run_module("etcd_kv", endpoints=[slow.url], keys={"/a": "1"}, request_timeout=0.3)
    assert "no whole answer within 0.3 s" in result["msg"]


def test_json_of_a_broken_answer_is_not_repeated(run_module, serve):
    server = serve(Exchange("POST", TXN, ANY, answer=b'{"responses": [{"value": "c2VjcmV0'))
    result = run_module("etcd_kv", endpoints=[server.url], keys={"/a": "1"})
    assert "c2VjcmV0" not in result["msg"]


@pytest.mark.parametrize(
    ("keys", "state", "words"),
    [
        ("/a", "present", "keys is a text; give a mapping of keys to values"),
        ({"/a": True}, "present", "keys entry '/a' has the boolean true as its value, and etcd stores text"),
        ({"/a": 1.1}, "present", "has the number 1.1 as its value"),
        ({"/a": {"b": 1}}, "present", "has a mapping as its value"),
        ({"/a": None}, "present", "has no value; give one of value, value_base64, value_file"),
        ({"": "x"}, "present", "entry 1 of keys has an empty text as its key"),
        (["/a"], "present", "entry 1 of keys is a text; give a mapping with key and value"),
        ([{"key": "/a", "valeu": "x"}], "present", "unknown field 'valeu'; allowed are key, prefix, state, value"),
        (
            [{"key": "/a", "value": "x", "value_base64": "eA=="}],
            "present",
            "has value and value_base64; give one of value, value_base64, value_file",
        ),
        ([{"key": "/a", "value_base64": "x"}], "present", "a value_base64 that is not base64"),
        ([{"key": "/a", "value_base64": 5}], "present", "a value_base64 that is not base64"),
        ([{"key": "/a", "state": "gone"}], "present", "has the state 'gone'; allowed are present and absent"),
        ([{"key": "/a", "prefix": True, "value": "x"}], "present", "prefix=true, which only goes with state=absent"),
        ([{"key": "/a", "prefix": "yes"}], "absent", "has a text as prefix; give true or false"),
        ([{"key": "/a", "value": "x"}], "absent", "has a value though its state is absent"),
        ([{"key": "/a", "value": "x"}, {"key": "/a", "value": "y"}], "present", "keys has '/a' twice"),
        ([{"key": "/a", "value": "x", "ttl": -1}], "present", "has the number -1 as its ttl; give the seconds"),
        ([{"key": "/a", "value": "x", "ttl": "soon"}], "present", "has a text as its ttl; give the seconds"),
        ([{"key": "/a", "ttl": 5}], "absent", "has a ttl though its state is absent"),
        ([{"key": "/a", "value": "x", "if_revision": True}], "present", "has the boolean true as its if_revision"),
        ([{"key": "/a", "value": "x", "if_value": "y", "if_revision": 1}], "present", "has if_value and if_revision"),
        ([{"key": "/a", "prefix": True, "if_value": "y"}], "absent", "a condition goes with one key only"),
        ([{"key": "/a", "value_file": "/nonexistent"}], "present", "/nonexistent, which cannot be read (No such file"),
        ([{"key": "/a", "value_file": "/"}], "present", "the value_file /, which cannot be read (Is a directory)"),
        (
            [{"key": "/a/", "prefix": True, "state": "absent"}, {"key": "/a/b", "value": "x"}],
            "present",
            "keys has '/a/b' below '/a/', which is to be absent",
        ),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(run_module, keys, state, words):
    # nothing listens there: a request would fail with other words
    result = run_module("etcd_kv", endpoints=["http://127.0.0.1:1"], keys=keys, state=state)
    assert words in result["msg"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoints": []}, "endpoints is empty"),
        ({"endpoints": ["10.0.0.1:2379"]}, "endpoints '10.0.0.1:2379' is not a URL of a server"),
        ({"endpoints": ["https://ann:hush-hush@h:1"]}, "endpoints has a user or password in the URL"),
        ({"endpoints": ["https://h:99999"]}, "is not a URL"),
        ({"request_timeout": 0}, "request_timeout is 0; give seconds greater than 0"),
        ({"ca_cert": "/nonexistent/ca"}, "ca_cert /nonexistent/ca cannot be read: no such file or directory"),
        ({"ca_cert": __file__}, "holds no PEM certificate"),
        ({"ca_cert": "", "client_key": ""}, "is given without client_key"),
    ],
)
def test_bad_options_are_told_in_one_sentence(run_module, options, words):
    arguments = {"endpoints": ["https://127.0.0.1:1"], "client_cert": __file__, **options}
    result = run_module("etcd_kv", keys={"/a": "1"}, **arguments)
    assert words in result["msg"]
    assert "hush-hush" not in result["msg"]


def test_no_keys_are_nothing_to_do(run_module):
    result = run_module("etcd_kv", endpoints=["http://127.0.0.1:1"], keys=[])
    assert (result["changed"], result["revision"]) == (False, 0)


def test_without_requests_the_package_is_named(run_module, monkeypatch):
    from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session

    monkeypatch.setattr(_http_session, "REQUESTS_ERROR", "Traceback: no requests")
    result = run_module("etcd_kv", keys={"/a": "1"})
    assert "(requests)" in result["msg"]
    assert "python3-requests" in result["msg"]


def test_info_reads_keys_and_prefixes_page_by_page_at_one_revision(run_module, serve):
    end = b64("/app0")
    server = serve(
        read(["/one", "/none"], {"/one": stored("/one", "1")}),
        Exchange(
            "POST",
            RANGE,
            {"key": b64("/app/"), "range_end": end, "limit": "1000"},
            answer={
                "header": {"revision": "12"},
                "kvs": [stored("/app/a", "A"), stored("/app/b", b"\xfe")],
                "more": True,
                "count": "3",
            },
        ),
        Exchange(
            "POST",
            RANGE,
            {"key": b64("/app/b\0"), "range_end": end, "limit": "1000", "revision": "12"},
            answer={"header": {"revision": "15"}, "kvs": [stored("/app/c", "C")], "count": "1"},
        ),
    )
    result = run_module("etcd_kv_info", endpoints=[server.url], keys=["/one", "/none"], prefixes=["/app/"])
    assert [kv["key"] for kv in result["kvs"]] == ["/app/a", "/app/b", "/app/c", "/one"]
    assert result["data"] == {"/app/a": "A", "/app/c": "C", "/one": "1"}
    assert result["kvs"][1]["value"] is None
    assert result["kvs"][1]["value_base64"] == "/g=="
    assert result["kvs"][0]["mod_revision"] == 7
    assert (result["count"], result["revision"]) == (4, 9)


def test_info_stops_at_the_limit_and_counts_the_rest(run_module, serve):
    server = serve(
        Exchange(
            "POST",
            RANGE,
            {"key": b64("/"), "range_end": b64("0"), "limit": "2", "keys_only": True},
            answer={
                "header": {"revision": "12"},
                "kvs": [{"key": b64("/a")}, {"key": b64("/b")}],
                "more": True,
                "count": "40",
            },
        ),
    )
    result = run_module("etcd_kv_info", endpoints=[server.url], prefixes=["/"], limit=2, keys_only=True)
    assert result["count"] == 40
    assert "data" not in result
    assert "value" not in result["kvs"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"limit": -1}, "limit is -1"), ({"keys": [""]}, "keys has an empty entry"), ({"prefixes": [""]}, "prefixes has")],
)
def test_info_refuses_what_cannot_be(run_module, options, words):
    assert words in run_module("etcd_kv_info", endpoints=["http://127.0.0.1:1"], **options)["msg"]


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        ([""], "prune has an empty entry, which would be all keys of etcd"),
        (["/a/", "/a/b/"], "prune entry '/a/b/' overlaps '/a/'"),
        (["/old/x"], "prune entry '/old/x' overlaps '/old/'"),
    ],
)
def test_bad_prefixes_to_prune(run_module, prune, words):
    keys = [{"key": "/old/", "prefix": True, "state": "absent"}]
    assert words in run_module("etcd_kv", endpoints=["http://127.0.0.1:1"], keys=keys, prune=prune)["msg"]
