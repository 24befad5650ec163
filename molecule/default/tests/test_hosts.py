# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each host: services that run and come back after a boot, keys that nobody else reads, and no port too many."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from testinfra.host import Host

SERVICES = ("etcd.service", "docker.service", "fleet.service")
KEYS = {
    "etcd-peer.key": "etcd",
    "etcd-server.key": "etcd",
    "etcd-client.key": "root",
}


def test_services_run_now_and_after_a_boot(host: Host) -> None:
    names = " ".join(SERVICES)
    for question, answer in (("is-active", "active"), ("is-enabled", "enabled")):
        said = host.run(f"systemctl {question} {names}").stdout.split()
        journal = "journalctl --no-pager --lines 50 --unit " + " --unit ".join(SERVICES)
        assert said == [answer] * len(SERVICES), host.run(journal).stdout


def test_nothing_has_failed(host: Host) -> None:
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_keys_are_read_by_their_users_alone(host: Host) -> None:
    found = host.check_output("find /etc/flotilla/pki -name '*.key' -printf '%f %m %u %g\\n'").splitlines()
    assert sorted(found) == sorted(f"{name} 400 {user} {user}" for name, user in KEYS.items())


def test_authorities_keys_are_not_on_hosts(host: Host) -> None:
    assert host.check_output("find /etc /var/lib /root /tmp -xdev -name '*-ca.key' -o -xdev -name '*.csr'") == ""


def test_no_private_key_is_anywhere_else(host: Host) -> None:
    """ssh's own keys are the host's."""
    places = "/etc /root /home /opt /srv /tmp /usr/local /var/lib /var/log /var/tmp"
    found = host.run(
        f"grep --recursive --files-with-matches --binary-files=without-match 'PRIVATE KEY-' {places}"
    ).stdout
    others = [path for path in found.split() if not path.startswith(("/etc/flotilla/pki/", "/etc/ssh/ssh_host_"))]
    assert [path for path in others if not path.startswith("/var/lib/docker/")] == []


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/var/lib/etcd", "700 etcd etcd"),
        ("/var/lib/etcd/member", "700 etcd etcd"),
        ("/etc/flotilla/pki", "755 root root"),
        ("/etc/systemd/system/etcd.service", "644 root root"),
        ("/etc/flotilla/etcdctl.env", "644 root root"),
        ("/etc/fleet/fleet.conf", "644 root root"),
        ("/etc/fleet/etcd-credentials", "600 root root"),
    ],
)
def test_data_and_configuration_belong_to_those_who_use_them(host: Host, path: str, access: str) -> None:
    assert host.check_output("stat --format '%%a %%U %%G' %s", path) == access


def test_authorities_keys_are_encrypted_on_the_controller() -> None:
    keys = list(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "pki").glob("*.key"))
    assert {key.name for key in keys} == {"etcd-client-ca.key", "etcd-peer-ca.key"}
    for key in keys:
        assert key.stat().st_mode & 0o777 == 0o600
        with pytest.raises(TypeError, match="assword"):
            load_pem_private_key(key.read_bytes(), password=None)


def test_passwords_are_for_those_who_need_them(host: Host, passwords: dict[str, str], replayed: str) -> None:
    """A host has those of its own parts, in one file; root's is on the controller; nobody prints or logs any."""
    machine = host.file("/etc/machine-id").content_string.strip()
    own = {"fleet-engine", "fleet-api", f"fleet-machine-{machine}"}
    assert len(passwords) == 6
    kept = host.file("/etc/fleet/etcd-credentials").content_string
    assert {name for name, password in passwords.items() if password in kept} == own
    patterns = " ".join(f"-e {password}" for password in passwords.values())
    found = host.check_output(f"grep -rlF {patterns} /etc /root /tmp /run/flotilla /var/tmp /var/log || true")
    assert found.split() == ["/etc/fleet/etcd-credentials"]
    for name, password in passwords.items():
        assert password not in replayed, name


def test_passwords_are_kept_for_their_owner_alone() -> None:
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "pki/etcd-users")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_no_port_is_open_that_nobody_asked_for(host: Host) -> None:
    """Every listener of the network is a known one; the ones on loopback are out of reach."""
    address = host.ansible.get_variables()["ansible_host"]
    wanted = {
        ("tcp", "any", 22, "sshd"),
        ("tcp", address, 2379, "etcd"),
        ("tcp", address, 2380, "etcd"),
    }
    if host.check_output("docker ps --quiet --filter name=^hello$"):
        wanted.add(("tcp", "any", 8080, "docker-proxy"))
    found = set()
    for line in host.check_output("ss --no-header --listening --numeric --tcp --udp --processes").splitlines():
        protocol, _, _, _, local, _, *process = line.split()
        where, _, port = local.rpartition(":")
        where = where.strip("[]").partition("%")[0]
        if where == "*" or ipaddress.ip_address(where).is_unspecified:
            where = "any"
        elif ipaddress.ip_address(where).is_loopback:
            continue
        found.add((protocol, where, int(port), process[0].split('"')[1] if process else ""))
    assert found == wanted
