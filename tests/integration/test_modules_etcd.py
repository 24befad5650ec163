# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of etcd against real etcd with mutual TLS, and a real discovery service, on loopback.

The programs come from PATH or from the distribution's packages, unpacked into a cache; where there are none, the
tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd, _etcd_kv
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import EtcdClusterClient
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import run_module as run_module
from support.etcd import EtcdProcess, binary, etcd_or_skip, free_port
from support.secure_etcd import (
    Authority,
    DiscoveryService,
    SecureCluster,
    discovery_or_skip,
    secure_cluster_or_skip,
)

pytestmark = pytest.mark.etcd
ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., dict[str, t.Any]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    yield from secure_cluster_or_skip(tmp_path_factory.mktemp("cluster"), 3)


def plain_client(cluster: SecureCluster, **more: t.Any) -> EtcdClusterClient:
    defaults = {"username": None, "password": None, "request_timeout": 5.0, "timeout": 60.0}
    return EtcdClusterClient.of({**cluster.access(), **defaults, **more})


def test_keys_are_made_changed_deleted_and_left_alone(cluster: SecureCluster, run_module: Run) -> None:
    first = run_module("etcd_kv", keys={"/t/a": "1", "/t/b": "zwei"}, **cluster.access())
    assert (first["changed"], first["created"]) == (True, ["/t/a", "/t/b"])
    again = run_module("etcd_kv", keys={"/t/a": "1", "/t/b": "zwei"}, **cluster.access())
    assert (again["changed"], again["revision"]) == (False, first["revision"])
    keys = [
        {"key": "/t/a", "value": "2"},
        {"key": "/t/b", "state": "absent"},
        {"key": "/t/c", "value_base64": "/wA="},
        {"key": "/t/d", "value": ""},
    ]
    check = run_module("etcd_kv", keys=keys, _ansible_check_mode=True, _ansible_diff=True, **cluster.access())
    done = run_module("etcd_kv", keys=keys, _ansible_diff=True, **cluster.access())
    for result in (check, done):
        assert (result["created"], result["updated"], result["deleted"]) == (["/t/c", "/t/d"], ["/t/a"], ["/t/b"])
        assert result["diff"] == {
            "before": {"/t/a": "1", "/t/b": "zwei"},
            "after": {"/t/a": "2", "/t/c": "base64:/wA=", "/t/d": ""},
        }
    # one transaction is one revision
    assert done["revision"] == check["revision"] + 1
    read = run_module("etcd_kv_info", prefixes=["/t/"], keys=["/none"], **cluster.access())
    assert read["data"] == {"/t/a": "2", "/t/d": ""}
    assert [(kv["key"], kv["version"]) for kv in read["kvs"]] == [("/t/a", 2), ("/t/c", 1), ("/t/d", 1)]


def test_a_thousand_keys_and_their_prefix(cluster: SecureCluster, run_module: Run) -> None:
    keys = {f"/many/{number:04}": f"value {number}" for number in range(1100)}
    assert len(run_module("etcd_kv", keys=keys, **cluster.access())["created"]) == 1100
    assert run_module("etcd_kv", keys=keys, **cluster.access())["changed"] is False
    assert run_module("etcd_kv_info", prefixes=["/many/"], **cluster.access())["data"] == keys
    part = run_module("etcd_kv_info", prefixes=["/many/"], limit=7, keys_only=True, **cluster.access())
    assert (len(part["kvs"]), part["count"]) == (7, 1100)
    gone = run_module("etcd_kv", keys=[{"key": "/many/", "prefix": True, "state": "absent"}], **cluster.access())
    assert len(gone["deleted"]) == 1100
    assert gone["revision"] == part["revision"] + 1


def test_values_of_three_megabytes_go_in_several_transactions(cluster: SecureCluster, run_module: Run) -> None:
    keys = {f"/large/{number}": str(number) * 300_000 for number in range(10)}
    assert len(run_module("etcd_kv", keys=keys, **cluster.access())["created"]) == 10
    assert run_module("etcd_kv_info", prefixes=["/large/"], **cluster.access())["data"] == keys
    refused = run_module("etcd_kv", keys={"/large/x": "x" * 2_000_000}, **cluster.access())
    assert "etcdserver: request is too large" in refused["msg"]
    assert "--max-request-bytes" in refused["msg"]


def test_a_prefix_is_not_deleted_when_a_key_came_in_between(cluster: SecureCluster) -> None:
    client = plain_client(cluster)
    client.put(b"/race/1", b"x")
    wanted = [_etcd_kv.Wanted(b"/race/", None, True)]
    (step,) = _etcd_kv.plan(wanted, _etcd_kv.read(client, wanted, values=True))
    client.put(b"/race/2", b"came later")
    assert client.txn([step.compare], [step.operation]).succeeded is False
    (step,) = _etcd_kv.plan(wanted, _etcd_kv.read(client, wanted, values=True))
    assert client.txn([step.compare], [step.operation]).succeeded is True
    assert client.range(b"/race/", _etcd.prefix_end(b"/race/"), count_only=True).total == 0


def test_members_and_status(cluster: SecureCluster) -> None:
    client = plain_client(cluster)
    members = client.member_list()
    assert [(member.name, member.client_urls) for member in members] == [
        (member.name, (member.url,)) for member in cluster.members
    ]
    states = [client.status(url) for url in cluster.urls]
    assert sorted(status.member_id for status in states) == sorted(member.id for member in members)
    assert {status.leader for status in states} < {member.id for member in members}
    assert all(status.version.startswith("3.") and status.raft_index > 0 for status in states)


def test_clients_without_the_right_certificate_are_told_what_is_wrong(
    cluster: SecureCluster, run_module: Run, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    other = stranger.issue("other")
    for options, words in (
        ({"client_cert": "", "client_key": ""}, "client_cert"),
        ({"client_cert": str(other.cert), "client_key": str(other.key)}, "client_cert"),
        ({"ca_cert": str(stranger.cert)}, "its certificate does not verify (unable to get local issuer"),
        ({"client_key": str(other.key)}, "are not a PEM certificate and its unencrypted key (key values mismatch)"),
        ({"endpoints": [cluster.urls[0].replace("https", "http")]}, "write https://"),
    ):
        result = run_module("etcd_kv", keys={"/t/x": "1"}, **cluster.access(**options))
        assert words in result["msg"], options
        assert "exception" not in result


def test_a_member_that_dies_is_passed_over(cluster: SecureCluster, run_module: Run) -> None:
    victim = cluster.members[0]
    victim.kill()
    try:
        assert run_module("etcd_kv", keys={"/t/after": "death"}, **cluster.access())["changed"] is True
        # nobody answers for it, and its endpoint alone is not enough
        alone = run_module("etcd_kv", keys={"/t/after": "x"}, **cluster.access(endpoints=[victim.url]))
        assert "connection refused" in alone["msg"]
    finally:
        victim.start()
        cluster.wait(victim)


def test_without_a_majority_nothing_is_claimed(cluster: SecureCluster, run_module: Run) -> None:
    for member in cluster.members[:2]:
        member.kill()
    try:
        short = cluster.access(request_timeout=1.0, timeout=4.0)
        result = run_module("etcd_kv", keys={"/t/minority": "x"}, **short)
        assert result["failed"] is True
        assert "check that a majority of the members runs" in result["msg"]
    finally:
        for member in cluster.members[:2]:
            member.start()
        for member in cluster.members:
            cluster.wait(member)
    assert run_module("etcd_kv_info", keys=["/t/minority"], **cluster.access())["kvs"] == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SecureCluster]:
    yield from secure_cluster_or_skip(tmp_path / "small", 1)


def test_a_server_certificate_without_client_usage_is_explained(tmp_path: Path, run_module: Run) -> None:
    for cluster in secure_cluster_or_skip(tmp_path, 1, server_usages="serverAuth"):
        result = run_module("etcd_kv", keys={"/t/a": "1"}, **cluster.access(timeout=5))
        assert "must allow client authentication, too" in result["msg"]


def test_users_and_their_tokens(small: SecureCluster, run_module: Run) -> None:
    client = plain_client(small)
    admin = {"username": "root", "password": "correct-horse"}
    # off yet: a user does no harm
    assert run_module("etcd_kv", keys={"/t/a": "1"}, **small.access(**admin))["changed"] is True
    client.call("/auth/user/add", {"name": "root", "password": "correct-horse"}, write=True)
    client.call("/auth/role/add", {"name": "root"}, write=True)
    client.call("/auth/user/grant", {"user": "root", "role": "root"}, write=True)
    client.call("/auth/user/add", {"name": "ann", "password": "pass-of-ann"}, write=True)
    client.call("/auth/enable", {}, write=True)
    named = run_module("etcd_kv", keys={"/t/a": "2"}, **small.access(**admin))
    assert "refusal of a client certificate with a common name" in named["msg"]
    small.client = small.authority.issue("nameless", "clientAuth", "/O=flotilla")
    without = run_module("etcd_kv", keys={"/t/a": "2"}, **small.access())
    assert "its authentication is on: give username and password" in without["msg"]
    wrong = run_module("etcd_kv", keys={"/t/a": "2"}, **small.access(username="root", password="wrong-horse"))
    assert "correct username and password" in wrong["msg"]
    assert "wrong-horse" not in str(wrong)
    ann = run_module("etcd_kv", keys={"/t/a": "2"}, **small.access(username="ann", password="pass-of-ann"))
    assert "grant the user a role that allows it" in ann["msg"]
    right = run_module("etcd_kv", keys={"/t/a": "2"}, **small.access(**admin))
    assert right["updated"] == ["/t/a"]
    # members forget their tokens when they restart; the client fetches another
    kept = plain_client(small, **admin)
    assert kept.range(b"/t/a").kvs[0].value == b"2"
    small.members[0].kill()
    small.members[0].start()
    small.wait(small.members[0])
    assert kept.range(b"/t/a").kvs[0].value == b"2"


def test_as_ansible_runs_it(small: SecureCluster, tmp_path: Path) -> None:
    """Through a playbook: action group, check mode, diff; sensitive values show nowhere, however verbose it is."""
    values = {"/secret/pw": "swordfish-1", "/secret/key": "swordfish-2"}
    defaults = {"group/flotilla.cluster.etcd": small.access()}
    task = {"flotilla.cluster.etcd_kv": {"keys": "{{ secrets }}", "sensitive": True}}
    show = {"flotilla.cluster.etcd_kv": {"keys": {"/plain": "seen"}}}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "vars_files": [str(tmp_path / "secrets.json")],
        "module_defaults": defaults,
        "tasks": [{"name": "Write secrets", **task}, {"name": "Write a value", **show}],
    }
    (tmp_path / "secrets.json").write_text(json.dumps({"secrets": values}))
    (tmp_path / "play.json").write_text(json.dumps([play]))

    def run(*flags: str) -> str:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", *flags]
        done = subprocess.run(
            [*command, str(tmp_path / "play.json")],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
                "ANSIBLE_INJECT_INVOCATION": "1",
                "ANSIBLE_HOME": str(tmp_path / "home"),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    for flags, changed in ((("--check",), 2), ((), 2), ((), 0)):
        said = run("--diff", "-vvv", *flags)
        assert f"changed={changed} " in said
        assert "swordfish" not in said
        assert "hidden by sensitive=true" in said


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("backend"), "--enable-v2")


@pytest.fixture(scope="module")
def service(backend: EtcdProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiscoveryService]:
    yield from discovery_or_skip(tmp_path_factory.mktemp("discovery"), backend.url)


def test_three_members_find_each_other_by_a_token(service: DiscoveryService, run_module: Run, tmp_path: Path) -> None:
    program = binary("etcd", "etcd-server")
    made = run_module("etcd_discovery", url=service.url, size=3)
    token = made["token_url"]
    waiting = run_module("etcd_discovery", token=token, size=3)
    assert (waiting["status"], waiting["changed"]) == ("open", False)
    processes = []
    try:
        for number in (1, 2, 3):
            client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
            command = [
                str(program),
                *("--name", f"core-0{number}", "--data-dir", str(tmp_path / f"data{number}"), "--log-level", "error"),
                *("--listen-client-urls", client, "--advertise-client-urls", client, "--logger", "zap"),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--discovery", token, "--discovery-fallback", "exit"),
            ]
            with (tmp_path / f"log{number}").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        found = EtcdClusterClient([client], request_timeout=10, timeout=40)
        until_answered(found)
        assert [member.name for member in found.member_list()] == ["core-01", "core-02", "core-03"]
        full = run_module("etcd_discovery", token=token)
        assert sorted(member["name"] for member in full["members"]) == ["core-01", "core-02", "core-03"]
        assert full["status"] == "full"
        assert "tokens are for one cluster only" in full["summary"]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert run_module("etcd_discovery", token=token, state="absent")["changed"] is True
    assert run_module("etcd_discovery", token=token, state="absent")["changed"] is False
    unknown = run_module("etcd_discovery", token=token)
    assert unknown["msg"].endswith("the token is unknown to the service: create a new one")
    assert token.rpartition("/")[2] not in unknown["msg"]


def until_answered(client: EtcdClient) -> None:
    """Members that wait for each other take no connection yet."""
    while True:
        try:
            client.range(b"x")
        except ClusterError:
            if client.deadline.passed:
                raise
            time.sleep(0.2)
        else:
            return


def test_the_service_without_its_etcd(tmp_path: Path, run_module: Run) -> None:
    for lonely in discovery_or_skip(tmp_path, f"http://127.0.0.1:{free_port()}"):
        made = run_module("etcd_discovery", url=lonely.url, size=3)
        assert "the etcd behind the service is down or does not serve the v2 API" in made["msg"]
        read = run_module("etcd_discovery", url=lonely.url, token="ab" * 16)
        assert "most likely the etcd behind the discovery service is down" in read["msg"]
