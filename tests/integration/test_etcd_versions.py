# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What changes members and their data, on every minor version of etcd, and the table of versions against the programs.

etcd 3.4 is Debian's; later ones are built from their Go modules, where that can be done (tests/support/etcd_builds.py).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_versions as versions
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import run_module as run_module
from support.etcd import binary, free_port
from support.etcd_builds import VERSIONS, build
from support.secure_etcd import SecureCluster

pytestmark = pytest.mark.etcd
MINORS = ["3.4", *VERSIONS]
ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., dict[str, t.Any]]


def program(minor: str, name: str = "etcd") -> Path:
    """A program of a minor version, or the test is skipped."""
    if minor == "3.4":
        found = binary(name, "etcd-server" if name == "etcd" else "etcd-client")
        if found is None:
            pytest.skip(f"no {name} 3.4 from the distribution's packages")
        return found
    made = build(minor)
    if isinstance(made, str):
        pytest.skip(made)
    return made.folder / name


@pytest.mark.parametrize("minor", MINORS)
def test_the_table_of_options_is_what_the_program_knows(minor: str, tmp_path: Path) -> None:
    etcd = program(minor)

    def known(flag: str) -> bool:
        # the last option ends it in any case: nothing is started
        done = subprocess.run(
            [etcd, f"--{flag}=x", "--no-such-option=x"], capture_output=True, text=True, cwd=tmp_path, timeout=30
        )
        said = done.stdout + done.stderr
        assert done.returncode != 0
        return f"not defined: -{flag}\n" not in said

    flags = {flag: span for span, names in versions.FLAGS.items() for flag in names.split()}
    with ThreadPoolExecutor(2) as pool:
        told = dict(zip(flags, pool.map(known, flags)))
    assert told == {flag: since <= minor <= until for flag, (since, until) in flags.items()}


@pytest.fixture(params=MINORS)
def minor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster(minor: str, tmp_path: Path) -> Iterator[SecureCluster]:
    made = SecureCluster(program(minor), tmp_path / "cluster", 3)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def access(cluster: SecureCluster, **more: t.Any) -> dict[str, t.Any]:
    return cluster.access(**{"timeout": 30, **more})


def test_a_member_is_added_promoted_moved_to_and_removed(
    cluster: SecureCluster, minor: str, run_module: Run, tmp_path: Path
) -> None:
    here = access(cluster)
    peer = f"https://127.0.0.1:{free_port()}"
    check = run_module("etcd_member", peer_urls=[peer], _ansible_check_mode=True, _ansible_diff=True, **here)
    assert (check["changed"], check["member"]) == (True, None)
    added = run_module("etcd_member", peer_urls=[peer], _ansible_diff=True, **here)
    assert added["changed"] is True, added
    assert added["member"]["learner"] is True
    assert added["diff"]["after"].count("\n") == 4
    assert run_module("etcd_member", peer_urls=[peer], **here)["changed"] is False
    other = f"https://127.0.0.1:{free_port()}"
    refused = run_module("etcd_member", peer_urls=[other], **here)
    assert "was added and has not joined yet" in refused["msg"]
    early = run_module("etcd_member", peer_urls=[peer], state="promoted", **here)
    assert "has not joined yet" in early["msg"]

    fourth = cluster.join(program(minor), tmp_path / "m4", "m4", peer)
    try:
        fourth.start()
        end = time.monotonic() + 30
        while not run_module("etcd_member", peer_urls=[peer], **here)["member"]["client_urls"]:
            assert time.monotonic() < end, fourth.log.read_text()[-2000:]
            time.sleep(0.1)
        promoted = run_module("etcd_member", peer_urls=[peer], state="promoted", **here)
        assert (promoted["changed"], promoted["member"]["learner"]) == (True, False)
        assert run_module("etcd_member", name="m4", state="promoted", **here)["changed"] is False
        led = run_module("etcd_member", name="m4", state="leader", **here)
        assert (led["changed"], led["leader"]) == (True, "m4"), led
        assert run_module("etcd_member", name="m4", state="leader", **here)["changed"] is False
        # it leads: another one takes over first
        gone = run_module("etcd_member", name="m4", state="absent", **here)
        assert gone["changed"] is True, gone
        assert gone["members"] == ["m1", "m2", "m3"]
        assert run_module("etcd_member", name="m4", state="absent", **here)["changed"] is False
    finally:
        fourth.kill()
    leader = run_module("etcd_member", name="m1", state="present", peer_urls=["https://127.0.0.1:1"], **here)
    # its URL is put back before anything else uses it
    assert leader["changed"] is True, leader


def test_a_dead_member_is_removed_and_a_needed_one_is_not(cluster: SecureCluster, run_module: Run) -> None:
    here = access(cluster)
    cluster.members[0].kill()
    wrong = run_module("etcd_member", name="m2", state="absent", **here)
    assert "of the 2 voting members that are left 1 would answer" in wrong["msg"]
    blocked = run_module("etcd_member", peer_urls=["https://127.0.0.1:9"], **here)
    assert "m1 does not answer: bring it back, or remove it first" in blocked["msg"]
    removed = run_module("etcd_member", name="m1", state="absent", **here)
    assert removed.get("changed") is True, removed
    assert removed["members"] == ["m2", "m3"]


def test_a_snapshot_is_saved_verified_and_restored(
    cluster: SecureCluster, minor: str, run_module: Run, tmp_path: Path
) -> None:
    here = access(cluster)
    keys = {f"/s/{number:03}": "x" * 10_000 for number in range(200)}
    assert run_module("etcd_kv", keys=keys, **here)["changed"] is True
    path = tmp_path / "today.snapshot"
    check = run_module("etcd_snapshot", path=str(path), _ansible_check_mode=True, **here)
    assert (check["changed"], path.exists()) == (True, False)
    saved = run_module("etcd_snapshot", path=str(path), **here)
    assert saved["changed"] is True, saved
    assert (saved["size"], path.stat().st_mode & 0o777) == (path.stat().st_size, 0o600)
    assert saved["size"] > 2_000_000
    leader = run_module("etcd_member", name="m1", state="follower", _ansible_check_mode=True, **here)["leader"]
    assert saved["member"] != next(member.url for member in cluster.members if member.name == leader)
    assert run_module("etcd_snapshot", path=str(path), state="verified")["sha256"] == saved["sha256"]

    tool = str(program(minor, "etcdctl" if minor == "3.4" else "etcdutl"))
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    peer = f"https://127.0.0.1:{free_port()}"
    arguments = {
        "path": str(path),
        "state": "restored",
        "data_dir": str(data),
        "name": "r1",
        "initial_cluster": {"r1": peer},
        "token": "restored",
        "programs": [tool],
    }
    if minor == "3.4":
        assert "cannot raise the revision" in run_module("etcd_snapshot", **arguments)["msg"]
        arguments["bump_revision"] = False
    restored = run_module("etcd_snapshot", **arguments)
    assert restored["changed"] is True, restored
    assert run_module("etcd_snapshot", **arguments)["changed"] is False
    other = run_module("etcd_snapshot", **{**arguments, "token": "another"})
    assert "holds the data of a member already" in other["msg"]
    alone = cluster.join(program(minor), tmp_path / "restored", "r1", peer, data=data, others=False)
    try:
        alone.start()
        cluster.wait(alone)
        read = run_module("etcd_kv_info", prefixes=["/s/"], **access(cluster, endpoints=[alone.url]))
        assert read["data"] == keys
        assert (read["revision"] > 1_000_000_000) == (minor != "3.4")
    finally:
        alone.kill()

    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    assert "is damaged" in run_module("etcd_snapshot", path=str(path), state="verified")["msg"]


def test_a_survivor_without_a_majority_can_be_saved(cluster: SecureCluster, run_module: Run, tmp_path: Path) -> None:
    assert run_module("etcd_kv", keys={"/last": "words"}, **access(cluster))["changed"] is True
    for member in cluster.members[:2]:
        member.kill()
    here = access(cluster, request_timeout=2.0)
    saved = run_module("etcd_snapshot", path=str(tmp_path / "last.snapshot"), **here)
    assert saved["changed"] is True, saved
    assert saved["member"] == cluster.members[2].url


@pytest.fixture
def full(minor: str, tmp_path: Path) -> Iterator[SecureCluster]:
    made = SecureCluster(program(minor), tmp_path / "full", 3, flags=("--quota-backend-bytes", str(16 << 20)))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_a_full_cluster_is_brought_back(full: SecureCluster, run_module: Run) -> None:
    here = access(full)
    for turn in range(40):
        done = run_module("etcd_kv", keys={"/f": f"{turn}" * 1 + "x" * 900_000}, **here)
        if done.get("failed"):
            break
    assert "database space exceeded" in done["msg"]
    seen = run_module("etcd_cluster_info", details=True, **here)
    assert "NOSPACE" in "; ".join(seen["problems"])
    assert {item["alarm"] for item in seen["alarms"]} == {"NOSPACE"}
    assert {item["name"] for item in seen["alarms"]} <= {"m1", "m2", "m3"}
    wanted = {"keep_revisions": 0, "defragment": True, "unused": 0.1, "least_bytes": 0, "disarm": ["NOSPACE"]}
    check = run_module("etcd_maintenance", **wanted, _ansible_check_mode=True, **here)
    assert check["changed"] is True, check
    assert "NOSPACE" in "; ".join(run_module("etcd_cluster_info", **here)["problems"])
    mended = run_module("etcd_maintenance", **wanted, **here)
    assert mended["compacted"] > 0, mended
    assert [item["after"] < item["before"] / 2 for item in mended["defragmented"]] == [True] * 3
    assert {item["alarm"] for item in mended["disarmed"]} == {"NOSPACE"}
    assert run_module("etcd_maintenance", **wanted, **here)["changed"] is False
    assert run_module("etcd_kv", keys={"/f": "room again"}, **here)["changed"] is True
    assert run_module("etcd_cluster_info", **here)["healthy"] is True


def test_a_key_is_waited_for(cluster: SecureCluster, run_module: Run) -> None:
    here = access(cluster)

    def later(seconds: float, value: bytes) -> threading.Thread:
        def write() -> None:
            time.sleep(seconds)
            body = {"key": base64.b64encode(b"/w").decode(), "value": base64.b64encode(value).decode()}
            cluster.post("/v3/kv/put", body)

        thread = threading.Thread(target=write)
        thread.start()
        return thread

    thread = later(0.7, b"ready")
    found = run_module("etcd_wait", key="/w", value="ready", **here)
    thread.join()
    assert found["value"] == "ready", found
    assert 0.3 < found["waited"] < 5
    assert run_module("etcd_wait", key="/w", **here)["waited"] < 1
    late = run_module("etcd_wait", key="/w", value="never", **{**here, "timeout": 1.0})
    assert "did not come within 1 s" in late["msg"], late


@pytest.fixture
def single(minor: str, tmp_path: Path) -> Iterator[SecureCluster]:
    made = SecureCluster(program(minor), tmp_path / "single", 1)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_keys_are_swapped_pruned_and_end_with_their_lease(
    single: SecureCluster, run_module: Run, tmp_path: Path
) -> None:
    here = access(single)
    binary_file = tmp_path / "binary"
    binary_file.write_bytes(bytes(range(256)))
    first = [
        {"key": "/k/text", "value": "1", "if_revision": 0},
        {"key": "/k/binary", "value_file": str(binary_file)},
        {"key": "/k/old", "value": "x"},
        {"key": "/short", "value": "lived", "ttl": 3},
    ]
    made = run_module("etcd_kv", keys=first, **here)
    assert made.get("created") == ["/k/binary", "/k/old", "/k/text", "/short"], made
    assert run_module("etcd_kv", keys=first, **here)["changed"] is False
    read = run_module("etcd_kv_info", prefixes=["/"], **here)
    kvs = {item["key"]: item for item in read["kvs"]}
    assert base64.b64decode(kvs["/k/binary"]["value_base64"]) == bytes(range(256))
    assert kvs["/short"]["lease"] != 0

    swap = {"keys": [{"key": "/k/text", "value": "2", "if_revision": kvs["/k/text"]["mod_revision"]}]}
    assert run_module("etcd_kv", **swap, _ansible_check_mode=True, **here)["updated"] == ["/k/text"]
    assert run_module("etcd_kv", **swap, **here)["updated"] == ["/k/text"]
    assert run_module("etcd_kv", **swap, **here)["changed"] is False
    late = {"keys": [{"key": "/k/text", "value": "3", "if_value": "1"}, {"key": "/k/more", "value": "x"}]}
    refused = run_module("etcd_kv", **late, **here)
    assert "keys entry '/k/text' has '2' since revision" in refused["msg"]
    skipped = run_module("etcd_kv", **late, on_mismatch="skip", **here)
    assert (skipped["left_alone"], skipped["created"]) == (["/k/text"], ["/k/more"])

    wanted = {"keys": {"/k/text": "2", "/k/new": "n"}, "prune": ["/k/"]}
    check = run_module("etcd_kv", **wanted, _ansible_check_mode=True, _ansible_diff=True, **here)
    done = run_module("etcd_kv", **wanted, _ansible_diff=True, **here)
    for result in (check, done):
        assert (result["created"], result["deleted"]) == (["/k/new"], ["/k/binary", "/k/more", "/k/old"])
        assert sorted(result["diff"]["before"]) == ["/k/binary", "/k/more", "/k/old"]
    assert run_module("etcd_kv", **wanted, **here)["changed"] is False

    end = time.monotonic() + 20
    while run_module("etcd_kv_info", keys=["/short"], **here)["kvs"]:
        assert time.monotonic() < end, "the key outlives its lease"
        time.sleep(0.2)
    brief = run_module("etcd_kv", keys=[{"key": "/s", "value": "x", "ttl": 1}], **here)
    assert "leases of this cluster live 2 s at least; give 2 or more" in brief["msg"]


def test_hundreds_of_keys_are_synced_and_kept_alive(single: SecureCluster, run_module: Run) -> None:
    here = access(single)
    keys = [{"key": f"/many/{number:03}", "value": "x" * 5000, "ttl": 600} for number in range(600)]
    assert len(run_module("etcd_kv", keys=keys, **here)["created"]) == 600
    again = run_module("etcd_kv", keys=keys, **here)
    assert again["changed"] is False
    fewer = run_module("etcd_kv", keys=keys[::2], prune=["/many/"], **here)
    assert len(fewer["deleted"]) == 300
    kept = run_module("etcd_kv_info", prefixes=["/many/"], keys_only=True, **here)
    assert len({item["lease"] for item in kept["kvs"]}) == 1


def test_users_roles_and_passwords(single: SecureCluster, run_module: Run) -> None:
    nameless = single.authority.issue("nameless", "clientAuth", subject="/O=flotilla")
    here = access(single, client_cert=str(nameless.cert), client_key=str(nameless.key))
    root = {"username": "root", "password": "secret of root"}
    permissions = [
        {"key": "/app/", "prefix": True, "access": "readwrite"},
        {"key": "/queue/a", "range_end": "/queue/n", "access": "write"},
        {"key": "/motd"},
    ]
    # before there is authentication
    role = {"name": "app", "permissions": permissions}
    check = run_module("etcd_role", **role, _ansible_check_mode=True, _ansible_diff=True, **here)
    made = run_module("etcd_role", **role, _ansible_diff=True, **here)
    for result in (check, made):
        assert result.get("changes", [result])[0] == "role app is new"
        assert result["diff"]["before"]["roles"] == {}
        assert result["diff"]["after"]["roles"]["app"] == [
            "READ /motd",
            "READWRITE /app/*",
            "WRITE /queue/a to /queue/n",
        ]
    assert run_module("etcd_role", **role, **here)["changed"] is False
    user = {"name": "ann", "new_password": "first secret", "roles": ["app"]}
    assert run_module("etcd_user", **user, **here)["changes"] == ["user ann is new", "user ann gets role app"]
    assert run_module("etcd_user", **user, update_password="on_create", **here)["changed"] is False
    # nobody can tell yet
    assert run_module("etcd_user", **user, **here)["changes"] == ["user ann gets another password"]
    users = [{"name": "root", "password": "secret of root"}]
    assert run_module("etcd_auth", users=users, **here)["changes"][-1] == "authentication is switched on"

    here.update(root)
    assert run_module("etcd_user", **user, **here)["changed"] is False
    assert run_module("etcd_role", **role, **here)["changed"] is False
    user["new_password"] = "second secret"
    assert run_module("etcd_user", **user, update_password="on_create", **here)["changed"] is False
    predicted = run_module("etcd_user", **user, _ansible_check_mode=True, _ansible_diff=True, **here)
    changed = run_module("etcd_user", **user, _ansible_diff=True, **here)
    assert changed.get("changes") == predicted["changes"] == ["user ann gets another password"], changed
    assert "secret" not in str(changed["diff"])
    assert run_module("etcd_user", **user, **here)["changed"] is False

    ann = {**here, "username": "ann", "password": "second secret"}
    keys = [{"key": "/app/x", "value": "1"}]
    assert run_module("etcd_kv", keys=keys, **ann)["created"] == ["/app/x"]
    assert "permission denied" in run_module("etcd_kv", keys={"/motd": "x"}, **ann)["msg"]
    assert run_module("etcd_kv_info", keys=["/motd"], **ann)["kvs"] == []
    assert (
        "authentication failed"
        in run_module("etcd_kv_info", keys=["/motd"], **{**ann, "password": "first secret"})["msg"]
    )
    role["permissions"] = [{"key": "", "prefix": True}]
    lost = run_module("etcd_role", **role, **here)["changes"]
    assert "role app may READ all keys" in lost
    assert "role app may no longer READWRITE /app/*" in lost
    assert run_module("etcd_role", **role, **here)["changed"] is False
    assert run_module("etcd_kv_info", prefixes=["/"], **ann)["data"] == {"/app/x": "1"}
    assert run_module("etcd_user", name="ann", roles=[], **here)["changes"] == ["user ann loses role app"]
    unknown = run_module("etcd_user", name="ann", roles=["nobody"], **here)
    assert "role name not found" in unknown["msg"]

    assert run_module("etcd_user", name="cert", **here)["changes"] == ["user cert is new"]
    assert run_module("etcd_user", name="cert", **here)["changed"] is False
    refused = run_module("etcd_user", name="cert", new_password="some secret", **here)
    assert "user cert was made without a password" in refused["msg"], refused
    for name in ("cert", "ann"):
        assert run_module("etcd_user", name=name, state="absent", **here)["changes"] == [f"user {name} is removed"]
        assert run_module("etcd_user", name=name, state="absent", **here)["changed"] is False
    assert run_module("etcd_role", name="app", state="absent", **here)["changes"] == ["role app is removed"]
    assert "failed" in run_module("etcd_user", name="root", state="absent", **here)
    # who changes its own password is logged out by it
    own = run_module("etcd_user", name="root", new_password="another secret", roles=["root"], **here)
    assert own.get("changes") == ["user root gets another password"], own
    here["password"] = "another secret"
    assert run_module("etcd_user", name="root", new_password="another secret", **here)["changed"] is False


def test_lookups_read_it_from_variables_and_from_the_environment_of_etcdctl(
    single: SecureCluster, run_module: Run, tmp_path: Path
) -> None:
    here = access(single)
    keys = {f"/app/{number:04}": f"value {number}" for number in range(1100)}
    keys["/listen"] = "{{ not_a_template }}"
    assert run_module("etcd_kv", keys=keys, **here)["changed"] is True
    asks = {
        "one": "{{ lookup('flotilla.cluster.etcd', '/listen') }}",
        "several": "{{ query('flotilla.cluster.etcd', '/app/0007', '/none', missing='none') }}",
        "below": "{{ lookup('flotilla.cluster.etcd_prefix', '/app/', relative=true) }}",
    }
    write = {"ansible.builtin.copy": {"content": "{{ asked | to_json }}", "dest": str(tmp_path / "found")}}
    play = [{"hosts": "localhost", "gather_facts": False, "vars": {"asked": asks}, "tasks": [write]}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    variables = {f"flotilla_etcd_{name}": here[name] for name in ("client_cert", "client_key")}
    environment = {"ETCDCTL_ENDPOINTS": ",".join(here["endpoints"]), "ETCDCTL_CACERT": here["ca_cert"]}
    subprocess.run(
        [*command, str(tmp_path / "play.yml"), "-e", json.dumps(variables)],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=120,
    )
    found = json.loads((tmp_path / "found").read_text())
    assert found["one"] == "{{ not_a_template }}"
    assert found["several"] == ["value 7", None]
    assert found["below"] == {f"{number:04}": f"value {number}" for number in range(1100)}


def test_a_cluster_tells_what_it_will_run_out_of(
    full: SecureCluster, minor: str, run_module: Run, tmp_path: Path
) -> None:
    here = access(full)
    pki = full.authority.directory
    local = {"data_dir": str(tmp_path), "certificates": [str(pki / "peer.crt"), str(pki / "authority.crt"), "/none"]}
    # certificates of these tests end after two days
    kind = {"certificate_days": 1, "authority_days": 1, "disk": 1.0}
    assert run_module("etcd_kv", keys={f"/f/{n}": "x" * 50_000 for n in range(20)}, **here)["changed"] is True
    # a member tells the size of its file, to which it writes at intervals
    give_up = time.monotonic() + 10
    while min(sizes := [m["db_size"] for m in run_module("etcd_cluster_info", **here)["members"]]) < 1_000_000:
        assert time.monotonic() < give_up, sizes
    seen = run_module("etcd_cluster_info", limits=kind, hash=True, **local, **here)
    assert seen["findings"] == ["the certificate /none cannot be read: No such file or directory"], seen
    assert seen["leader"] in ("m1", "m2", "m3")
    assert {member["quota"] for member in seen["members"]} == {16 << 20}
    assert all(member["certificate_until"].startswith("20") for member in seen["members"])
    hashes = {member["hash"] for member in seen["members"]}
    assert hashes == {""} if minor == "3.4" else len(hashes) == 1 and hashes != {""}
    assert seen["local"]["certificates"][0]["until"]

    strict = {"certificate_days": 3, "authority_days": 3, "quota": 0.05, "disk": 0.0001}
    found = run_module("etcd_cluster_info", limits=strict, **local, **here)["findings"]
    for member in full.members:
        assert sum(one.startswith(f"{member.name}: its database has ") for one in found) == 1, found
        assert sum(one.startswith(f"{member.name}: the certificate of {member.url} ends on") for one in found) == 1, (
            found
        )
    assert sum(one.startswith(f"the certificate {pki}/peer.crt ends on ") for one in found) == 1, found
    assert sum(one.startswith(f"the authority {pki}/authority.crt ends on ") for one in found) == 1, found
    assert sum(one.startswith(f"the disk of {tmp_path} is ") for one in found) == 1, found
    only_host = run_module("etcd_cluster_info", cluster=False, limits=strict, **local, **here)
    assert (only_host["members"], len(only_host["findings"])) == ([], 4)

    full.members[2].kill()
    down = run_module("etcd_cluster_info", limits=kind, **here)
    assert len(down["findings"]) == 1
    assert down["findings"][0].startswith("m3 does not answer")
