# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of etcd for the parts of fleet: what each may write, on a real etcd, and that a fleet of them works."""

from __future__ import annotations

import asyncio
import sys
import time
import typing as t
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.fleet_etcd_roles import fleet_etcd_roles
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_access as host_access
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import run_module as run_module
from support.etcd import EtcdProcess, etcd_or_skip
from support.secure_etcd import SecureCluster, secure_cluster_or_skip

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fleet"))

from fakes import FakeMachine

from flotilla_fleet import etcd as e
from flotilla_fleet.registry import Keys
from flotilla_fleet.store import StoreError
from flotilla_fleet.unitfile import parse_unit

pytestmark = pytest.mark.etcd

Run = Callable[..., dict[str, t.Any]]
PREFIX = "/t/"
IDS = [letter * 32 for letter in "abc"]
PARTS = ("fleet-engine", "fleet-api")
DENIED = 7


def secret(name: str) -> str:
    return f"secret of {name}"


def wanted(machines: Sequence[str] = IDS) -> dict[str, t.Any]:
    """What role fleet gives to the module."""
    names = ["root", *PARTS, *(f"fleet-machine-{machine}" for machine in machines)]
    return {
        "roles": fleet_etcd_roles(machines, PREFIX),
        "users": [{"name": name, "password": secret(name)} for name in names],
        "username": "root",
        "password": secret("root"),
    }


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("auth"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    yield from secure_cluster_or_skip(tmp_path_factory.mktemp("secure"), 1)


@pytest.fixture
def closed(etcd: EtcdProcess, run_module: Run) -> EtcdProcess:
    """etcd with authentication on."""
    result = run_module("etcd_auth", endpoints=[etcd.url], **wanted())
    assert "msg" not in result, result["msg"]
    return etcd


@pytest.fixture
async def client(closed: EtcdProcess) -> AsyncIterator[e.Etcd]:
    made = e.Etcd([closed.url])
    made.probe = Keys(PREFIX).leader
    yield made
    await made.close()


def test_certificates_without_a_common_name_and_a_user_get_in(secure: SecureCluster, run_module: Run) -> None:
    nameless = secure.authority.issue("nameless", "clientAuth", subject="/")
    access = {"endpoints": secure.urls, "ca_cert": str(secure.authority.cert)}
    named = {**access, "client_cert": str(secure.client.cert), "client_key": str(secure.client.key)}
    access |= {"client_cert": str(nameless.cert), "client_key": str(nameless.key)}
    predicted = run_module("etcd_auth", **access, **wanted(), _ansible_check_mode=True)
    assert predicted["changed"] is True
    made = run_module("etcd_auth", **access, **wanted())
    assert made["changes"] == predicted["changes"]
    assert made["changes"][-1] == "authentication is switched on"
    assert "user fleet-api is new" in made["changes"]
    assert "secret" not in str(made)
    again = run_module("etcd_auth", **access, **wanted())
    assert (again["changed"], again["changes"]) == (False, [])
    refused = run_module("etcd_kv_info", **named, keys=["/x"], username="root", password=secret("root"))
    assert "refusal of a client certificate with a common name" in refused["msg"]
    assert "user name is empty" in run_module("etcd_kv_info", **access, keys=["/x"])["msg"]
    wrong = run_module("etcd_auth", **access, **{**wanted(), "password": "wrong"})
    assert "authentication failed" in wrong["msg"]
    cluster = run_module("etcd_cluster_info", **access)
    assert cluster["healthy"] is True


def test_a_half_done_call_is_finished_and_a_new_machine_gets_its_user(etcd: EtcdProcess, run_module: Run) -> None:
    first = wanted(IDS[:1])
    half = {**first, "users": first["users"][:2], "enabled": False}
    assert run_module("etcd_auth", endpoints=[etcd.url], **half)["changed"] is True
    assert run_module("etcd_auth", endpoints=[etcd.url], **first)["changes"][-1] == "authentication is switched on"
    assert run_module("etcd_auth", endpoints=[etcd.url], **first)["changed"] is False
    more = run_module("etcd_auth", endpoints=[etcd.url], **wanted())["changes"]
    assert f"user fleet-machine-{IDS[2]} is new" in more
    # a permission that was added by hand is taken away
    extra = {"name": "fleet-api", "permissions": [{"key": "/", "prefix": True, "access": "readwrite"}]}
    run_module("etcd_auth", endpoints=[etcd.url], **{**wanted(), "roles": [extra]})
    assert (
        "role fleet-api may no longer READWRITE /*"
        in run_module("etcd_auth", endpoints=[etcd.url], **wanted())["changes"]
    )


def test_users_of_machines_that_left_are_removed(etcd: EtcdProcess, run_module: Run) -> None:
    """Not of those that are named or present, and nobody's that fleet has not made."""
    others = ["fleet-machine-web", f"fleet-machine-{IDS[0]}-old", "app"]
    made = wanted()
    another = f"fleet-machine-{'d' * 32}"
    others.append(another)
    made["users"] += [{"name": name, "password": secret(name)} for name in others]
    made["roles"] += [{"name": name, "permissions": []} for name in others if name != another]
    made["roles"] += [role for role in fleet_etcd_roles(["d" * 32], "/u/") if role["name"] == another]
    assert "msg" not in run_module("etcd_auth", endpoints=[etcd.url], **made)
    access = {"endpoints": [etcd.url], "username": "root", "password": secret("root"), "prefix": PREFIX}
    presence = Keys(PREFIX).presence(IDS[1])
    root = {"username": "root", "password": secret("root")}
    run_module("etcd_kv", endpoints=[etcd.url], **root, keys={presence: "{"})
    assert run_module("fleet_etcd_users", **access, machines=[IDS[0], IDS[2]])["changed"] is False
    predicted = run_module(
        "fleet_etcd_users", **access, machines=[IDS[0]], _ansible_check_mode=True, _ansible_diff=True
    )
    assert predicted["removed"] == [IDS[2]]
    gone = f"fleet-machine-{IDS[2]}"
    assert predicted["diff"] == {"before": f"user {gone}\nrole {gone}\n", "after": ""}
    assert run_module("etcd_auth", endpoints=[etcd.url], **made)["changed"] is False, "check mode has changed something"
    done = run_module("fleet_etcd_users", **access, machines=[IDS[0]])
    assert (done["changed"], done["removed"]) == (True, [IDS[2]])
    assert run_module("fleet_etcd_users", **access, machines=[IDS[0]]) == {**done, "changed": False, "removed": []}
    refused = run_module("etcd_kv_info", endpoints=[etcd.url], keys=["/x"], username=gone, password=secret(gone))
    assert "authentication failed" in refused["msg"]
    again = run_module("etcd_auth", endpoints=[etcd.url], **made)["changes"]
    assert again[0] == f"role {gone} is new"
    assert not [text for text in again if gone not in text], "more was removed than what fleet had made"
    run_module("etcd_kv", endpoints=[etcd.url], **root, keys=[presence], state="absent")
    wrong = run_module("fleet_etcd_users", **access, machines=["core-01"])
    assert "'core-01', which is no machine id" in wrong["msg"]


def test_a_service_makes_the_same_users_without_any_library(secure: SecureCluster, run_module: Run) -> None:
    """What host_service does in site.yml, on a host that has nothing but Python, is what the module does."""
    nameless = secure.authority.issue("plain", "clientAuth", subject="/")
    access = {"ca_cert": str(secure.authority.cert)}
    access |= {"client_cert": str(nameless.cert), "client_key": str(nameless.key)}
    both = {"endpoints": ["https://127.0.0.1:1", *secure.urls], **access}
    option = host_access.checked({**both, **wanted(), "machines": IDS, "prefix": PREFIX})
    host_access.make(option, time.monotonic() + 20, False)
    assert run_module("etcd_auth", **both, **wanted())["changed"] is False
    fewer = host_access.checked({**both, **wanted(IDS[:2]), "machines": IDS[:2], "prefix": PREFIX})
    foreseen = host_access.make(fewer, time.monotonic() + 20, True)
    done = host_access.make(fewer, time.monotonic() + 20, False)
    assert foreseen == done
    assert done.removed == [IDS[2]]
    assert host_access.make(fewer, time.monotonic() + 20, False).changes == []
    off = host_access.checked({**both, "username": "root", "password": secret("root"), "enabled": False})
    assert host_access.make(off, time.monotonic() + 20, False).changes == ["authentication is switched off"]
    assert host_access.make(off, time.monotonic() + 20, False).changes == []
    assert host_access.make(fewer, time.monotonic() + 20, False).changes == ["authentication is switched on"]
    wrong = host_access.checked({**both, **wanted(), "password": "wrong"})
    with pytest.raises(ClusterError, match="authentication failed"):
        host_access.make(wrong, time.monotonic() + 20, False)
    nobody = host_access.checked({**both, **wanted(), "endpoints": ["https://127.0.0.1:1"]})
    with pytest.raises(ClusterError, match="connection refused"):
        host_access.make(nobody, time.monotonic() + 0.5, False)


def test_root_is_needed(run_module: Run) -> None:
    result = run_module("etcd_auth", endpoints=["http://127.0.0.1:1"], users=[{"name": "a", "password": "b"}])
    assert "users has no root with the role root" in result["msg"]


def writes_of(keys: Keys) -> dict[str, list[str]]:
    """Keys by the only parts that may write them; "a" is the machine a."""
    machine = IDS[0]
    return {
        "a": [keys.presence(machine), keys.state(machine, "x.service"), f"{PREFIX}answer/{machine}/1/0"],
        "fleet-engine": [keys.leader, keys.target("x.service"), keys.assign(machine, "x.service")],
        "fleet-api": [keys.unit("x.service"), keys.metadata(machine, "k"), keys.drain(machine)],
        "": [f"{PREFIX}other", "/elsewhere", keys.presence(IDS[1]), keys.state(IDS[1], "x.service"), f"{PREFIX}unit"],
    }


@pytest.mark.parametrize("part", ["a", *PARTS])
async def test_each_part_writes_its_own_keys_only(client: e.Etcd, part: str) -> None:
    name = part if part in PARTS else f"fleet-machine-{IDS[0]}"
    user = client.as_user(name, secret(name))
    assert (await user.prefix(PREFIX)).revision > 0
    for owner, keys in writes_of(Keys(PREFIX)).items():
        for key in keys:
            for operation in (e.op_put(key, "x"), e.op_delete(key)):
                if owner == part or (part == "fleet-api" and key.startswith(f"{PREFIX}answer/")):
                    await user.txn([], [operation])
                    continue
                with pytest.raises(e.EtcdError) as refused:
                    await user.txn([], [operation])
                assert refused.value.code == DENIED, key
    with pytest.raises(e.EtcdError):
        await user.range("/elsewhere")


async def test_a_machine_cannot_end_the_lease_of_another(client: e.Etcd) -> None:
    names = [f"fleet-machine-{machine}" for machine in IDS[:2]]
    mine, other = (client.as_user(name, secret(name)) for name in names)
    lease = await mine.lease_grant(30)
    await mine.txn([], [e.op_put(Keys(PREFIX).presence(IDS[0]), "x", lease)])
    with pytest.raises(e.EtcdError) as refused:
        await other.lease_revoke(lease)
    assert refused.value.code == DENIED
    await mine.lease_revoke(lease)


async def until(what: Callable[[], bool], words: str) -> None:
    for _try in range(1000):
        if what():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(words)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdProcess]:
    """An etcd that knows no users yet."""
    yield from etcd_or_skip(tmp_path / "etcd")


@pytest.fixture
async def machines(server: EtcdProcess, tmp_path: Path) -> AsyncIterator[list[FakeMachine]]:
    """Three machines whose parts have users."""
    made = []
    for machine in IDS:
        parts = {"machine": f"fleet-machine-{machine}", "engine": "fleet-engine", "api": "fleet-api"}
        logins = {part: (name, secret(name)) for part, name in parts.items()}
        made.append(FakeMachine(machine[0], [server.url], tmp_path / machine[0], users=logins))
        await made[-1].start()
    yield made
    for one in made:
        await one.stop()


async def test_a_fleet_of_users_lives_through_authentication_and_a_restart_of_etcd(
    server: EtcdProcess, machines: list[FakeMachine], run_module: Run
) -> None:
    """As in a play it starts before there are users; and a member that restarts has forgotten who they are."""

    async def run(name: str) -> None:
        options = parse_unit("[Service]\nExecStart=/bin/true\n")
        for _try in range(20):
            # the first request after a restart of the only etcd there is finds its connection broken
            with suppress(StoreError):
                await machines[0].registry.put_unit(name, options, "launched", None)
                break
        await until(lambda: sum(name in machine.systemd.active for machine in machines) == 1, f"{name} runs")

    await until(lambda: all(machine.presence.lease for machine in machines), "machines are present")
    await run("before.service")
    result = await asyncio.to_thread(run_module, "etcd_auth", endpoints=[server.url], **wanted())
    assert "msg" not in result, result["msg"]
    await run("after.service")
    lease = machines[1].presence.lease
    server.kill()
    server.start()
    await run("again.service")
    assert machines[1].presence.lease is lease
    await machines[1].restart()
    await until(lambda: machines[1].presence.lease is not None, "a machine comes back")
    await run("last.service")
    assert all(not machine.systemd.stops for machine in machines)
