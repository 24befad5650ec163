# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""etcd_discovery as a whole, against a scripted discovery service."""

from __future__ import annotations

import base64
import re
import typing as t

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import ANY, Exchange

DIGITS = "0123456789abcdef" * 2
SIZE_PATH = f"/{DIGITS}/_config/size"
NOT_FOUND = {"errorCode": 100, "message": "Key not found", "cause": f"/_etcd/registry/{DIGITS}", "index": 5}


def sized(size: t.Any) -> Exchange:
    if size is None:
        return Exchange("GET", SIZE_PATH, status=404, answer=NOT_FOUND)
    return Exchange("GET", SIZE_PATH, answer={"action": "get", "node": {"key": "k", "value": str(size)}})


def listed(*members: tuple[str, str]) -> Exchange:
    """The directory of a token; members as id and value, the last to register first."""
    nodes = [
        {"key": f"/_etcd/registry/{DIGITS}/{name}", "value": value, "createdIndex": 100 - number}
        for number, (name, value) in enumerate(members)
    ]
    node: dict[str, t.Any] = {"key": f"/_etcd/registry/{DIGITS}", "dir": True}
    return Exchange("GET", f"/{DIGITS}", answer={"action": "get", "node": {**node, "nodes": nodes} if nodes else node})


def no_directory() -> Exchange:
    return Exchange("GET", f"/{DIGITS}", status=404, answer=NOT_FOUND)


def core(number: int) -> tuple[str, str]:
    return f"{number:x}" * 16, f"core-0{number}=https://192.0.2.{number}:2380"


def test_a_new_token_is_made_and_checked(run_module, serve):
    new = Exchange("GET", "/new?size=3")
    server = serve(new, sized(3), listed())
    new.answer = f"{server.url}/{DIGITS}".encode()
    result = run_module("etcd_discovery", url=server.url + "/", size=3)
    assert result["changed"] is True
    assert result["token_url"] == f"{server.url}/{DIGITS}"
    assert (result["size"], result["status"], result["members"]) == (3, "open", [])


def test_check_mode_makes_no_token(run_module):
    result = run_module("etcd_discovery", url="http://127.0.0.1:1", size=5, _ansible_check_mode=True)
    assert result["changed"] is True
    assert "token_url" not in result


def test_a_service_that_makes_a_token_of_another_size_is_refused(run_module, serve):
    new = Exchange("GET", "/new?size=5", answer=f"http://elsewhere/{DIGITS}".encode())
    result = run_module("etcd_discovery", url=serve(new, sized(3), listed()).url, size=5)
    assert "made a token for 5 members, and then said that the token has 0/3 members" in result["msg"]


@pytest.mark.parametrize("size", [0, -1, 2, 4, 11, 1000000])
def test_sizes_that_no_cluster_has_are_refused_before_anything_is_asked(run_module, size):
    for more in ({}, {"token": DIGITS}):
        result = run_module("etcd_discovery", url="http://127.0.0.1:1", size=size, **more)
        assert result["msg"].startswith(f"size is {size}; give an odd number from 1 to 9")


@pytest.mark.parametrize(
    ("members", "size", "status", "summary"),
    [
        ([], 3, "open", "the token has 0/3 members and waits for 3 more"),
        ([core(2), core(1)], 3, "open", "the token has 2/3 members (core-01, core-02) and waits for 1 more"),
        (
            [core(3), core(2), core(1)],
            3,
            "full",
            "the token already has 3/3 members (core-01, core-02, core-03): tokens are for one cluster only, create a"
            " new one for another",
        ),
        (
            [("cc", "core-01=https://192.0.2.9:2380"), core(1)],
            3,
            "burnt",
            "the token is burnt: 'core-01' registered twice, and etcd refuses to start so; create a new one",
        ),
        (
            [("cc", "core-09=https://192.0.2.1:2380"), core(1)],
            3,
            "burnt",
            "the token is burnt: 'https://192.0.2.1:2380' registered twice, and etcd refuses to start so; create a"
            " new one",
        ),
        (
            [core(2), core(1)],
            1,
            "burnt",
            "the token is burnt: it has 2/1 members (core-01, core-02); create a new one",
        ),
        (
            [],
            4,
            "burnt",
            "the token is burnt: its size is 4, and a cluster has 1, 3, 5, 7 or 9 members; create a new one",
        ),
        ([core(1)], None, "burnt", "the token is burnt: core-01 registered, but its size is gone; create a new one"),
    ],
)
def test_an_existing_token_is_told_in_one_sentence(run_module, serve, members, size, status, summary):
    server = serve(sized(size), listed(*members))
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}")
    assert (result["changed"], result["status"], result["summary"]) == (False, status, summary)


def test_members_are_told_in_the_order_in_which_they_registered(run_module, serve):
    server = serve(
        sized(3), listed(("b2", "core-02=https://192.0.2.2:2380&core-02=https://198.51.100.2:2380"), core(1))
    )
    result = run_module("etcd_discovery", token=DIGITS, url=server.url)
    assert [member["name"] for member in result["members"]] == ["core-01", "core-02"]
    assert result["members"][1]["peer_urls"] == ["https://192.0.2.2:2380", "https://198.51.100.2:2380"]


def test_an_unknown_token_fails_without_being_named(run_module, serve):
    server = serve(sized(None), no_directory())
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}")
    assert result["msg"] == f"{server.url}: the token is unknown to the service: create a new one"


def test_a_token_of_another_size_fails(run_module, serve):
    server = serve(sized(3), listed())
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}", size=5)
    assert "the token is for 3 members, not for 5" in result["msg"]


def test_absent_removes_members_and_size_and_looks_again(run_module, serve):
    server = serve(
        sized(3),
        listed(core(1)),
        sized(3),
        listed(core(1)),
        Exchange("DELETE", f"/{DIGITS}/{'1' * 16}", answer={"action": "delete"}),
        Exchange("DELETE", f"/{DIGITS}/_config?recursive=true&dir=true", answer={"action": "delete"}),
        sized(None),
        listed(),
    )
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}", state="absent")
    assert (result["changed"], result["status"]) == (True, "absent")


def test_absent_in_check_mode_only_looks(run_module, serve):
    server = serve(sized(3), listed())
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}", state="absent", _ansible_check_mode=True)
    assert result["changed"] is True


def test_absent_of_an_unknown_token_is_nothing_to_do(run_module, serve):
    server = serve(sized(None), no_directory())
    assert run_module("etcd_discovery", token=f"{server.url}/{DIGITS}", state="absent")["changed"] is False


def test_a_service_that_keeps_what_it_was_told_to_delete_is_told(run_module, serve):
    server = serve(
        *(sized(3), listed(), sized(3), listed()),
        Exchange("DELETE", f"/{DIGITS}/_config?recursive=true&dir=true", answer={"action": "delete"}),
        *(sized(3), listed()),
    )
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}", state="absent")
    assert "it cannot delete tokens" in result["msg"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 400, "answer": b"Unable to generate token\n"}, "does not serve the v2 API (--enable-v2"),
        ({"status": 503, "answer": b"<html>Service Temporarily Unavailable"}, "bootstrap etcd without discovery"),
        ({"status": 503, "answer": b""}, "answered status 503 (no text)"),
        ({"status": 301, "headers": {"Location": "https://elsewhere/"}}, "answered status 301"),
        ({"answer": b"<html>welcome"}, "status 200 with a page in place of a token ('<html>welcome')"),
        ({"answer": b""}, "got 0 bytes that are no URL with a token"),
        ({"answer": b"https://example.org/" + b"AB" * 16}, "got 52 bytes that are no URL with a token"),
        ({"answer": b"\xff\xfe"}, "got 2 bytes that are no URL with a token"),
        ({"answer": b"x" * 2_000_000}, "the answer is larger than 1 MB"),
        ({"hang_up": True}, "closed before a whole answer had come"),
    ],
)
def test_any_other_answer_to_new_is_one_sentence(run_module, serve, answer, words):
    server = serve(Exchange("GET", "/new?size=3", **answer))
    result = run_module("etcd_discovery", url=server.url, size=3)
    assert words in result["msg"]
    assert result["msg"].startswith(f"GET {server.url}/new?size=3: ")
    assert "ABAB" not in result["msg"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([Exchange("GET", SIZE_PATH, hang_up=True)], "most likely the etcd behind the discovery service is down"),
        (
            [Exchange("GET", SIZE_PATH, status=404, answer=b"404 page not found")],
            "status 404 with an answer that is not",
        ),
        ([Exchange("GET", SIZE_PATH, status=404, answer={"errorCode": 300, "message": "no quorum"})], "no quorum"),
        ([Exchange("GET", SIZE_PATH, answer={"action": "get"})], "JSON object without a node"),
        ([sized("three")], "answered a size that is no number"),
        ([sized(3), Exchange("GET", f"/{DIGITS}", answer={"node": {"nodes": {}}})], "the token has 0/3"),
        (
            [sized(3), Exchange("GET", f"/{DIGITS}", answer={"node": {"nodes": {"a": 1}}})],
            "a list of members that is none",
        ),
        ([sized(3), Exchange("GET", f"/{DIGITS}", answer={"node": {"nodes": [3]}})], "a member without key and value"),
    ],
)
def test_any_other_answer_about_a_token_is_one_sentence_without_it(run_module, serve, answers, words):
    server = serve(*answers)
    result = run_module("etcd_discovery", token=f"{server.url}/{DIGITS}")
    text = result.get("msg") or result["summary"]
    assert words in text
    assert DIGITS not in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://127.0.0.1:1"}, "size is missing"),
        ({"token": "https://example.org/short"}, "token does not end in 32 hexadecimal digits"),
        ({"token": DIGITS}, "token is not a URL; give the whole URL, or the service's own as url"),
        ({"token": f"ftp://example.org/{DIGITS}"}, "is not a URL of a server"),
        ({"url": "http://h", "size": 3, "timeout": 0}, "timeout is 0; give seconds greater than 0"),
        ({"url": "http://h", "size": 3, "request_timeout": "nan"}, "request_timeout is nan"),
        ({"size": 3}, "url is missing; protocol is v2, so give the URL of the discovery service"),
        ({"url": "http://h", "state": "absent"}, "state is absent but all of the following are missing: token"),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(run_module, options, words):
    result = run_module("etcd_discovery", **options)
    assert words in result["msg"]
    assert DIGITS not in result["msg"]


REGISTRY = f"/_etcd/registry/{DIGITS}/"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def kept(size: t.Any, *members: tuple[str, str]) -> Exchange:
    """What an etcd has below a token of v3 discovery."""
    pairs = [(f"members/{name}", value) for name, value in members]
    if size is not None:
        pairs.append(("_config/size", str(size)))
    kvs = [
        {"key": b64(REGISTRY + path), "value": b64(value), "create_revision": str(100 - number), "mod_revision": "100"}
        for number, (path, value) in enumerate(pairs)
    ]
    wanted = {"key": b64(REGISTRY), "range_end": b64(REGISTRY[:-1] + "0")}
    return Exchange("POST", "/v3/kv/range", wanted, answer={"header": {}, "kvs": kvs, "count": str(len(kvs))})


def v3(run_module, server, **more):
    return run_module("etcd_discovery", protocol="v3", endpoints=[server.url], **more)


def test_a_token_of_an_etcd_is_digits_and_a_size(run_module, serve):
    server = serve(Exchange("POST", "/v3/kv/txn", ANY, answer={"header": {}, "succeeded": True, "responses": [{}]}))
    result = v3(run_module, server, size=3)
    assert re.fullmatch("[0-9a-f]{32}", result["token"])
    assert "token_url" not in result
    assert (result["changed"], result["size"], result["status"]) == (True, 3, "open")


def test_the_members_of_a_token_of_an_etcd(run_module, serve):
    two = ("2f", "core-02=https://192.0.2.2:2380,core-02=https://[2001:db8::2]:2380")
    result = v3(run_module, serve(kept(3, core(3), two)), token=DIGITS, size=3)
    assert [(item["name"], len(item["peer_urls"])) for item in result["members"]] == [("core-02", 2), ("core-03", 1)]
    assert result["summary"] == "the token has 2/3 members (core-02, core-03) and waits for 1 more"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "the token is unknown to the service: create a new one"),
        (5, "the token is for 5 members, not for 3; create one for 3, or correct size"),
        ("three", "has a size of the token that is no number"),
    ],
)
def test_a_token_of_an_etcd_that_does_not_do(run_module, serve, size, words):
    result = v3(run_module, serve(kept(size)), token=DIGITS, size=3)
    assert words in result["msg"]
    assert DIGITS not in result["msg"]


def test_a_token_of_an_etcd_is_removed_with_all_its_members(run_module, serve):
    wanted = {"key": b64(REGISTRY), "range_end": b64(REGISTRY[:-1] + "0")}
    server = serve(
        kept(1, core(1)), Exchange("POST", "/v3/kv/deleterange", wanted, answer={"header": {}, "deleted": "2"})
    )
    assert v3(run_module, server, token=DIGITS, state="absent")["changed"] is True
    assert v3(run_module, serve(kept(None)), token=DIGITS, state="absent")["changed"] is False


def test_what_v3_needs(run_module):
    assert "endpoints is empty; protocol is v3" in run_module("etcd_discovery", protocol="v3", size=3)["msg"]
    result = run_module("etcd_discovery", protocol="v3", endpoints=["http://127.0.0.1:1"], token="not-a-token-at-all")
    assert "token is not 32 hexadecimal digits" in result["msg"]
    assert "url is missing; protocol is v2" in run_module("etcd_discovery", size=3)["msg"]
